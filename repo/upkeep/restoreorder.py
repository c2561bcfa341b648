"""The restore order of a tree: its chunks as a restore or a walk through a mount wants them.

Directories depth first, of each its files before its sub-directories, so that what is read
together lies together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from repo.format.node import Entry, Extent, Node, parse_extents
from repo.tree import Tree
from repo.types import ChunkId, SegmentClass
from repo.upkeep.diff import check_depth


class Wanted(NamedTuple):
    """A chunk in its turn: of a file's content (data), or a node or page (meta)."""

    chunk_id: ChunkId
    segment_class: SegmentClass


class _Step(NamedTuple):
    directory: Entry
    depth: int


There = Callable[[bytes], bool]
"""Whether a node or page is there. What is not is left out, with all below it."""


def _all_there(_chunk_id: bytes) -> bool:
    return True


def restore_order(tree: Tree, root: Entry, there: There = _all_there) -> Iterator[Wanted]:
    """All chunks of a tree, those that several files share as often as they are used.

    Chunks of content, and pages of a directory, come whether they are there or not. Memory follows
    the depth, and the sub-directories of each directory on the way. Raises Damaged.
    """
    pending = [_Step(root, 0)]
    while pending:
        directory, depth = pending.pop()
        check_depth(depth)
        if not there(directory.node):
            continue
        yield Wanted(ChunkId(directory.node), SegmentClass.META)
        node = tree.node(directory)
        for run in (node.joined, node.listed):
            for page in run.pages:
                yield Wanted(ChunkId(page.id), SegmentClass.META)
        below: list[_Step] = []
        for entry in _entries(tree, node, there):
            if entry.node:
                below.append(_Step(entry, depth + 1))
            else:
                yield from _of_file(tree, entry, there)
        tree.load(step.directory for step in below if there(step.directory.node))
        pending.extend(reversed(below))


def _entries(tree: Tree, node: Node, there: There) -> Iterator[Entry]:
    """The entries of a directory by name, but for those in pages that are not there."""
    left = [
        run._replace(pages=tuple(page for page in run.pages if there(page.id)))
        for run in (node.joined, node.listed)
    ]
    yield from tree.entries_of(node._replace(joined=left[0], listed=left[1]))


def _of_file(tree: Tree, entry: Entry, there: There) -> Iterator[Wanted]:
    extents = parse_extents(entry.extents)
    if not entry.extent_level:
        yield from (Wanted(e.id, SegmentClass.DATA) for e in extents if not e.is_hole)
        return
    for extent in extents:
        yield from _of_page(tree, extent, entry.extent_level - 1, there)


def _of_page(tree: Tree, page: Extent, level: int, there: There) -> Iterator[Wanted]:
    if page.is_hole or not there(page.id):
        return
    yield Wanted(page.id, SegmentClass.META)
    for extent in tree.extent_page(page.id, level):
        if level:
            yield from _of_page(tree, extent, level - 1, there)
        elif not extent.is_hole:
            yield Wanted(extent.id, SegmentClass.DATA)
