"""The ageing of a tree: the same for everybody who is measured on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.bench.ageing import Ageing


@pytest.fixture
def source(tmp_path: Path) -> Path:
    top = tmp_path / "source"
    for folder in range(5):
        (top / f"{folder}").mkdir(parents=True)
        for file in range(10):
            (top / f"{folder}" / f"{file}").write_bytes(b"%d %d\n" % (folder, file) * 100)
    (top / "link").symlink_to("0")
    return top


def content(top: Path) -> dict[str, bytes]:
    return {str(p.relative_to(top)): p.read_bytes() for p in top.rglob("*") if p.is_file()}


def test_the_first_version_is_the_source(tmp_path: Path, source: Path) -> None:
    ageing = Ageing(source, tmp_path / "tree")
    ageing.begin()
    assert content(ageing.top) == {n: d for n, d in content(source).items() if "link" not in n}


def test_two_trees_age_alike(tmp_path: Path, source: Path) -> None:
    one, other = Ageing(source, tmp_path / "one"), Ageing(source, tmp_path / "other")
    seen = []
    for ageing in (one, other):
        ageing.begin()
        versions = []
        for _ in range(6):
            ageing.change(15)
            versions.append(content(ageing.top))
        seen.append(versions)
    assert seen[0] == seen[1]
    assert all(before != after for before, after in zip(seen[0], seen[0][1:], strict=False))


def test_only_so_many_bytes_are_taken(tmp_path: Path, source: Path) -> None:
    ageing = Ageing(source, tmp_path / "tree", bytes_max=5000)
    ageing.begin()
    sizes = [len(data) for data in content(ageing.top).values()]
    assert 4000 < sum(sizes) <= 5000
