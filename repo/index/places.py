"""The places: which chunk lies where, and the segments and frames that places name.

Tables (integers in keys are big-endian, so that they sort):

    chunks    one key, under it a sorted row for each chunk: key (16) + place (16)
    segments  number u32 -> segment id (16), class u8, closed u8
    frames    number u32 -> rows by frame number: offset u64, sealed u32, plain u32 (bytes)
    names     segment id (16) -> number u32

The rows of `chunks` are LMDB's fixed-size duplicates of one key: such pages hold bare rows,
without a header and a pointer for each, so that a chunk costs about 46 bytes instead of the 61
of an ordinary table, at the same speed.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from struct import Struct
from typing import Final, NamedTuple

from repo.errors import Damaged
from repo.format.place import PLACE_BYTES, Place
from repo.index.environment import Environment, Table, Transaction
from repo.index.failure import IndexUnusable
from repo.types import CHUNK_KEY_BYTES, MIB, SegmentClass, SegmentId

CHUNKS_KEY: Final = b"c"
"""The one key of a table of sorted rows."""

_NUMBER: Final = Struct(">I")
_SEGMENT: Final = Struct("<16sBB")
_NEXT_SEGMENT: Final = b"next segment"
_NUMBER_MAX: Final = 0xFFFF_FFFF
_ROW_BYTES: Final = CHUNK_KEY_BYTES + PLACE_BYTES
_BATCH: Final = 256
ROWS_CACHED_BYTES: Final = 32 * MIB
SLICED_FROM_PAGES: Final = 1024
PARTS_MAX: Final = 8


class SegmentRow(NamedTuple):
    """A segment as the index knows it.

    frames: packed rows <QII by frame number: offset, sealed length, plain length in bytes.
    """

    number: int
    segment_id: SegmentId
    segment_class: SegmentClass
    closed: bool
    frames: bytes


class NoSuchSegment(Damaged):
    """A place in a segment that the index has not: a repair has moved what lay there, or damage."""


class Places:
    """The tables of chunks and segments in one environment; for all threads of the process."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self._chunks = environment.table(b"chunks", sorted_rows=True)
        self._segments = environment.table(b"segments")
        self._frames = environment.table(b"frames")
        self._names = environment.table(b"names")
        self._cache = _RowCache(ROWS_CACHED_BYTES)

    # Chunks

    def known(self, keys: Iterable[bytes], txn: Transaction | None = None) -> set[bytes]:
        """Those of the keys (16 bytes each) that the index has a place for."""
        return set(self._rows(keys, txn))

    def find_many(
        self, keys: Iterable[bytes], txn: Transaction | None = None
    ) -> dict[bytes, Place]:
        """The places of those keys that the index knows."""
        rows = self._rows(keys, txn)
        return {key: Place.parse(row[CHUNK_KEY_BYTES:]) for key, row in rows.items()}

    def find(self, key: bytes, txn: Transaction | None = None) -> Place | None:
        """The place of one chunk, if the index knows it."""
        return self.find_many((key,), txn).get(key)

    def _rows(self, keys: Iterable[bytes], txn: Transaction | None) -> dict[bytes, bytes]:
        if txn is None:
            with self.environment.read() as view:
                return self._rows(keys, view)
        return rows_of(txn, self._chunks, keys)

    def packed_rows(self, keys: Iterable[bytes], txn: Transaction) -> dict[bytes, bytes]:
        """The rows (key and place, 32 bytes) of those keys that the index knows."""
        return self._rows(keys, txn)

    def remove_rows(self, txn: Transaction, rows: Iterable[bytes]) -> None:
        """Takes rows out that are known to be there; sorted, for neighbours share pages."""
        for row in rows:
            txn.delete(CHUNKS_KEY, row, db=self._chunks)

    def add_places(self, txn: Transaction, rows: Sequence[tuple[bytes, bytes]]) -> int:
        """Adds (key, packed place) rows, best sorted; a chunk that has a place keeps it.

        Of several rows for one key the first counts. Returns how many were new.
        """
        held = self.known([key for key, _ in rows], txn)
        new: dict[bytes, bytes] = {}
        for key, place in rows:
            if key not in held:
                new.setdefault(key, place)
        self._put(txn, new)
        return len(new)

    def store_places(self, rows: Sequence[tuple[bytes, bytes]]) -> int:
        """Adds sorted rows in as many transactions as keep the file small; returns how many
        were new.

        LMDB copies each page it changes and can use the old one again only two commits later. A
        batch of random keys touches most pages of a small table, so that one transaction would
        double the file; slices of a sorted batch touch distinct pages, and each uses what an
        earlier one freed. Nothing is written twice, only synced more often.

        For rows whose segment and frames are in the index already: each slice stands alone.
        """
        new = 0
        for part in slices(rows, self.chunk_table_pages()):
            new += self.environment.write(partial(self.add_places, rows=part))
        return new

    def parts(self, rows: int) -> int:
        """In how many transactions `store_places` would add so many rows now."""
        return part_count(rows, self.chunk_table_pages())

    def move_places(self, txn: Transaction, rows: Sequence[tuple[bytes, bytes]]) -> None:
        """Gives chunks new places, whether they had one or not."""
        self.remove_places(txn, [key for key, _ in rows])
        self._put(txn, dict(rows))

    def remove_places(self, txn: Transaction, keys: Iterable[bytes]) -> int:
        """Takes chunks out of the index; returns how many it knew."""
        rows = self._rows(keys, txn)
        for row in rows.values():
            txn.delete(CHUNKS_KEY, row, db=self._chunks)
        return len(rows)

    def _put(self, txn: Transaction, new: dict[bytes, bytes]) -> None:
        for key, place in new.items():
            if len(key) != CHUNK_KEY_BYTES or len(place) != PLACE_BYTES:
                raise ValueError(f"an index row of {len(key)} + {len(place)} bytes")
        with txn.cursor(self._chunks) as cursor:
            cursor.putmulti([(CHUNKS_KEY, key + new[key]) for key in sorted(new)])

    def count(self) -> int:
        """How many chunks the index knows."""
        with self.environment.read() as txn:
            return txn.stat(self._chunks)["entries"]

    def rows(self) -> Iterator[tuple[bytes, Place]]:
        """All chunks by key. What changes meanwhile may be seen or not."""
        for batch in self.row_batches():
            for row in batch:
                yield row[:CHUNK_KEY_BYTES], Place.parse(row[CHUNK_KEY_BYTES:])

    def row_batches(
        self, start: bytes = b"", stop: bytes | None = None, size: int = _BATCH
    ) -> Iterator[list[bytes]]:
        """The rows of chunks (key and place, 32 bytes) from one key up to another, in batches.

        Each batch is a look of its own: what changes meanwhile may be seen or not.
        """
        last: bytes | None = None
        while True:
            with self.environment.read() as txn, txn.cursor(self._chunks) as cursor:
                batch: list[bytes] = []
                more = cursor.set_key(CHUNKS_KEY)
                if last is not None or start:
                    more = more and cursor.set_range_dup(CHUNKS_KEY, last or start)
                    if more and cursor.value() == last:
                        more = cursor.next_dup()
                while more and len(batch) < size:
                    row = cursor.value()
                    if last is not None and row <= last:
                        raise self._damaged("chunk")  # out of order: this would never end
                    if stop is not None and row >= stop:
                        break
                    last = row
                    batch.append(row)
                    more = cursor.next_dup()
            if not batch:
                return
            yield batch

    # Segments

    def add_segment(
        self, txn: Transaction, segment_id: SegmentId, segment_class: SegmentClass
    ) -> int:
        """Gives a segment its number, which is never used again; it begins as open, no frames."""
        number = self.environment.take(_NEXT_SEGMENT, txn)
        if number > _NUMBER_MAX:
            raise IndexUnusable("all segment numbers are used up", where=str(self.environment.path))
        key = _NUMBER.pack(number)
        txn.put(key, _SEGMENT.pack(segment_id, segment_class, 0), db=self._segments)
        txn.put(segment_id, key, db=self._names)
        return number

    def set_frames(self, txn: Transaction, number: int, table: bytes, closed: bool) -> None:
        """Sets a segment's whole frame table and whether it is closed."""
        row = self._row(txn, number)
        key = _NUMBER.pack(number)
        segment = _SEGMENT.pack(row.segment_id, row.segment_class, closed)
        txn.put(key, segment, db=self._segments)
        txn.put(key, table, db=self._frames)
        self._cache.forget(number)

    def remove_segment(self, txn: Transaction, number: int) -> None:
        """Takes a segment out of the index; its chunks must have left it or moved before."""
        row = self._row(txn, number)
        key = _NUMBER.pack(number)
        for table in (self._segments, self._frames):
            txn.delete(key, db=table)
        txn.delete(row.segment_id, db=self._names)
        self._cache.forget(number)

    def segment(self, number: int, fresh: bool = False) -> SegmentRow:
        """The row of a segment. Raises NoSuchSegment when the index has none.

        It may come from this process's memory, where the table of an open segment can lack the
        newest frames: `fresh` reads it anew unless it is known as closed.
        """
        row = self._cache.get(number)
        if row is None or (fresh and not row.closed):
            with self.environment.read() as txn:
                if txn.get(_NUMBER.pack(number), db=self._segments) is None:
                    raise NoSuchSegment(
                        "the index has no such segment",
                        where=f"segment number {number}",
                        next_step="repo rebuild-index",
                    )
                row = self._row(txn, number)
            self._cache.put(row)
        return row

    def existing(self, numbers: Iterable[int], txn: Transaction) -> set[int]:
        """Those of the segment numbers that the index has."""
        return {n for n in numbers if txn.get(_NUMBER.pack(n), db=self._segments) is not None}

    def by_id(self, segment_id: SegmentId, txn: Transaction | None = None) -> int | None:
        """The number of a segment; None when the index does not have it."""
        if txn is None:
            with self.environment.read() as view:
                return self.by_id(segment_id, view)
        key = txn.get(segment_id, db=self._names)
        return None if key is None else self._number(key)

    def segments(self) -> Iterator[SegmentRow]:
        """All segments by number. What changes meanwhile may be seen or not."""
        following = 0
        while True:
            with self.environment.read() as txn, txn.cursor(self._segments) as cursor:
                batch: list[SegmentRow] = []
                more = following <= _NUMBER_MAX and cursor.set_range(_NUMBER.pack(following))
                while more and len(batch) < _BATCH:
                    number = self._number(cursor.key())
                    if number < following:
                        raise self._damaged("segment")  # out of order, as above
                    following = number + 1
                    batch.append(self._row(txn, number))
                    more = cursor.next()
            yield from batch
            if not batch:
                return

    def segment_count(self) -> int:
        """How many segments the index has."""
        with self.environment.read() as txn:
            return txn.stat(self._segments)["entries"]

    def next_number(self) -> int:
        """The number that the next segment gets: above those of all segments that ever were."""
        return self.environment.counter(_NEXT_SEGMENT)

    def size_bytes(self) -> int:
        """Size of the index on disk, free pages included."""
        return self.environment.file_bytes()

    def chunk_table_pages(self) -> int:
        """Pages (4 KiB each, as a rule) that the chunks' rows take."""
        return self.environment.table_pages(self._chunks)

    def _row(self, txn: Transaction, number: int) -> SegmentRow:
        key = _NUMBER.pack(number)
        row = txn.get(key, db=self._segments)
        if row is None:
            raise self._damaged("segment")
        frames = txn.get(key, db=self._frames) or b""
        if len(row) != _SEGMENT.size:
            raise self._damaged("segment")
        segment_id, number_of_class, closed = _SEGMENT.unpack(row)
        try:
            segment_class = SegmentClass(number_of_class)
        except ValueError as error:
            raise self._damaged("segment") from error
        return SegmentRow(number, SegmentId(segment_id), segment_class, bool(closed), frames)

    def _number(self, key: bytes) -> int:
        if len(key) != _NUMBER.size:
            raise self._damaged("number")
        return int(_NUMBER.unpack(key)[0])

    def _damaged(self, what: str) -> IndexUnusable:
        return IndexUnusable(
            f"a {what} row of the index is damaged", where=str(self.environment.path)
        )


