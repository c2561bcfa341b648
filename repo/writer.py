"""A writer: the single half of writing: appends frames, commits them to the index, publishes.

All methods are called on one thread (LMDB's write transactions belong to a thread). The order
of writes is that of docs/decisions.md, "Order of writes": frames, fdatasync, index, point.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import NamedTuple

from repo.errors import Damaged, JobFailed
from repo.format.header import Header
from repo.format.manifest import Point
from repo.index.condemned import Condemned
from repo.index.doubt import in_doubt
from repo.index.environment import Environment, IndexUnusable, Transaction
from repo.index.places import Places
from repo.index.scratch import Scratch
from repo.keys import Keys
from repo.multiplexer import Multiplexer, OpenSegment, frame_table, place_rows
from repo.points import write_point
from repo.reach import Reach
from repo.reader import Reader
from repo.sealer import SealedFrame, Sealer, Ticket, frame_bytes_max, weight
from repo.storage.fetcher import Fetcher
from repo.storage.folder import Folder
from repo.types import (
    CHUNK_KEY_BYTES,
    GIB,
    ChunkId,
    SegmentClass,
    SegmentId,
)

COMMIT_SECONDS = 5.0
COMMIT_BYTES = GIB
COMMIT_CHUNKS = 1 << 18
"""A checkpoint is due after so much time, so many bytes or so many new chunks."""

_LOOKED_UP_TOGETHER = 4096


def _never() -> bool:
    return False


class Written(NamedTuple):
    """What a writer has appended so far: chunks and their plain bytes, and bytes on disk."""

    chunks: int
    plain_bytes: int
    stored_bytes: int


class Checkpoint(NamedTuple):
    """What one checkpoint covers: of each segment so many frames, and the segments it closes."""

    covered: dict[OpenSegment, int]
    closing: list[OpenSegment]

    @property
    def new_chunks(self) -> int:
        """Chunks whose places are not in the index yet."""
        return sum(
            frame.chunk_count
            for segment, count in self.covered.items()
            for frame in segment.frames[segment.committed : count]
        )

    def make_durable(self, keys: Keys) -> None:
        """Sync and close files: waits for the disk, hence on another thread than appending.

        Raises RepositoryFailed.
        """
        for segment in self.covered:
            if segment in self.closing:
                segment.close(keys)
            else:
                segment.appender.sync()


class Writer:
    """Writes one job's frames, nodes and points into a repository."""

    def __init__(
        self,
        folder: Folder,
        keys: Keys,
        header: Header,
        environment: Environment,
        *,
        level: int | None = 3,
        condemnations: int | None = None,
    ) -> None:
        """`condemnations`: their count when the job took its lease, if it has one."""
        self._folder = folder
        self._keys = keys
        self._header = header
        self._meta_frame_bytes = header.class_frame_bytes(SegmentClass.META)
        self._environment = environment
        self._places = Places(environment)
        self._multiplexer = Multiplexer(folder, keys, header)
        self._sealer = Sealer(level=level)
        self._pending: dict[ChunkId, bytes] = {}  # nodes waiting for a frame to be full
        self._pending_weight = 0
        self._uncommitted: set[bytes] = set()  # keys of nodes that no checkpoint covers yet
        self._committing: set[bytes] = set()  # and of those that the present one covers
        self._committed_at = time.monotonic()
        self._new_bytes = 0
        self._new_chunks = 0
        self._written = Written(0, 0, 0)
        self._condemned = Condemned(self._places)
        if condemnations is None:
            condemnations = self._condemned.condemnations()
        self._condemnations = condemnations

    @property
    def written(self) -> Written:
        """Totals since the writer was made."""
        return self._written

    def tickets(self, count: int, segment_class: SegmentClass = SegmentClass.DATA) -> list[Ticket]:
        """Rights to seal `count` frames."""
        return [self._multiplexer.ticket(segment_class) for _ in range(count)]

    def burn(self, segment_id: SegmentId, count: int) -> None:
        """Give up tickets that will not be used."""
        self._multiplexer.burn(segment_id, count)

    def append(self, segment_id: SegmentId, frame: SealedFrame, data: memoryview) -> None:
        """Append a sealed frame. Raises RepositoryFailed."""
        self._multiplexer.append(segment_id, frame, data)
        chunks = frame.chunk_count
        self._new_bytes += frame.sealed_bytes
        self._new_chunks += chunks
        total = self._written
        self._written = Written(
            total.chunks + chunks,
            total.plain_bytes + frame.plain_bytes,
            total.stored_bytes + frame.sealed_bytes,
        )

    def put_meta(self, chunk_id: ChunkId, data: bytes) -> bool:
        """Store a node, page or problem list of that id, unless the repository holds it.

        Whether it was new.
        """
        key = chunk_id[:CHUNK_KEY_BYTES]
        held = key in self._uncommitted or key in self._committing or chunk_id in self._pending
        if held or self._places.known([key]):
            return False
        self._pending[chunk_id] = data
        self._pending_weight += weight(len(data))
        if self._pending_weight >= self._meta_frame_bytes:
            self._flush_meta()
        return True

    def _flush_meta(self) -> None:
        if not self._pending:
            return
        chunks = list(self._pending.items())
        longest = max(len(data) for _, data in chunks)
        out = memoryview(bytearray(frame_bytes_max(self._pending_weight, longest)))
        ticket = self._multiplexer.ticket(SegmentClass.META)
        frame = self._sealer.seal(self._multiplexer.key(ticket), ticket.number, chunks, out)
        self.append(ticket.segment_id, frame, out)
        self._uncommitted.update(chunk_id[:CHUNK_KEY_BYTES] for chunk_id in self._pending)
        self._pending.clear()
        self._pending_weight = 0

    def commit_due(self) -> bool:
        """Whether a checkpoint is due, by time, bytes or chunks since the last one."""
        if not self._new_chunks:
            return False
        return (
            time.monotonic() - self._committed_at >= COMMIT_SECONDS
            or self._new_bytes >= COMMIT_BYTES
            or self._new_chunks >= COMMIT_CHUNKS
        )

    def commit(self, *, close: bool = False) -> None:
        """A whole checkpoint at once. With `close` every segment gets its footer: the job's end.

        Raises RepositoryFailed.
        """
        checkpoint = self.begin_checkpoint(close=close)
        checkpoint.make_durable(self._keys)
        self.finish_checkpoint(checkpoint)

    def begin_checkpoint(self, *, close: bool = False) -> Checkpoint:
        """What a checkpoint taken now covers. One at a time; appending may go on meanwhile."""
        self._flush_meta()
        closing = self._multiplexer.closable(everything=close)
        covered = {
            segment: len(segment.frames)
            for segment in self._multiplexer.segments()
            if segment in closing or segment.committed < len(segment.frames)
        }
        self._committing, self._uncommitted = self._uncommitted, set()
        self._new_bytes = self._new_chunks = 0
        self._committed_at = time.monotonic()
        return Checkpoint(covered, closing)

    def finish_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Put what a checkpoint made durable into the index. Raises RepositoryFailed."""
        self._index(checkpoint)
        for segment, frames in checkpoint.covered.items():
            segment.committed = frames
        for segment in checkpoint.closing:
            self._multiplexer.forget(segment)
        self._committing = set()

    def _index(self, checkpoint: Checkpoint) -> None:
        """Put what is durable into the index: usually in one transaction.

        A table that is large already takes its places in several (`Places.store_places`). Then
        segments count as closed only behind the last one: a crash before makes the next start
        add them again.
        """
        closing = checkpoint.closing
        if self._places.parts(checkpoint.new_chunks) == 1:
            self._environment.write(
                lambda txn: self._places.add_places(
                    txn, self._add_segments(txn, checkpoint, closed=closing)
                )
            )
            return
        self._places.store_places(
            self._environment.write(lambda txn: self._add_segments(txn, checkpoint, closed=[]))
        )
        if closing:
            self._environment.write(lambda txn: self._add_segments(txn, checkpoint, closed=closing))

    def _add_segments(
        self, txn: Transaction, checkpoint: Checkpoint, *, closed: list[OpenSegment]
    ) -> list[tuple[bytes, bytes]]:
        """Put segments and their frame tables into the index; the rows of their new chunks."""
        # Runs again from the start when the map has to grow: it must not change anything else.
        rows: list[tuple[bytes, bytes]] = []
        for segment, count in checkpoint.covered.items():
            if not count:
                continue  # it came to nothing, and its file is gone
            number = self._places.by_id(segment.id, txn)
            if number is None:
                number = self._places.add_segment(txn, segment.id, segment.segment_class)
            frames = segment.frames[:count]
            self._places.set_frames(txn, number, frame_table(frames), closed=segment in closed)
            rows += place_rows(number, frames[segment.committed :])
        rows.sort()
        return rows

    def publish(self, point: Point, *, unless: Callable[[], bool] = _never) -> bool:
        """Make a point visible. Everything it relies on must have been committed and closed.

        When garbage collection has condemned chunks since this writer began, what the point
        relies on is looked at again, and revived where it was condemned; also while the index is
        in doubt. Raises JobFailed when something is gone for good.

        unless: asked when nobody else who has this index can publish; when it says so, the point
        is not published, and False returned.
        """
        return self._publish(point, unless, looked=not in_doubt(self._environment))

    def _publish(self, point: Point, unless: Callable[[], bool], *, looked: bool) -> bool:
        while True:
            condemnations = self._condemned.condemnations()
            if condemnations != self._condemnations or not looked:
                self._verify(point)
                looked = True
                self._condemnations = condemnations
            published = self._link(point, unless)
            if published is not None:
                return published

    def _link(self, point: Point, unless: Callable[[], bool]) -> bool | None:
        """Link a point, unless chunks have been condemned meanwhile: None. Whether it is there.

        The transaction changes nothing. It keeps garbage collection, which lists the points
        in the transaction by which it condemns, from doing so between our look and our link.
        """
        linked: bool | None = None

        def change(txn: Transaction) -> None:
            nonlocal linked
            if self._condemned.condemnations(txn) == self._condemnations and linked is None:
                linked = not unless()
                if linked:
                    write_point(self._folder, self._keys, self._header, point)

        try:
            self._environment.write(change)
        except IndexUnusable:
            # Replaced by a rebuild just now. Our lease is one of another index to whoever collects
            # garbage with the new one, who removes nothing before he has seen this point.
            if linked is None:
                raise
        return linked

    def _verify(self, point: Point) -> None:
        """Look up all that a point relies on; what was condemned comes back to life."""
        waiting: list[bytes] = []

        def look() -> None:
            known = self._places.known(waiting)
            lost = [key for key in waiting if key not in known]
            gone: set[bytes] = set()
            if lost:
                gone = self._environment.write(lambda txn: self._condemned.revive(txn, lost))
            if gone:
                raise JobFailed(
                    f"{len(gone)} chunks that this point relies on are gone",
                    where=point.source_path or point.source_id,
                    next_step="run the same command again: what is missing is stored anew; where "
                    "it was taken over from points, `repo repair` first marks what they lack",
                )
            waiting.clear()

        def take(keys: Sequence[bytes]) -> None:
            waiting.extend(keys)
            if len(waiting) >= _LOOKED_UP_TOGETHER:
                look()

        with (
            closing(Fetcher(self._folder)) as fetcher,
            Scratch.make(self._environment.path.parent) as seen,
        ):
            try:
                Reach(Reader(fetcher, self._keys, self._places), seen, take).point(point)
            except Damaged as damage:
                raise JobFailed(
                    f"what this point relies on cannot be read: {damage.what}",
                    where=damage.where,
                    next_step="run `repo verify`, then the same command again",
                ) from damage
            look()

    def keep_unfinished(self, point: Point) -> None:
        """Keep the checkpoint of a run: what its tree relies on must have been committed.

        It may outlive the run and be a base later. So what it took over from a point that has been
        forgotten meanwhile is brought back to life as for a point that is published. A doubt of the
        index waits: who takes it for a base looks, too.
        """
        self._publish(point, _never, looked=True)

    def abandon(self) -> None:
        """After a failure: what was committed stays, open segments wait for recovery."""
        self._multiplexer.abandon()
