"""A file's content: from a range of bytes to the chunks, places and frames that hold it.

Extents of small files lie in the entry, those of large ones in pages: a byte is found by
bisection, level by level, so that opening a file of 1 TB reads two pages.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from xxhash import xxh3_64_intdigest

from mount.source import ChunkSource
from repo.errors import Damaged
from repo.format import limits
from repo.format.node import EXTENT_ROW, HOLE, Entry, Extent, parse_extent_page, parse_extents
from repo.format.place import Place
from repo.reader import FrameKey
from repo.types import CHUNK_ID_BYTES, MIB, ChunkId

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


class Piece(NamedTuple):
    """Bytes `start` to `stop` of one chunk, or of a hole (no place)."""

    id: ChunkId
    place: Place | None
    length: int
    start: int
    stop: int


def single_chunk(entry: Entry) -> ChunkId | None:
    """The chunk that is the whole content of a file, as with most files; None: it is otherwise."""
    rows = entry.extents
    if len(rows) != EXTENT_ROW.size or entry.extent_level or rows.startswith(HOLE):
        return None
    return ChunkId(rows[:CHUNK_ID_BYTES])


class Content:
    """The content of one file."""

    __slots__ = ("_chunk", "_entry", "_leaf", "_level", "_pages", "_top", "size")

    def __init__(self, entry: Entry) -> None:
        self._entry = entry
        self.size = entry.size
        self._level = entry.extent_level
        self._chunk = single_chunk(entry)
        self._top: Rows | None = None
        self._pages: dict[bytes, Rows] = {}
        self._leaf: tuple[int, Rows] | None = None

    @property
    def is_paged(self) -> bool:
        """Whether its extents lie in pages, of which there may be thousands."""
        return self._level > 0

    def twin(self) -> Content:
        """The same for another thread: what was read of it is not shared."""
        return Content(self._entry)

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
        if self._chunk is not None:
            return self._read_chunk(self._chunk, offset, length, source)
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

    def _read_chunk(
        self, chunk_id: ChunkId, offset: int, length: int, source: ChunkSource
    ) -> list[bytes | memoryview]:
        """The same for a single chunk, which needs no tables."""
        (chunk,) = source.chunks_at([(chunk_id, source.places([chunk_id])[0])])
        if len(chunk) != self.size:
            raise self._damaged("a chunk has another length than its file")
        return [chunk if offset == 0 and length >= self.size else chunk[offset : offset + length]]

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

    def _leaf_at(self, offset: int, source: ChunkSource) -> tuple[int, Rows]:
        """The page of chunks that covers a byte, and where in the file it begins."""
        if self._leaf is not None:
            base, rows = self._leaf
            if base <= offset < base + rows.total:
                return self._leaf
        base, rows = 0, self._tables()
        for level in range(self._level - 1, -1, -1):
            row = rows.at(offset - base)
            length = rows.end(row) - rows.starts[row]
            base += rows.starts[row]
            rows = self._page(Extent(rows.ids[row], length), level, source)
            if rows.ids == [HOLE]:
                break
        self._leaf = (base, rows)
        return self._leaf

    def _tables(self) -> Rows:
        """The rows of the entry. Raises Damaged when they do not cover the size."""
        if self._top is None:
            top = Rows(list(parse_extents(self._entry.extents)))
            if top.total != self.size:
                raise self._damaged("a file's extents do not cover its size")
            self._top = top
        return self._top

    def _page(self, extent: Extent, level: int, source: ChunkSource) -> Rows:
        if extent.is_hole:
            return Rows([extent])
        rows = self._pages.get(extent.id)
        if rows is None:
            limits.check(
                "extent level", level, limits.EXTENT_LEVELS_MAX, where=repr(self._entry.name)
            )
            where = f"page {extent.id.hex()[:16]}"
            rows = Rows(parse_extent_page(source.chunk(extent.id), level, where=where))
            if rows.total != extent.length:
                raise self._damaged("an extent page does not cover its length")
            while len(self._pages) >= _PAGES_HELD:
                del self._pages[next(iter(self._pages))]
            self._pages[extent.id] = rows
        return rows

    def _damaged(self, what: str) -> Damaged:
        return Damaged(what, where=repr(self._entry.name), next_step="run `repo verify`")


_PAGES_HELD: Final = 16


def _zeros(length: int) -> Iterator[memoryview]:
    while length:
        part = _ZEROS[:length]
        yield part
        length -= len(part)


def fingerprint(entry: Entry) -> int:
    """What names of one file have in common besides its inode number: the same content.

    A number alone proves nothing: a source that was read while it lived may have given it to
    another file, and in the tree of a delta a name may be newer than its base's other ones.
    """
    rows = b"%d/%d/%d/" % (entry.size, entry.extent_level, entry.rdev) + entry.target
    return xxh3_64_intdigest(entry.extents, seed=xxh3_64_intdigest(rows))


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
