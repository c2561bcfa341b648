"""A find: names and globs across many points. Each point is compared with the next newer one of
its source, so that what both have is looked at once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Final, NamedTuple

from repo.format.manifest import Point
from repo.format.node import Entry
from repo.tree import Tree
from repo.types import Kind
from repo.upkeep.diff import check_depth, joined
from repo.upkeep.likeness import metadata_aspects
from repo.upkeep.pattern import Pattern, State

FOLDERS_AT_ONCE: Final = 64


class Match(NamedTuple):
    """A path that matches, and the newest point that holds it like this."""

    point: Point
    path: bytes
    entry: Entry


class _Folder(NamedTuple):
    """A directory to look into: in the older point, and in the newer one if it is there."""

    path: bytes
    newer: Entry | None
    older: Entry
    state: State


def find(
    tree: Tree, points: Iterable[Point], pattern: Pattern, *, kinds: Collection[Kind] = ()
) -> Iterator[Match]:
    """What matches in the points, those of one source from the newest to the oldest.

    A path comes once for each version of it, a directory once for each time that it was made.
    Memory follows the depth of the trees. Raises Damaged.
    """
    newer: dict[str, Point] = {}
    for point in sorted(points, key=lambda one: (one.received_ns, one.id), reverse=True):
        before = newer.get(point.source_id)
        newer[point.source_id] = point
        for path, entry in _matches(tree, before.root if before else None, point, pattern):
            if (not kinds or entry.kind in kinds) and (
                not pattern.directories_only or entry.kind == Kind.DIRECTORY
            ):
                yield Match(point, path, entry)


def _matches(
    tree: Tree, newer: Entry | None, point: Point, pattern: Pattern
) -> Iterator[tuple[bytes, Entry]]:
    """What matches in a point and is not like that in the newer one."""
    state = _below_source(pattern, point)
    folders = [_Folder(b"", newer, point.root, state)]
    while folders:
        batch = folders[-FOLDERS_AT_ONCE:]
        del folders[-FOLDERS_AT_ONCE:]
        tree.load(side for one in batch for side in (one.newer, one.older) if side is not None)
        for folder in batch:
            check_depth(folder.path.count(b"/"))
            yield from _in_folder(tree, folder, pattern, folders)


def _in_folder(
    tree: Tree, folder: _Folder, pattern: Pattern, folders: list[_Folder]
) -> Iterator[tuple[bytes, Entry]]:
    for newer, entry in _pairs(tree, folder):
        if entry is None:
            continue
        state, matches = pattern.step(folder.state, entry.name)
        if not state.alive:
            continue
        path = joined(folder.path, entry.name)
        if matches and (newer is None or not _same_version(newer, entry)):
            yield path, entry
        if entry.node:
            inside = newer if newer is not None and newer.node else None
            folders.append(_Folder(path, inside, entry, state))


def _pairs(tree: Tree, folder: _Folder) -> Iterator[tuple[Entry | None, Entry | None]]:
    if folder.newer is None:
        return ((None, entry) for entry in tree.entries(folder.older))
    return tree.differing(folder.newer, folder.older)


def _same_version(newer: Entry, older: Entry) -> bool:
    if newer.kind == older.kind == Kind.DIRECTORY:
        return True
    return same_version(newer, older)


def same_version(one: Entry, other: Entry) -> bool:
    """Whether two entries are one version of a file: same metadata, same extents or node."""
    return not metadata_aspects(one, other) and (
        (one.extents, one.extent_level, one.size, one.node)
        == (other.extents, other.extent_level, other.size, other.node)
    )


def _below_source(pattern: Pattern, point: Point) -> State:
    """Where a pattern is at the root of a point: a whole path may begin with the source's."""
    if not pattern.text.startswith("/"):
        return pattern.start
    state = pattern.start
    for name in point.source_path.split("/"):
        if name:
            state, _ = pattern.step(state, name.encode("utf-8", "surrogateescape"))
    return State(state.positions | pattern.start.positions)
