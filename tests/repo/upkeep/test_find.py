"""Patterns, finding across points, versions over time: against what each point holds by itself."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repo.errors import UsageError
from repo.format.manifest import Point
from repo.types import Kind
from repo.upkeep.find import find
from repo.upkeep.pattern import Pattern
from repo.upkeep.versions import versions
from tests.repo.upkeep.trees import Item, Maker, Model, models


@pytest.fixture(scope="module")
def maker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Maker]:
    maker = Maker(tmp_path_factory.mktemp("repository"))
    yield maker
    maker.close()


def matches(pattern: str, path: str, *, ignore_case: bool = False) -> bool:
    parsed = Pattern(pattern, ignore_case=ignore_case)
    state, found = parsed.start, False
    for name in path.split("/"):
        state, found = parsed.step(state, name.encode("utf-8", "surrogateescape"))
    return found


@pytest.mark.parametrize(
    ("pattern", "fits", "fits_not"),
    [
        ("*.c", ["a.c", "x/y/a.c"], ["a.c/x", "a.h"]),
        ("y/a.c", ["y/a.c", "x/y/a.c"], ["a.c", "x/a.c", "y/a.c/z"]),
        ("/x/*", ["x/a", "x/b"], ["x", "x/a/b", "y/x/a"]),
        ("/x/**", ["x/a", "x/a/b"], ["x", "y"]),
        ("/x/**/a", ["x/a", "x/y/a", "x/y/z/a"], ["a", "x/b", "y/a"]),
        ("**/a", ["a", "x/a"], ["b"]),
        ("[ab]?", ["a1", "x/b2"], ["c1", "a"]),
        ("a/", ["a", "x/a"], ["b"]),
        ("caf\udce9", ["caf\udce9"], ["café"]),
    ],
)
def test_what_a_pattern_fits(pattern: str, fits: list[str], fits_not: list[str]) -> None:
    assert [path for path in fits if not matches(pattern, path)] == []
    assert [path for path in fits_not if matches(pattern, path)] == []


def test_case_counts_unless_told_otherwise() -> None:
    assert not matches("*.JPG", "a.jpg")
    assert matches("*.JPG", "a.jpg", ignore_case=True)


@pytest.mark.parametrize("pattern", ["", "/", "./"])
def test_a_pattern_without_a_name_is_refused(pattern: str) -> None:
    with pytest.raises(UsageError, match="without a name"):
        Pattern(pattern)


_NAMES = st.sampled_from(["a", "b", "*", "?", "**"])


@given(
    names=st.lists(_NAMES, min_size=1, max_size=4),
    path=st.lists(st.sampled_from("abc"), min_size=1, max_size=5),
)
def test_whole_paths_fit_as_a_regular_expression_would_have_it(
    names: list[str], path: list[str]
) -> None:
    pieces = []
    for position, name in enumerate(names):
        if name != "**":
            pieces.append("[abc]/" if name in "*?" else f"{name}/")
        else:
            pieces.append("([abc]/)+" if position == len(names) - 1 else "([abc]/)*")
    expected = re.fullmatch("".join(pieces), "/".join(path) + "/") is not None
    assert matches("/" + "/".join(names), "/".join(path)) == expected


@given(
    history=st.lists(models(), min_size=1, max_size=4),
    pattern=st.sampled_from(["a", "b/*", "*", "/a/**"]),
)
def test_every_version_is_found_once_with_its_newest_point(
    maker: Maker, history: list[Model], pattern: str
) -> None:
    points = [maker.point(model, number) for number, model in enumerate(history)]
    found = [(m.point.id, m.path, m.entry.kind) for m in find(maker.tree, points, Pattern(pattern))]
    assert len(found) == len(set(found))
    expected = set()
    for number, model in enumerate(history):
        newer = history[number + 1] if number + 1 < len(history) else {}
        for path, item in model.items():
            if not path or not matches(pattern, path.decode()):
                continue
            there = newer.get(path)
            both_folders = there is not None and there.content is None and item.content is None
            if there != item and not both_folders:
                kind = Kind.DIRECTORY if item.content is None else Kind.FILE
                expected.add((points[number].id, path, kind))
    assert set(found) == expected


def test_sources_do_not_hide_each_other(maker: Maker) -> None:
    model = {b"": Item(None), b"f": Item(b"x")}
    points = [maker.point(model, 1, "one"), maker.point(model, 2, "two")]
    assert len(list(find(maker.tree, points, Pattern("f")))) == 2


def test_kinds_and_whole_paths_from_the_host(maker: Maker) -> None:
    model = {b"": Item(None), b"d": Item(None), b"d/d": Item(b"x")}
    points = [maker.point(model, 1)]

    def paths(pattern: str, *kinds: Kind) -> list[bytes]:
        return sorted(m.path for m in find(maker.tree, points, Pattern(pattern), kinds=kinds))

    assert paths("d") == [b"d", b"d/d"]
    assert paths("d/") == [b"d"]
    assert paths("d", Kind.FILE) == [b"d/d"]
    assert paths("/source/d/*") == paths("/d/*") == [b"d/d"]  # /source is where the source lay


@given(
    history=st.lists(models(), min_size=1, max_size=6), path=st.sampled_from([b"a", b"a/b", b"b"])
)
def test_versions_are_the_runs_of_equal_entries(
    maker: Maker, history: list[Model], path: bytes
) -> None:
    points = [maker.point(model, number) for number, model in enumerate(history)]
    expected: list[list[Point]] = []
    before: Model | None = None
    for point, model in zip(points, history, strict=True):
        now = _subtree(model, path)
        if now is not None:
            if now == before:
                expected[-1].append(point)
            else:
                expected.append([point])
        before = now
    found = versions(maker.tree, reversed(points), path)
    assert [version.points for version in found] == expected


def _subtree(model: Model, path: bytes) -> Model | None:
    if path not in model:
        return None
    return {p: i for p, i in model.items() if p == path or p.startswith(path + b"/")}


def test_a_path_of_the_host_is_found_in_its_source(maker: Maker) -> None:
    points = [maker.point({b"": Item(None), b"f": Item(b"x")}, 1)]
    (version,) = versions(maker.tree, points, b"/source/f")
    assert (version.path, version.source_id) == (b"f", "source")
    assert versions(maker.tree, points, b"/elsewhere/f") == []
