"""Liveness: which chunks of the index are marked, part by part, and how much of each segment.

Plain bytes are counted, for they are what the index knows of a chunk; how much of a segment's file
that is shows when its frames are looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple

from repo.format.frame import TABLE_ROW
from repo.index.places import Places
from repo.types import CHUNK_KEY_BYTES, SegmentClass, SegmentId
from repo.upkeep.marks import Marks

_PLACE = Struct("<16sIIII")
_BATCH = 1 << 14


class SegmentState(NamedTuple):
    """A closed segment that may be collected. Bytes are plain ones of all its frames, dead or
    alive; `sealed_bytes` is what they take on disk.
    """

    number: int
    segment_id: SegmentId
    segment_class: SegmentClass
    plain_bytes: int
    sealed_bytes: int


class Part(NamedTuple):
    """One part of the index: rows of dead chunks (key and place), keys that are marked and that the
    index does not have, and how many are alive.
    """

    dead: list[bytes]
    lost: set[bytes]
    alive: int


def segment_states(places: Places, below: int, retired: set[int]) -> dict[int, SegmentState]:
    """The closed segments with a number below, but for the retired ones."""
    found: dict[int, SegmentState] = {}
    for row in places.segments():
        if row.closed and row.number < below and row.number not in retired:
            plain = sealed = 0
            for _, sealed_bytes, plain_bytes in TABLE_ROW.iter_unpack(row.frames):
                plain += plain_bytes
                sealed += sealed_bytes
            found[row.number] = SegmentState(
                row.number, row.segment_id, row.segment_class, plain, sealed
            )
    return found


class Liveness:
    """Compares the index with marks. `alive_bytes`: plain bytes of live chunks by segment."""

    def __init__(self, places: Places, marks: Marks, states: dict[int, SegmentState]) -> None:
        self._places = places
        self._marks = marks
        self._states = states
        self.alive_bytes: Counter[int] = Counter()
        self.dead_chunks = self.alive_chunks = 0

    def parts(self) -> Iterator[int]:
        """The numbers of the parts, one after the other."""
        yield from range(len(self._marks.ranges))

    def part(self, number: int) -> Part:
        """Look at one part. Chunks of segments that may not be collected count as alive."""
        marked = self._marks.part(number)
        start, stop = self._marks.ranges[number]
        states = self._states
        dead: list[bytes] = []
        alive = 0
        unseen = set(marked)
        sizes: Counter[int] = Counter()
        for batch in self._places.row_batches(start, stop, _BATCH):
            for row, (key, segment, _, _, length) in zip(
                batch, _PLACE.iter_unpack(b"".join(batch)), strict=True
            ):
                if key in marked:
                    unseen.discard(key)
                elif segment in states:
                    dead.append(row)
                    continue
                alive += 1
                sizes[segment] += length
        self._places.environment.release_memory()
        self.alive_bytes += sizes
        self.alive_chunks += alive
        self.dead_chunks += len(dead)
        return Part(dead, unseen, alive)


assert _PLACE.size == CHUNK_KEY_BYTES + 16
