"""Checkpoints: what a running job has made durable, so that a killed one resumes.

Frames and their places become durable so often that little is lost. When something has been
read since the last time, what is there of each source is kept besides, as an unfinished point.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Generic, Protocol, TypeVar

import msgspec
import trio

from ingest.assembly import SourceAssembly
from ingest.claims import Claims
from ingest.committer import Committer
from ingest.rehearsal import Rehearsal
from repo.format.manifest import Point, Problem
from repo.format.node import Entry
from repo.keys import Keys
from repo.writer import COMMIT_BYTES, Writer


class Kept(Protocol):
    """A source as checkpoints see it."""

    assembly: SourceAssembly
    failure: Problem | None


Source = TypeVar("Source", bound=Kept)


class Checkpoints(Generic[Source]):
    """The checkpoints of one job, one after the other."""

    def __init__(
        self,
        writer: Writer | Rehearsal,
        committer: Committer,
        claims: Claims,
        keys: Keys,
        sources: Sequence[Source],
        as_point: Callable[[Source, Entry], Point | None],
        *,
        seconds: float,
    ) -> None:
        """`as_point`: how the root of a source, as far as it was saved, becomes a point; None: it
        is not kept before it is done. `seconds`: what is read is kept so often.
        """
        self._as_point = as_point
        self._writer = writer
        self._committer = committer
        self._claims = claims
        self._keys = keys
        self._sources = sources
        self._seconds = seconds
        self._one_at_a_time = trio.Lock()
        self._kept_bytes_read = 0
        self._kept_at = time.monotonic()

    async def keep_on(self) -> None:
        """Checkpoints as they come due, until cancelled."""
        while True:
            await trio.sleep(0.1)
            await self.when_due()

    async def when_due(self) -> None:
        """A checkpoint, if one is due."""
        async with self._one_at_a_time:
            if self._writer.commit_due() or self._unfinished_due:
                await self._checkpoint()

    async def last(self, *, unfinished: bool) -> None:
        """The end of a job: all segments are closed. `unfinished`: it ends before it is done."""
        async with self._one_at_a_time:
            points = self._unfinished() if unfinished else []
            await self._committer.call(lambda: self._writer.commit(close=True))
            await self._keep(points)

    @property
    def _bytes_read(self) -> int:
        return sum(source.assembly.bytes_read for source in self._sources)

    @property
    def _unfinished_due(self) -> bool:
        """Whether enough has been read that nobody should have to read it again."""
        read = self._bytes_read - self._kept_bytes_read
        return read >= COMMIT_BYTES or (
            read > 0 and time.monotonic() - self._kept_at >= self._seconds
        )

    async def _checkpoint(self) -> None:
        """Make durable what has arrived, while more goes on arriving."""
        # No await until the checkpoint has begun: so it covers the nodes of the unfinished points
        # and all that they rely on. Frames delivered so far were posted before this call, too.
        # Of what was read since the last one nothing is put off: the writer's commits come first.
        points = self._unfinished() if self._bytes_read > self._kept_bytes_read else []
        keys = self._claims.take_delivered()
        checkpoint = await self._committer.call(self._writer.begin_checkpoint)
        await trio.to_thread.run_sync(checkpoint.make_durable, self._keys)
        await self._committer.call(lambda: self._writer.finish_checkpoint(checkpoint))
        self._claims.committed(keys)
        await self._keep(points)

    def _unfinished(self) -> list[Point]:
        """What is there of each source as a point. Its nodes are on their way to the writer."""
        points: list[Point] = []
        for source in self._sources:
            made = source.assembly.so_far() if source.failure is None else None
            point = self._as_point(source, made.root) if made is not None else None
            if made is not None and point is not None:
                points.append(
                    msgspec.structs.replace(
                        point,
                        unfinished=True,
                        problems_total=point.problems_total + len(made.begun),
                        problems=(*point.problems, *made.problems),
                    )
                )
        self._kept_bytes_read = self._bytes_read
        return points

    async def _keep(self, points: Sequence[Point]) -> None:
        """Keep points whose nodes are durable, in the place of the last checkpoint's."""
        for point in points:
            await self._committer.call(partial(self._writer.keep_unfinished, point))
        self._kept_at = time.monotonic()
