"""A rehearsal: stands in for the writer of a job when nothing is to be stored."""

from __future__ import annotations

import secrets

from repo.format.manifest import Point
from repo.sealer import SealedFrame, Ticket
from repo.types import ChunkId, SegmentId
from repo.writer import Checkpoint, Written


class Rehearsal:
    """Counts what a writer would store. The frames are made and then dropped."""

    def __init__(self) -> None:
        self._segment_id = SegmentId(secrets.token_bytes(16))
        self._salt = secrets.token_bytes(32)
        self._number = 0
        self.written = Written(0, 0, 0)

    def tickets(self, count: int) -> list[Ticket]:
        """Frame numbers of a segment that will never be."""
        first, self._number = self._number, self._number + count
        return [Ticket(self._segment_id, self._salt, n) for n in range(first, self._number)]

    def burn(self, _segment_id: SegmentId, _count: int) -> None:
        """Tickets given back: nothing was kept for them."""

    def append(self, _segment_id: SegmentId, frame: SealedFrame, _data: memoryview) -> None:
        """Count a frame."""
        total = self.written
        self.written = Written(
            total.chunks + frame.chunk_count,
            total.plain_bytes + frame.plain_bytes,
            total.stored_bytes + frame.sealed_bytes,
        )

    def put_meta(self, _chunk_id: ChunkId, _data: bytes) -> bool:
        """Nodes are not counted: they tell of the source, they are not its content."""
        return False

    def begin_checkpoint(self) -> Checkpoint:
        """A checkpoint that covers nothing."""
        return Checkpoint({}, [])

    def finish_checkpoint(self, _checkpoint: Checkpoint) -> None:
        """Nothing goes into the index."""

    def commit_due(self) -> bool:
        """Never: the keys of what was dropped stay with the claims."""
        return False

    def commit(self, *, close: bool = False) -> None:
        """Nothing to make durable, `close` or not."""

    def keep_unfinished(self, _point: Point) -> None:
        """Nothing is kept of it."""

    def abandon(self) -> None:
        """Nothing was begun."""
