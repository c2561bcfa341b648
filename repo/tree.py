"""A tree: the directories and extents of a point, read node by node."""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Iterator
from operator import attrgetter

from repo.errors import Damaged, UsageError
from repo.format import limits
from repo.format.node import (
    Entry,
    Extent,
    Node,
    Run,
    parse_entries,
    parse_extent_page,
    parse_extents,
    parse_page,
)
from repo.reader import Reader
from repo.types import ChunkId, Kind


class Tree:
    """Reads nodes through a reader. Holds nothing of its own: memory follows what is iterated."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def node(self, directory: Entry) -> Node:
        """The node of a directory entry. Raises Damaged."""
        where = f"node {directory.node.hex()[:16]}"
        return Node.parse(self._reader.chunk(ChunkId(directory.node)), where=where)

    def entries(self, directory: Entry, *, after: bytes = b"") -> Iterator[Entry]:
        """The entries of a directory with names above `after`, in the order of names."""
        if not directory.node:
            return iter(())
        node = self.node(directory)
        runs = (self._run(run, after) for run in (node.joined, node.listed) if run.total)
        return heapq.merge(*runs, key=attrgetter("name"))

    def _run(self, run: Run, after: bytes) -> Iterator[Entry]:
        if not run.pages:
            yield from (e for e in parse_entries(run.entries, where="node") if e.name > after)
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
