"""A dispatcher: hands the queued tasks of a job to its workers, and starts workers for them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Final

from ingest.channel import Assign, Flush
from ingest.jobsource import JobSource
from ingest.planner import Planner, Work
from ingest.pool import THREAD, Handle, Pool
from ingest.task import RangeTask, Task

THREAD_TASKS: Final = 12
"""Tasks that may wait before a worker process is started for them."""

ALONE_SECONDS: Final = 0.4
"""So long a job of exact changes does without worker processes, however many tasks there are: most
such jobs are over by then, and to start a process costs half as much."""


class Dispatcher:
    """Of one job, on the master's loop. `streams_used`: the most workers that there were."""

    def __init__(
        self,
        planner: Planner,
        pool: Pool,
        sources: Sequence[JobSource],
        streams_max: int,
        *,
        started: float,
    ) -> None:
        """`started`: when the job began, in seconds on the monotonic clock."""
        self._planner = planner
        self._pool = pool
        self._sources = sources
        self._streams_max = streams_max
        self._started = started
        self.streams_used = 0

    @property
    def _active(self) -> list[Handle]:
        return [h for h in self._pool.workers.values() if h.ready and not h.retired]

    @property
    def nothing_left(self) -> bool:
        """Whether no task is queued, and none is with a worker."""
        return not len(self._planner) and not any(h.held for h in self._pool.workers.values())

    @property
    def somebody_idle(self) -> bool:
        """Whether a worker has nothing to do, and nothing is queued for it."""
        return not len(self._planner) and any(not handle.held for handle in self._active)

    def hand_out(self) -> None:
        """Give the workers what they have room for."""
        workers = self._active
        for handle in workers:
            if any(work.suspect for work in handle.held.values()):
                continue  # it must be alone with it, to know what it dies of
            taken = self._planner.take(
                workers=len(workers),
                on_ranges=partial(_others_on_ranges, workers, handle),
                holds=len(handle.held),
            )
            if taken:
                self._assign(handle, taken)
        for handle in self._pool.workers.values():
            if handle.ready and not handle.held:
                _idle(handle)

    def _assign(self, handle: Handle, taken: list[Work]) -> None:
        tasks: list[Task] = []
        for work in taken:
            handle.held[work.task.id] = work
            source = self._sources[work.task.source]
            tasks.append(source.descent.prepared(work))
        handle.path = taken[-1].task.path
        handle.flushed = False
        handle.send(Assign(tasks))

    def start_workers(self) -> None:
        """Start as many worker processes as the queue demands. Raises JobFailed."""
        processes = len(self._pool.workers) - (THREAD in self._pool.workers)
        starting = sum(not handle.ready for handle in self._pool.workers.values())
        while processes < self._streams_max and self._pool.has_room:
            small = len(self._planner) - self._planner.ranges
            demanded = small > THREAD_TASKS * processes or self._planner.ranges > starting
            if not demanded or (not processes and self._thread_suffices()):
                break
            self._pool.start_process()
            processes += 1
            starting += 1
        self.streams_used = max(self.streams_used, processes, 1)

    def _thread_suffices(self) -> bool:
        thread = self._pool.workers.get(THREAD)
        few = len(self._planner) <= THREAD_TASKS or self._is_soon_over()
        return few and self._planner.ranges <= 1 and thread is not None and not thread.retired

    def _is_soon_over(self) -> bool:
        young = time.monotonic() - self._started < ALONE_SECONDS
        return young and all(source.foundation.exact for source in self._sources)

    def retire_thread(self) -> None:
        """The first process is there: the thread would only take the interpreter from the loop.

        It stays retired when all processes die: a task that kills workers must not come to it.
        """
        thread = self._pool.workers.get(THREAD)
        if thread is not None:
            others = (h.ready for h in self._pool.workers.values() if h.number != THREAD)
            thread.retired = thread.retired or any(others)


def _idle(handle: Handle) -> None:
    """A worker has nothing to do: what it has in hand must not wait for more."""
    if not handle.flushed:
        handle.flushed = True
        handle.send(Flush())


def _others_on_ranges(workers: Sequence[Handle], this: Handle) -> int:
    return sum(
        any(isinstance(work.task, RangeTask) for work in handle.held.values())
        for handle in workers
        if handle is not this
    )