def rows_of(txn: Transaction, table: Table, keys: Iterable[bytes]) -> dict[bytes, bytes]:
    """The first row that begins with each key, of those that a table of sorted rows has."""
    found: dict[bytes, bytes] = {}
    with txn.cursor(table) as cursor:
        seek, value = cursor.set_range_dup, cursor.value
        for key in sorted(keys):  # neighbours share pages
            if seek(CHUNKS_KEY, key):
                row = value()
                if row.startswith(key):
                    found[key] = row
    return found


def part_count(rows: int, table_pages: int) -> int:
    """In how many parts so many sorted rows go into a table of so many pages.

    Each touches at most an eighth of the table; never more than 8 parts, and one for a table so
    small that its doubling does not matter.
    """
    if table_pages < SLICED_FROM_PAGES or not rows:
        return 1
    touched = table_pages * -math.expm1(-rows / table_pages)
    return min(PARTS_MAX, math.ceil(PARTS_MAX * touched / table_pages))


def slices(
    rows: Sequence[tuple[bytes, bytes]], table_pages: int
) -> Iterator[Sequence[tuple[bytes, bytes]]]:
    """Cuts sorted rows into `part_count` parts; none at all when there are no rows."""
    parts = part_count(len(rows), table_pages)
    length = max(1, math.ceil(len(rows) / parts))
    for start in range(0, len(rows), length):
        yield rows[start : start + length]


class _RowCache:
    """The segment rows read last, up to so many bytes of frame tables."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._rows: dict[int, SegmentRow] = {}
        self._lock = threading.Lock()

    def get(self, number: int) -> SegmentRow | None:
        return self._rows.get(number)

    def put(self, row: SegmentRow) -> None:
        with self._lock:
            self._remove(row.number)
            self._rows[row.number] = row
            self._bytes += len(row.frames) + _SEGMENT.size
            while self._bytes > self._bytes_max and len(self._rows) > 1:
                self._remove(next(iter(self._rows)))

    def forget(self, number: int) -> None:
        with self._lock:
            self._remove(number)

    def _remove(self, number: int) -> None:
        row = self._rows.pop(number, None)
        if row is not None:
            self._bytes -= len(row.frames) + _SEGMENT.size
