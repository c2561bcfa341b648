"""A rewriter: the nodes and extent pages of an origin with the ids of a target.

Only ids change: names, runs, pages and totals stay as they are, so that equal trees of the origin
are equal trees of the target. What was rewritten once is remembered in the `Translation`; a subtree
with losses is not, so that each point names its own. Memory follows the depth of a tree and the
size of a page.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import Final, NamedTuple

import msgspec

from repo.errors import Damaged, RepoError
from repo.format import limits
from repo.format.manifest import parse_problems
from repo.format.node import (
    Entry,
    Extent,
    Run,
    pack_entries,
    pack_extent_page,
    pack_extents,
    pack_page,
    parse_extent_page,
    parse_extents,
)
from repo.reader import Reader
from repo.storage.folder import Folder
from repo.types import ChunkId
from repo.upkeep.branches import UNREADABLE, branches, read_node
from repo.upkeep.losses import Losses, reason
from repo.upkeep.translation import Translation

Put = Callable[[bytes], ChunkId]
"""Stores a node, page or list in the target, and gives its id."""


_UNREAD: Final = "chunks of it cannot be read"


class _Rewritten(NamedTuple):
    """The id of something in the target, and whether all below it is there."""

    id: bytes
    whole: bool


class _Below(NamedTuple):
    """A directory that is wanted first: its node, its path and the bytes below it."""

    node: bytes
    path: bytes
    size: int


_Work = Generator[_Below, _Rewritten, _Rewritten]
"""Rewrites one directory: asks for those below it, ends with its own."""


class Rewriter:
    """Rewrites what points of an origin consist of, besides the content of files."""

    def __init__(
        self, folder: Folder, reader: Reader, translation: Translation, put: Put, losses: Losses
    ) -> None:
        """folder, reader: of the origin. losses: of the point that is rewritten."""
        self._folder = folder
        self._reader = reader
        self._translation = translation
        self._put = put
        self._losses = losses

    def root(self, entry: Entry) -> Entry:
        """The root directory of a point, everything below it rewritten."""
        return msgspec.structs.replace(entry, node=self.directory(entry, b""))

    def directory(self, entry: Entry, path: bytes) -> bytes:
        """The target's id for one directory of the origin and all below it."""
        return self._tree(_Below(entry.node, path, entry.bytes_below)).id

    def file(self, entry: Entry, path: bytes) -> None:
        """The lists of a file's chunks."""
        _, lost, why = self._rows(parse_extents(entry.extents), entry.extent_level)
        if lost:
            self._losses.file(path, lost, why)

    def problems(self, chunk_ids: tuple[bytes, ...]) -> tuple[bytes, ...]:
        """The lists of a point's problems."""
        return tuple(self._problem_list(chunk_id) for chunk_id in chunk_ids)

    def _problem_list(self, chunk_id: bytes) -> bytes:
        try:
            data = bytes(self._reader.chunk(ChunkId(chunk_id)))
            parse_problems(data, where=f"problem list {chunk_id.hex()[:16]}")
        except UNREADABLE as failure:
            self._losses.problems(self._reason(failure))
            return self._translation.stand_in(chunk_id)
        return self._put(data)

    # Directories

    def _tree(self, top: _Below) -> _Rewritten:
        """Rewrite a directory and all below it, without recursion: trees may be deep."""
        known = self._translation.get(top.node)
        if known is not None:
            return _Rewritten(known, whole=True)
        way: list[_Work] = [self._directory(top, 0)]
        answer: _Rewritten | None = None
        while True:
            try:
                asked = next(way[-1]) if answer is None else way[-1].send(answer)
            except StopIteration as done:
                way.pop()
                finished: _Rewritten = done.value
                if not way:
                    return finished
                answer = finished
                continue
            known = self._translation.get(asked.node)
            answer = None if known is None else _Rewritten(known, whole=True)
            if answer is None:
                way.append(self._directory(asked, len(way)))

    def _directory(self, here: _Below, depth: int) -> _Work:
        try:
            node = read_node(self._reader, here.node)
            if depth >= limits.TREE_DEPTH_MAX:
                raise Damaged("directories are nested too deeply")
        except UNREADABLE as failure:
            self._losses.directory(here.path, here.size, self._reason(failure))
            return _Rewritten(self._translation.stand_in(here.node), whole=False)
        joined, whole_joined = yield from self._run(node.joined, here.path)
        listed, whole_listed = yield from self._run(node.listed, here.path)
        new_id = self._put(node._replace(joined=joined, listed=listed).pack())
        whole = whole_joined and whole_listed
        if whole:
            self._translation.put(here.node, new_id)
        return _Rewritten(new_id, whole)

    def _run(self, run: Run, path: bytes) -> Generator[_Below, _Rewritten, tuple[Run, bool]]:
        whole = True
        pages = []
        packed = run.entries
        for branch in branches(self._reader, run):
            page = branch.page
            if page is not None:
                known = self._translation.get(page.id)
                if known is not None:
                    pages.append(msgspec.structs.replace(page, id=known))
                    continue
            if branch.failure is not None:
                whole = False
                size = 0 if page is None else page.bytes_below
                self._losses.directory(path, size, self._reason(branch.failure))
                if page is not None:
                    stand_in = self._translation.stand_in(page.id)
                    pages.append(msgspec.structs.replace(page, id=stand_in))
                continue
            entries, entries_whole = yield from self._entries(branch.entries, path)
            whole = whole and entries_whole
            packed = pack_entries(entries)
            if page is not None:
                new_id = self._put(pack_page(packed, len(entries)))
                pages.append(msgspec.structs.replace(page, id=new_id))
                if entries_whole:
                    self._translation.put(page.id, new_id)
        if run.pages:
            return run._replace(pages=tuple(pages)), whole
        return run._replace(entries=packed), whole

    def _entries(
        self, entries: list[Entry], path: bytes
    ) -> Generator[_Below, _Rewritten, tuple[list[Entry], bool]]:
        rewritten: list[Entry] = []
        whole = True
        for entry in entries:
            new = entry
            if entry.node:
                below = yield _Below(entry.node, _join(path, entry.name), entry.bytes_below)
                whole = whole and below.whole
                new = msgspec.structs.replace(entry, node=below.id)
            elif entry.extents:
                rows, lost, why = self._rows(parse_extents(entry.extents), entry.extent_level)
                if lost:
                    whole = False
                    self._losses.file(_join(path, entry.name), lost, why)
                new = msgspec.structs.replace(entry, extents=rows)
            rewritten.append(new)
        return rewritten, whole

    # Files

    def _rows(self, extents: Iterable[Extent], level: int) -> tuple[bytes, int, str]:
        """Extents with the target's ids; how many bytes of them are lost, and why."""
        rows: list[tuple[bytes, int]] = []
        lost, why = 0, ""
        for extent in extents:
            new: bytes = extent.id
            if not extent.is_hole:
                new, bytes_lost, reason_lost = self._extent(extent, level)
                lost += bytes_lost
                why = why or reason_lost
            rows.append((new, extent.length))
        return pack_extents(rows), lost, why

    def _extent(self, extent: Extent, level: int) -> tuple[bytes, int, str]:
        known = self._translation.get(extent.id)
        if known is not None:
            return known, 0, ""
        if level == 0:
            return self._translation.stand_in(extent.id), extent.length, _UNREAD
        try:
            data = self._reader.chunk(extent.id)
            where = f"page {extent.id.hex()[:16]}"
            below = parse_extent_page(data, level - 1, where=where)
        except UNREADABLE as failure:
            stand_in = self._translation.stand_in(extent.id)
            return stand_in, extent.length, self._reason(failure)
        rows, lost, why = self._rows(below, level - 1)
        page_id = self._put(pack_extent_page(rows, level - 1))
        if not lost:
            self._translation.put(extent.id, page_id)
        return page_id, lost, why

    def _reason(self, failure: RepoError) -> str:
        return reason(failure, self._folder)


def _join(path: bytes, name: bytes) -> bytes:
    return path + b"/" + name if path else name
