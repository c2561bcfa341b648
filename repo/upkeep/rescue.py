"""A rescue: chunks that are stored once more, in new segments, and their places in the index.

Order: frames, footers and files are durable before the index names them; only then do the chunks
leave the segment in which they were. Killed anywhere, what was done is found by the next start.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Final

from repo.index.condemned import Condemned
from repo.index.environment import Transaction
from repo.index.places import Places
from repo.multiplexer import Multiplexer, OpenSegment, frame_table, place_rows
from repo.repository import Repository
from repo.sealer import Chunk, Sealer, frame_bytes_max, weight
from repo.types import CHUNK_KEY_BYTES, GIB, ChunkId, SegmentClass

COMMIT_BYTES: Final = GIB
ROWS: Final = 8192
"""Rows that one transaction moves or removes."""


class Rescue:
    """Stores chunks in new segments, whether the index knows them already or not."""

    def __init__(self, repository: Repository, *, level: int | None = 3) -> None:
        self._keys = repository.keys
        self._environment = repository.environment
        self._places = repository.places
        self._frame_bytes = repository.header.class_frame_bytes
        self._multiplexer = Multiplexer(repository.folder, repository.keys, repository.header)
        self._sealer = Sealer(level=level)
        self._pending: dict[SegmentClass, list[Chunk]] = {}
        self._weights: dict[SegmentClass, int] = {}
        self._new: set[bytes] = set()  # keys that the index does not place in the new segments yet
        self._bytes = 0
        self.chunks = 0
        self.stored_bytes = 0

    def __contains__(self, chunk_id: bytes) -> bool:
        """Whether a chunk waits to be committed."""
        return chunk_id[:CHUNK_KEY_BYTES] in self._new

    def add(self, segment_class: SegmentClass, chunk_id: bytes, data: bytes) -> None:
        """Store a chunk, once. Raises RepositoryFailed."""
        if chunk_id in self:
            return
        self._new.add(chunk_id[:CHUNK_KEY_BYTES])
        self._pending.setdefault(segment_class, []).append((chunk_id, data))
        total = self._weights.get(segment_class, 0) + weight(len(data))
        self._weights[segment_class] = total
        self.chunks += 1
        if total >= self._frame_bytes(segment_class):
            self._seal(segment_class)
            if self._bytes >= COMMIT_BYTES:
                self.commit()

    def put(self, data: bytes) -> ChunkId:
        """Store a node or list, unless the repository holds it; its id."""
        chunk_id = self._keys.chunk_id(data)
        if chunk_id not in self and not self._places.known([chunk_id[:CHUNK_KEY_BYTES]]):
            self.add(SegmentClass.META, chunk_id, data)
        return chunk_id

    def _seal(self, segment_class: SegmentClass) -> None:
        chunks = self._pending.pop(segment_class, [])
        total = self._weights.pop(segment_class, 0)
        if not chunks:
            return
        out = memoryview(bytearray(frame_bytes_max(total, 0)))
        ticket = self._multiplexer.ticket(segment_class)
        frame = self._sealer.seal(self._multiplexer.key(ticket), ticket.number, chunks, out)
        self._multiplexer.append(ticket.segment_id, frame, out)
        self._bytes += frame.sealed_bytes
        self.stored_bytes += frame.sealed_bytes

    def commit(self) -> None:
        """Close the segments, and let the index name them. Raises RepositoryFailed."""
        for segment_class in list(self._pending):
            self._seal(segment_class)
        segments = list(self._multiplexer.segments())
        for segment in segments:
            segment.close(self._keys)
        for segment in segments:
            self._index(segment)
            self._multiplexer.forget(segment)
        self._new.clear()
        self._bytes = 0

    def _index(self, segment: OpenSegment) -> None:
        table = frame_table(segment.frames)

        def add(txn: Transaction) -> int:
            number = self._places.by_id(segment.id, txn)
            if number is None:
                number = self._places.add_segment(txn, segment.id, segment.segment_class)
            self._places.set_frames(txn, number, table, closed=True)
            return number

        number = self._environment.write(add)
        for rows in _slices(place_rows(number, segment.frames)):
            self._environment.write(partial(self._places.move_places, rows=rows))

    def abandon(self) -> None:
        """After a failure: what was committed stays, open segments wait for recovery."""
        self._multiplexer.abandon()


def forget_segments(places: Places, repository: Repository, numbers: Iterable[int]) -> int:
    """Take segments and all chunks that are still placed there out of the index; how many chunks.

    Writers that rely on such a chunk find out before they publish, as after a garbage collection.
    """
    going = set(numbers)
    removed = 0
    keys = (key for key, place in places.rows() if place.segment in going)
    while batch := list(islice(keys, ROWS)):
        removed += repository.environment.write(partial(_remove, places, batch))

    def drop(txn: Transaction) -> None:
        for number in going:
            places.remove_segment(txn, number)

    if going:
        repository.environment.write(drop)
        repository.environment.sync()
    return removed


def _remove(places: Places, keys: Sequence[bytes], txn: Transaction) -> int:
    Condemned(places).begin(txn)
    return places.remove_places(txn, keys)


def _slices(rows: Sequence[tuple[bytes, bytes]]) -> Iterator[Sequence[tuple[bytes, bytes]]]:
    for at in range(0, len(rows), ROWS):
        yield rows[at : at + ROWS]
