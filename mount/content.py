"""A file's content: from a range of bytes to the chunks, places and frames that hold it.

Extents of small files lie in the entry, those of large ones in pages: a byte is found by
bisection, level by level, so that opening a file of 1 TB reads two pages.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from mount.source import ChunkSource
from repo.errors import Damaged
from repo.format import limits
from repo.format.node import EXTENT_ROW, HOLE, Entry, Extent, parse_extent_page, parse_extents
from repo.format.place import Place
from repo.reader import FrameKey
from repo.types import MIB, ChunkId

PLACES_AT_ONCE: Final = 64
"""Places are looked up by so many at a time: neighbours in the index share pages."""

_ZEROS: Final = memoryview(bytes(MIB))
_BLOCK: Final = 512


class Rows:
    """A page of extents: ids, where each begins (bytes from the page's start), and places."""

    __slots__ = ("_places", "ids", "starts", "total")

    def __init__(self, extents: Sequence[Extent]) -> None:
        self.ids = [extent.id for extent in extents]
        self.starts: list[int] = []
        self.total = 0
        for extent in extents:
            self.starts.append(self.total)
            self.total += extent.length
        self._places: list[Place | None] = [None] * len(self.ids)

    def at(self, offset: int) -> int:
        """The row that covers a byte."""
        return bisect_right(self.starts, offset) - 1

    def end(self, row: int) -> int:
        """Where a row ends, from the page's start."""
        return self.starts[row + 1] if row + 1 < len(self.starts) else self.total

    def place(self, row: int, source: ChunkSource) -> Place:
        """The place of a row's chunk; the following ones are looked up with it."""
        place = self._places[row]
        if place is None:
            rows = [
                at
                for at in range(row, min(row + PLACES_AT_ONCE, len(self.ids)))
                if self._places[at] is None and self.ids[at] != HOLE
            ]
            found = source.places([self.ids[at] for at in rows])
            for at, one in zip(rows, found, strict=True):
                self._places[at] = one
            place = found[0]
        return place

    def lacks_first(self) -> bool:
        """Whether there is a first chunk, whose place was not looked up yet."""
        return bool(self.ids) and self._places[0] is None and self.ids[0] != HOLE

    def set_first(self, place: Place) -> None:
        """The place of the first chunk."""
        self._places[0] = place

    def forget_places(self) -> None:
        """Look the places up again: what was read there has moved."""
        self._places = [None] * len(self.ids)


def place_starts(contents: Sequence[Content], source: ChunkSource) -> None:
    """Look up where the first chunks of many small files lie, all at once."""
    rows = [content.start_without_place() for content in contents]
    wanted = [row for row in rows if row is not None]
    for row, place in zip(wanted, source.places([row.ids[0] for row in wanted]), strict=True):
        row.set_first(place)


class Piece(NamedTuple):
    """Bytes `start` to `stop` of one chunk, or of a hole (no place)."""

    id: ChunkId
    place: Place | None
    length: int
    start: int
    stop: int


class Content:
    """The content of one file."""

    __slots__ = ("_leaf", "_level", "_pages", "_top", "_where", "size")

    def __init__(self, entry: Entry) -> None:
        """Raises Damaged when the extents do not cover the size."""
        self.size = entry.size
        self._level = entry.extent_level
        self._where = repr(entry.name)
        self._top = Rows(list(parse_extents(entry.extents)))
        if self._top.total != entry.size:
            raise self._damaged("a file's extents do not cover its size")
        self._pages: dict[bytes, Rows] = {}
        self._leaf: tuple[int, Rows] = (0, self._top)

    def pieces(self, offset: int, length: int, source: ChunkSource) -> Iterator[Piece]:
        """What a range consists of, in order; it ends with the file. See ChunkSource."""
        stop = min(offset + length, self.size)
        while offset < stop:
            base, rows = self._leaf_at(offset, source)
            row = rows.at(offset - base)
            while offset < stop and row < len(rows.ids):
                start, end = base + rows.starts[row], base + rows.end(row)
                chunk_id = rows.ids[row]
                place = None if chunk_id == HOLE else rows.place(row, source)
                yield Piece(chunk_id, place, end - start, offset - start, min(stop, end) - start)
                offset = end
                row += 1

    def frames(self, offset: int, length: int, source: ChunkSource) -> Iterator[FrameKey]:
        """The frames that a range lies in, in the order of the range, neighbours not repeated."""
        last: FrameKey | None = None
        for piece in self.pieces(offset, length, source):
            if piece.place is not None:
                key = (piece.place.segment, piece.place.frame)
                if key != last:
                    yield key
                last = key

    def read(self, offset: int, length: int, source: ChunkSource) -> list[bytes | memoryview]:
        """Exactly the bytes of the range, as far as the file goes, in parts. Raises Damaged.

        Never fewer: whoever gets fewer takes them for the end of the file.
        """
        pieces = list(self.pieces(offset, length, source))
        wanted = [(piece.id, piece.place) for piece in pieces if piece.place is not None]
        chunks = iter(source.chunks_at(wanted))
        parts: list[bytes | memoryview] = []
        for piece in pieces:
            if piece.place is None:
                parts.extend(_zeros(piece.stop - piece.start))
                continue
            chunk = next(chunks)
            if len(chunk) != piece.length:
                raise self._damaged("a chunk has another length than its extent")
            parts.append(chunk[piece.start : piece.stop])
        if sum(map(len, parts)) != max(0, min(length, self.size - offset)):
            raise self._damaged("a file's extents do not give the bytes that were asked for")
        return parts

    def start_without_place(self) -> Rows | None:
        """The rows of a small file, if its first chunk was not looked up yet."""
        return self._top if self._level == 0 and self._top.lacks_first() else None

    def next_data(self, offset: int, source: ChunkSource) -> int | None:
        """Where the first byte at or behind `offset` lies that is in no hole; None: nowhere."""
        for start, is_hole in self._stretches(offset, source):
            if not is_hole:
                return start
        return None

    def next_hole(self, offset: int, source: ChunkSource) -> int:
        """Where the first hole at or behind `offset` begins; the end of the file counts as one."""
        for start, is_hole in self._stretches(offset, source):
            if is_hole:
                return start
        return self.size

    def _stretches(self, offset: int, source: ChunkSource) -> Iterator[tuple[int, bool]]:
        """From where on which kind of extent follows, from an offset to the end."""
        while offset < self.size:
            base, rows = self._leaf_at(offset, source)
            for row in range(rows.at(offset - base), len(rows.ids)):
                yield offset, rows.ids[row] == HOLE
                offset = base + rows.end(row)

    def forget_places(self) -> None:
        """Look all places up again: the index may have moved them."""
        for rows in (self._top, self._leaf[1], *self._pages.values()):
            rows.forget_places()

    def _leaf_at(self, offset: int, source: ChunkSource) -> tuple[int, Rows]:
        """The page of chunks that covers a byte, and where in the file it begins."""
        base, rows = self._leaf
        if base <= offset < base + rows.total and (self._level == 0 or rows is not self._top):
            return self._leaf
        base, rows = 0, self._top
        for level in range(self._level - 1, -1, -1):
            row = rows.at(offset - base)
            length = rows.end(row) - rows.starts[row]
            base += rows.starts[row]
            rows = self._page(Extent(rows.ids[row], length), level, source)
            if rows.ids == [HOLE]:
                break
        self._leaf = (base, rows)
        return self._leaf

    def _page(self, extent: Extent, level: int, source: ChunkSource) -> Rows:
        if extent.is_hole:
            return Rows([extent])
        rows = self._pages.get(extent.id)
        if rows is None:
            limits.check("extent level", level, limits.EXTENT_LEVELS_MAX, where=self._where)
            where = f"page {extent.id.hex()[:16]}"
            rows = Rows(parse_extent_page(source.chunk(extent.id), level, where=where))
            if rows.total != extent.length:
                raise self._damaged("an extent page does not cover its length")
            while len(self._pages) >= _PAGES_HELD:
                del self._pages[next(iter(self._pages))]
            self._pages[extent.id] = rows
        return rows

    def _damaged(self, what: str) -> Damaged:
        return Damaged(what, where=self._where, next_step="run `repo verify`")


_PAGES_HELD: Final = 16


def _zeros(length: int) -> Iterator[memoryview]:
    while length:
        part = _ZEROS[:length]
        yield part
        length -= len(part)


def blocks_of(entry: Entry) -> int:
    """Blocks of 512 bytes that the content takes: all but the holes.

    Of a file with pages of extents, only the holes that are known without reading them count.
    """
    extents = entry.extents
    if len(extents) == EXTENT_ROW.size:
        size = 0 if extents.startswith(HOLE) else entry.size
    else:
        size = sum(
            length for chunk_id, length in EXTENT_ROW.iter_unpack(extents) if chunk_id != HOLE
        )
    return -(-size // _BLOCK)
