"""Delta points in mounts: one by itself and among all, as the fulls that they show."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mount.mounting import mounted
from tests.support import command
from tests.support.compare import differences
from tests.support.template import made, template

__all__ = ["made", "template"]


@pytest.fixture
def source(made: command.Repository, tmp_path: Path) -> Path:
    """A source whose newest point is a delta."""
    source = tmp_path / "source"
    for name in ("a/one", "a/two", "b/deep/three"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name * 1000)
    made.run("ingest", source, "--source-id", "it")
    base = made.run("points", "--json").events()[0]["point"]
    (source / "a" / "one").write_text("changed")
    (source / "a" / "two").unlink()
    (source / "b" / "new").mkdir()
    (source / "b" / "new" / "four").write_text("four")
    (tmp_path / "changed").write_bytes(b"a\0a/one\0b\0b/new/\0")
    (tmp_path / "deleted").write_bytes(b"a/two\0")
    made.run(
        "ingest", source, "--source-id", "it", "--delta", "--base", base,
        "--files-from", tmp_path / "changed", "--deleted-from", tmp_path / "deleted",
    )  # fmt: skip
    return source


def test_a_delta_is_mounted_as_a_full(
    made: command.Repository, source: Path, tmp_path: Path
) -> None:
    with mounted(made, tmp_path / "mount") as mount:
        assert differences(source, mount.path) == []


def test_a_delta_lies_among_all_points(
    made: command.Repository, source: Path, tmp_path: Path
) -> None:
    with mounted(made, tmp_path / "mount", point="all") as mount:
        assert differences(source, mount.path / "latest" / "it") == []
        times = sorted((mount.path / "by-source" / "it").iterdir())
        assert len(times) == 2
        assert {(time / "a" / "two").exists() for time in times} == {True, False}
