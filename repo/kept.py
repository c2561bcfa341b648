"""Kept nodes: directories that are in no segment, in memory as long as a repository is open.

The tree of a delta point comes to be when it is looked at, by merging it with its base. The nodes
which that makes have ids and places like all others, in a segment that does not exist, each as a
frame of its own, so that whoever reads chunks by id, by place or by frame finds them. They are
compressed, for a repository may have many deltas, and never on disk, where nothing goes unsealed.
"""

from __future__ import annotations

import threading
from typing import Final

import zstandard

from repo.errors import Damaged, JobFailed
from repo.format.frame import FrameChunk
from repo.format.place import Place
from repo.sealer import Frame
from repo.types import MIB, ChunkId

KEPT_SEGMENT: Final = 0xFFFF_FFFF
"""The number of the segment that does not exist: above all that an index gives out."""

KEPT_BYTES_MAX: Final = 128 * MIB
"""Compressed; that is three or four times as much."""

HANDED_BYTES_MAX: Final = 200 * MIB
"""Plain bytes that another process is given."""

_LEVEL: Final = 1


class Kept:
    """Nodes by id and by number. For all threads of the process."""

    def __init__(self) -> None:
        self._places: dict[bytes, Place] = {}
        self._nodes: list[tuple[bytes, bytes]] = []
        self._bytes = 0
        self._compressor = zstandard.ZstdCompressor(level=_LEVEL, write_content_size=True)
        self._lock = threading.Lock()

    def add(self, chunk_id: ChunkId, data: bytes) -> None:
        """Take a node. Raises JobFailed when there are too many to be kept in memory."""
        with self._lock:
            if chunk_id in self._places:
                return
            packed = self._compressor.compress(data)
            if self._bytes + len(packed) > KEPT_BYTES_MAX:
                raise _too_many()
            self._bytes += len(packed)
            self._nodes.append((chunk_id, packed))
            self._places[chunk_id] = Place(KEPT_SEGMENT, len(self._nodes) - 1, 0, len(data))

    def place(self, chunk_id: bytes) -> Place | None:
        """The place of a node, if it is one of these."""
        return self._places.get(chunk_id)

    def frame(self, number: int) -> Frame:
        """A node as a frame. Raises Damaged for a number that was never given."""
        if number >= len(self._nodes):
            raise Damaged("no such node of a delta point", where=f"number {number}")
        chunk_id, packed = self._nodes[number]
        data = zstandard.ZstdDecompressor().decompress(packed)
        return Frame(number, {chunk_id: FrameChunk(chunk_id, 0, len(data))}, memoryview(data))

    def nodes(self) -> list[bytes]:
        """All of them, for another process. Raises JobFailed when that are too many."""
        if sum(place.length for place in self._places.values()) > HANDED_BYTES_MAX:
            raise _too_many()
        unpack = zstandard.ZstdDecompressor().decompress
        return [unpack(packed) for _, packed in self._nodes]


def _too_many() -> JobFailed:
    return JobFailed(
        "delta points change too many directories to be shown as they are",
        next_step="`repo synth POINT` makes a full of one",
    )
