"""A tree: the directories and extents of a point, read node by node."""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from operator import attrgetter
from typing import Final

from repo.errors import Damaged, UsageError
from repo.format import limits
from repo.format.node import (
    Entry,
    Extent,
    Node,
    Run,
    check_total,
    parse_entries,
    parse_extent_page,
    parse_extents,
    parse_page,
)
from repo.format.place import Place
from repo.reader import Reader
from repo.types import CHUNK_KEY_BYTES, ChunkId, Kind

LOADED_MAX: Final = 48
"""Frames (about 1 MiB each) that are loaded together; the reader's cache holds some more."""


class Tree:
    """Reads nodes through a reader. Holds nothing of its own: memory follows what is iterated."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def chunk(self, chunk_id: bytes) -> memoryview:
        """A chunk of the tree: a node, a page or a list. Raises Damaged."""
        return self._reader.chunk(ChunkId(chunk_id))

    def chunks(self, chunk_ids: Sequence[bytes]) -> list[memoryview]:
        """Several chunks of the tree, looked up together. Raises Damaged."""
        return self._reader.chunks([ChunkId(chunk_id) for chunk_id in chunk_ids])

    def node(self, directory: Entry, place: Place | None = None) -> Node:
        """The node of a directory entry; `place`, if known, saves looking it up. Raises Damaged."""
        where = f"node {directory.node.hex()[:16]}"
        node_id = ChunkId(directory.node)
        reader = self._reader
        data = reader.chunk(node_id) if place is None else reader.chunk_at(node_id, place)
        node = Node.parse(data, where=where)
        check_total(node.totals.entries, directory.entries_below, where=where)
        return node

    def node_places(self, directories: Sequence[Entry]) -> list[Place | None]:
        """Where the nodes of several directories lie, with one look-up; None: nowhere known."""
        keys = [directory.node[:CHUNK_KEY_BYTES] for directory in directories]
        found = self._reader.places.find_many([key for key in keys if key])
        return [found.get(key) for key in keys]

    def load(self, directories: Iterable[Entry]) -> None:
        """Bring the nodes of directories into memory together: one look-up, joined reads.

        What is missing or damaged is told by whoever reads the node itself.
        """
        wanted = [entry.node[:CHUNK_KEY_BYTES] for entry in directories if entry.node]
        if len(wanted) < 2:
            return
        places = self._reader.places.find_many(wanted).values()
        with suppress(Damaged):
            self._reader.load(islice(dict.fromkeys(place[:2] for place in places), LOADED_MAX))

    def differing(self, before: Entry, after: Entry) -> Iterator[tuple[Entry | None, Entry | None]]:
        """The entries of two directories that are not equal, paired by name, in order of names.

        None where one of them has no such name. Runs and pages that both have are not looked
        at: no name is twice in a directory, so what they hold is nowhere else in either.
        """
        if before.node == after.node:
            return
        old, new = self._runs_apart(before, after)
        ours, theirs = (heapq.merge(*runs, key=attrgetter("name")) for runs in (old, new))
        left, right = next(ours, None), next(theirs, None)
        while left is not None or right is not None:
            for entry, directory in ((left, before), (right, after)):
                if entry is not None and entry.entries_below >= directory.entries_below:
                    raise _endless(entry, directory)
            if right is None or (left is not None and left.name < right.name):
                yield left, None
                left = next(ours, None)
            elif left is None or right.name < left.name:
                yield None, right
                right = next(theirs, None)
            else:
                if left != right:
                    yield left, right
                left, right = next(ours, None), next(theirs, None)

    def _runs_apart(
        self, before: Entry, after: Entry
    ) -> tuple[list[Iterator[Entry]], list[Iterator[Entry]]]:
        """The runs of two directories without what both have."""
        nodes = [self.node(one) if one.node else None for one in (before, after)]
        runs = [(node.joined, node.listed) if node else () for node in nodes]
        packed = [{run.entries for run in side if not run.pages} for side in runs]
        pages = [{page.id for run in side for page in run.pages} for side in runs]
        same_runs, same_pages = packed[0] & packed[1], pages[0] & pages[1]
        old, new = (
            [
                self._run(_without(run, same_pages), b"")
                for run in side
                if run.total and (run.pages or run.entries not in same_runs)
            ]
            for side in runs
        )
        return old, new

    def content(self, extent: Extent) -> memoryview:
        """The bytes of an extent that is a chunk. Raises Damaged, also when its length is wrong."""
        data = self._reader.chunk(extent.id)
        if len(data) != extent.length:
            raise Damaged(
                f"a chunk has {len(data)} bytes where a file has {extent.length}",
                where=f"chunk {extent.id.hex()[:16]}",
                next_step="run `repo verify`",
            )
        return data

    def entries(self, directory: Entry, *, after: bytes = b"") -> Iterator[Entry]:
        """The entries of a directory with names above `after`, in the order of names."""
        if not directory.node:
            return iter(())
        node = self.node(directory)
        if after:
            return self.entries_of(node, after=after)
        return _counted(self.entries_of(node), directory)

    def entries_of(self, node: Node, *, after: bytes = b"") -> Iterator[Entry]:
        """The same of a node."""
        runs = (self._run(run, after) for run in (node.joined, node.listed) if run.total)
        return heapq.merge(*runs, key=attrgetter("name"))

    def _run(self, run: Run, after: bytes) -> Iterator[Entry]:
        if not run.pages:
            if run.entries:
                entries = parse_entries(run.entries, where="node")
                yield from (e for e in entries if e.name > after) if after else entries
            return
        first = max(0, bisect_right(run.pages, after, key=attrgetter("first_name")) - 1)
        for page in run.pages[first:]:
            yield from (e for e in self._page(page.id) if e.name > after)

    def _page(self, page_id: bytes) -> list[Entry]:
        data = self._reader.chunk(ChunkId(page_id))
        return parse_page(data, where=f"page {page_id.hex()[:16]}")

    def lookup(self, directory: Entry, name: bytes) -> Entry | None:
        """The entry of that name, or None. A large directory is searched by bisection."""
        if not directory.node:
            return None
        node = self.node(directory)
        for run in (node.joined, node.listed):
            if not run.total:
                continue
            entries = self._page_for(run, name)
            position = bisect_right(entries, name, key=attrgetter("name"))
            if position and entries[position - 1].name == name:
                return entries[position - 1]
        return None

    def _page_for(self, run: Run, name: bytes) -> list[Entry]:
        if not run.pages:
            return parse_entries(run.entries, where="node")
        position = bisect_right(run.pages, name, key=attrgetter("first_name"))
        return self._page(run.pages[position - 1].id) if position else []

    def resolve(self, root: Entry, path: bytes) -> Entry:
        """The entry at a path below a root; symlinks are not followed. UsageError when none."""
        entry = root
        for name in path.split(b"/"):
            if name in (b"", b"."):
                continue
            found = self.lookup(entry, name) if entry.kind == Kind.DIRECTORY else None
            if found is None:
                raise UsageError(
                    "no such path in the point",
                    where=path.decode(errors="surrogateescape"),
                    next_step="`repo ls` shows what it holds",
                )
            entry = found
        return entry

    def extents(self, entry: Entry) -> Iterator[Extent]:
        """All extents of a file in order, holes among them, read page by page."""
        covered = 0
        for extent in self._extents(entry.extents, entry.extent_level):
            covered += extent.length
            yield extent
        if covered != entry.size:
            raise Damaged(
                "a file's extents do not cover its size",
                where=repr(entry.name),
                next_step="run `repo verify`",
            )

    def _extents(self, rows: bytes, level: int) -> Iterator[Extent]:
        for extent in parse_extents(rows):
            if level == 0 or extent.is_hole:
                yield extent
            else:
                yield from self._page_extents(extent, level - 1)

    def _page_extents(self, page: Extent, level: int) -> Iterator[Extent]:
        covered = 0
        for extent in self.extent_page(page.id, level):
            covered += extent.length
            if level == 0 or extent.is_hole:
                yield extent
            else:
                yield from self._page_extents(extent, level - 1)
        if covered != page.length:
            raise Damaged(
                "an extent page does not cover its length",
                where=f"page {page.id.hex()[:16]}",
                next_step="run `repo verify`",
            )

    def extent_page(self, page_id: bytes, level: int) -> list[Extent]:
        """The rows of an extent page of `level`."""
        limits.check("extent level", level, limits.EXTENT_LEVELS_MAX, where="extent page")
        data = self._reader.chunk(ChunkId(page_id))
        return parse_extent_page(data, level, where=f"page {page_id.hex()[:16]}")


def _counted(entries: Iterable[Entry], directory: Entry) -> Iterator[Entry]:
    """The entries of a directory; none of which more lies below than is left of its total."""
    left = directory.entries_below
    for entry in entries:
        left -= 1 + entry.entries_below
        if left < 0:
            raise _endless(entry, directory)
        yield entry


def _endless(entry: Entry, directory: Entry) -> Damaged:
    return Damaged(
        f"a tree's totals do not add up at {entry.name!r}",
        where=f"node {directory.node.hex()[:16]}",
        next_step="run `repo verify`",
    )


def _without(run: Run, page_ids: set[bytes]) -> Run:
    """A run without some of its pages."""
    if not run.pages:
        return run
    return Run(run.total, pages=tuple(page for page in run.pages if page.id not in page_ids))
