"""A large file: one whose ranges are saved by several workers, and put together from them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Final, NamedTuple

import msgspec

from ingest.changes.changesource import Range
from ingest.channel import Large, RangeSaved
from repo.format import limits
from repo.format.node import (
    EXTENT_ROW,
    Entry,
    Extent,
    pack_extent_page,
    pack_extents,
    parse_extents,
)
from repo.tree import Tree
from repo.types import ChunkId

PutMeta = Callable[[bytes], ChunkId]
"""Stores a node, page or problem list; gives its id."""

Row = tuple[bytes, int]
"""The id of a chunk or page, and the bytes that it covers."""

EXTENT_PAGE_ROWS: Final = 1024


class LargeFile:
    """A large file whose ranges are being saved."""

    __slots__ = (
        "_put_meta", "_rows", "changed", "entry", "errno", "last_try", "outstanding", "version",
    )  # fmt: skip

    def __init__(self, large: Large, put_meta: PutMeta, *, last_try: bool) -> None:
        self.entry = large.entry
        self.version = large.version
        self.last_try = last_try
        self.outstanding = 0
        self.changed = ""
        self.errno = 0
        self._put_meta = put_meta
        self._rows: dict[int, tuple[list[Row], int]] = {}

    def add(self, start: int, stop: int, saved: RangeSaved) -> None:
        """Take a range. Its extents become pages at once, so that only their ids are held."""
        if saved.changed and not self.changed:
            self.changed = saved.changed
        if saved.errno:
            self.errno = saved.errno
        short = saved.covered if saved.covered < stop - start else -1
        self._rows[start] = (self._paged(saved.extents), short)

    def keep(self, kept: Kept) -> None:
        """Take a stretch that the base holds."""
        self._rows[kept.start] = (kept.pages or self._paged(kept.extents), -1)

    def _paged(self, extents: bytes) -> list[Row]:
        pages: list[Row] = []
        size = EXTENT_ROW.size * EXTENT_PAGE_ROWS
        for at in range(0, len(extents), size):
            rows = extents[at : at + size]
            covered = sum(length for _, length in EXTENT_ROW.iter_unpack(rows))
            pages.append((self._put_meta(pack_extent_page(rows, 0)), covered))
        return pages

    def finish(self) -> Entry:
        """The entry with its extents. What was torn ends where the first range came up short."""
        pages: list[Row] = []
        for start in sorted(self._rows):
            rows, short = self._rows[start]
            pages.extend(rows)
            if short >= 0:
                break
        return self._entry(pages)

    def beginning(self) -> Entry | None:
        """The entry as far as all ranges from the first on are there; None when that is none."""
        if self.changed or self.errno:
            return None
        pages: list[Row] = []
        covered = 0
        for start in sorted(self._rows):
            rows, short = self._rows[start]
            if start != covered or short >= 0:
                break
            pages.extend(rows)
            covered += sum(length for _, length in rows)
        return self._entry(pages) if covered else None

    def _entry(self, pages: list[Row]) -> Entry:
        size = sum(covered for _, covered in pages)
        level = 1
        while len(pages) > limits.EXTENT_ROWS_INLINE:
            pages = [
                (
                    self._put_meta(pack_extent_page(pack_extents(part), level)),
                    sum(n for _, n in part),
                )
                for part in _slices(pages, EXTENT_PAGE_ROWS)
            ]
            level += 1
        return msgspec.structs.replace(
            self.entry, size=size, extents=pack_extents(pages), extent_level=level
        )


class Kept(NamedTuple):
    """A stretch of a file that the base holds, from `start` on: as pages, or as packed extents."""

    start: int
    pages: list[Row]
    extents: bytes


def kept_parts(
    tree: Tree, base: Entry, changed: Sequence[Range], size: int
) -> tuple[list[Kept], list[Range]]:
    """What of a base's file still holds, and the ranges of the new file that are to be read.

    `changed` are sorted; `size` is that of the new file. Kept are whole chunks that no changed
    range touches and that end within both files: so a range is read from the chunk in which it
    begins to the one in which it ends. Whole extent pages are kept by id, so that the cost of
    this follows the changes. Raises Damaged.
    """
    common = min(base.size, size)
    pending = [Range(r.start, min(r.stop, common)) for r in changed if r.start < common]
    pending.append(Range(common, max(base.size, size) + 1))
    kept: list[Kept] = []
    offset = 0
    for page, covered, rows in _leaves(tree, base):
        touched = _touching(pending, offset, offset + covered)
        if page is not None and not touched:
            kept.append(Kept(offset, [(page, covered)], b""))
        else:
            kept += _kept_chunks(rows(), offset, touched)
        offset += covered
    to_read: list[Range] = []
    at = 0
    for part in kept:
        if part.start > at:
            to_read.append(Range(at, part.start))
        at = part.start + _covered(part)
    if at < size:
        to_read.append(Range(at, size))
    return kept, to_read


def _kept_chunks(rows: Iterable[Extent], offset: int, touched: Sequence[Range]) -> list[Kept]:
    kept: list[Kept] = []
    run: list[Row] = []
    start = offset
    for chunk_id, length in rows:
        if _touching(touched, offset, offset + length):
            if run:
                kept.append(Kept(start, [], pack_extents(run)))
            run, start = [], offset + length
        else:
            run.append((chunk_id, length))
        offset += length
    if run:
        kept.append(Kept(start, [], pack_extents(run)))
    return kept


def _touching(ranges: Sequence[Range], start: int, stop: int) -> list[Range]:
    first = bisect_right(ranges, start, key=attrgetter("stop"))
    return list(ranges[first : bisect_left(ranges, stop, key=attrgetter("start"))])


def _covered(part: Kept) -> int:
    if part.pages:
        return sum(covered for _, covered in part.pages)
    return sum(length for _, length in EXTENT_ROW.iter_unpack(part.extents))


def _leaves(
    tree: Tree, base: Entry
) -> Iterator[tuple[bytes | None, int, Callable[[], Iterable[Extent]]]]:
    """The pages of chunks of a file: id (None: no page), bytes covered, and how to read them."""
    if not base.extent_level:
        rows = list(parse_extents(base.extents))
        yield None, sum(row.length for row in rows), lambda: rows
        return
    levels: list[tuple[int, Iterator[Extent]]] = [
        (base.extent_level - 1, parse_extents(base.extents))
    ]
    while levels:
        level, extents = levels[-1]
        extent = next(extents, None)
        if extent is None:
            levels.pop()
        elif extent.is_hole:
            yield None, extent.length, lambda extent=extent: [extent]  # type: ignore[misc]
        elif level:
            levels.append((level - 1, iter(tree.extent_page(extent.id, level))))
        else:
            page_id = extent.id
            yield page_id, extent.length, lambda page_id=page_id: tree.extent_page(page_id, 0)  # type: ignore[misc]


def _slices(rows: list[Row], size: int) -> Iterable[list[Row]]:
    return (rows[at : at + size] for at in range(0, len(rows), size))
