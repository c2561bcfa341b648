"""A job: one run of ingest over one or more sources, as the master conducts it.

Everything here runs on one trio loop; no await stands between looking at the state of a
task and changing it, except where a comment says so. The committer's thread does what waits for
disks.
"""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import trio

from ingest import channel
from ingest.channel import Answer, Halt, SlotFree, Start
from ingest.checkpoints import Checkpoints
from ingest.claims import Claims
from ingest.committer import Committer
from ingest.descent import Descent
from ingest.dispatcher import Dispatcher
from ingest.further import NOTHING_FURTHER, Further
from ingest.jobsource import JobSource
from ingest.largefiles import LargeFiles
from ingest.options import Options
from ingest.planner import TRIES_MAX, Planner, Work
from ingest.pool import Handle, Pool
from ingest.progress import ProgressState, StreamState, state_of
from ingest.rehearsal import Rehearsal
from ingest.results import Results
from ingest.retries import Retries
from ingest.stream import TICKETS_HELD
from ingest.task import ListTask, RangeTask
from ingest.worker import serve
from repo.errors import Interrupted, JobFailed, RepoError
from repo.format.manifest import Point, Problem
from repo.format.node import Entry
from repo.keys import Keys
from repo.repository import Repository
from repo.sealer import SealedFrame, Ticket, frame_bytes_max
from repo.types import MIB, ChunkId
from repo.writer import Writer

BACKLOG_BYTES_MAX: Final = 32 * MIB
"""Nodes waiting for the committer; beyond, workers' messages wait."""

TICKETS_FETCHED: Final = 16


class Job:
    """Conducts the workers until every source has its root node. Use `run` once."""

    def __init__(
        self,
        repository: Repository,
        writer: Writer | Rehearsal,
        sources: Sequence[JobSource],
        options: Options,
        *,
        on_progress: Callable[[ProgressState], None],
        on_notice: Callable[[str], None],
        bytes_expected: int = 0,
        further: Further = NOTHING_FURTHER,
    ) -> None:
        """`further` takes more sources when workers would have nothing to do."""
        self._repository = repository
        self._keys: Keys = repository.keys
        self._header = repository.header
        self._places = repository.places
        self._writer = writer
        self._sources = list(sources)
        self._further: Further | None = further
        self._taking = False
        self._options = options
        self._on_progress = on_progress
        self._on_notice = on_notice
        self._bytes_expected = bytes_expected
        self._planner = Planner()
        self._claims = Claims(self._known)
        self._retries = Retries(self._planner)
        self._large_files = LargeFiles(
            repository,
            self._planner,
            self._sources,
            options.range_bytes,
            retry=self._retries.add,
            dispatch=self.dispatch,
            on_notice=on_notice,
        )
        self._results = Results(
            self,
            self._planner,
            self._sources,
            self._claims,
            self._large_files,
            self._retries,
            on_notice,
        )
        self._spare_tickets: deque[Ticket] = deque()
        self._finished = trio.Event()
        self._failure: BaseException | None = None
        self._interrupts = 0
        self._dead_workers = 0
        started = options.started
        self._started = time.monotonic() if started is None else started

    # -- from outside -------------------------------------------------------------------------

    async def run(self) -> None:
        """Save all sources. What is in the index and closed afterwards is durable.

        Raises RepositoryFailed, JobFailed, or Interrupted when `interrupt` was called: all that
        was stored until then is durable also in that case.
        """
        try:
            async with trio.open_nursery() as nursery:
                self._scope = nursery.cancel_scope
                self._nursery = nursery
                self._committer = Committer(self._committer_failed)
                self._checkpoints = Checkpoints(
                    self._writer,
                    self._committer,
                    self._claims,
                    self._keys,
                    self._sources,
                    self._as_point,
                    seconds=self._options.checkpoint_seconds,
                )
                self._pool = self._new_pool(nursery)
                self._dispatcher = Dispatcher(
                    self._planner,
                    self._pool,
                    self._sources,
                    self._options.streams,
                    started=self._started,
                )
                for number, source in enumerate(self._sources):
                    self._begin(number, source)
                nursery.start_soon(self._report)
                nursery.start_soon(self._checkpoints.keep_on)
                self._pool.start_thread(serve)
                await self._finished.wait()
                await self._finish()
                nursery.cancel_scope.cancel()
        finally:
            self._pool.close()
            self._committer.end()
        if self._committer.failure is not None:
            raise self._committer.failure
        if self._failure is not None:
            raise self._failure
        self._on_progress(self.state())

    def _begin(self, number: int, source: JobSource) -> None:
        source.begin(number, partial(self._put_meta, source))
        device = os.fstat(source.root_fd).st_dev
        source.descent = Descent(
            source.assembly, source.foundation, device, self._planner.next_id, self._on_notice
        )
        for work in source.descent.start():
            self._planner.add(work)

    def _as_point(self, source: JobSource, root: Entry) -> Point | None:
        return source.as_point(root, self.state()) if source.as_point is not None else None

    def interrupt(self) -> None:
        """Stop: the first time when what is claimed is stored, the second time at once."""
        self._interrupts += 1
        if self._interrupts > 1:
            self.fail(_interrupted())
            return
        self._planner.stop()
        self._retries.stop()
        for handle in self._pool.workers.values():
            if handle.ready:
                handle.send(Halt())
        self.check_end()
        self._pool.flush()

    def _new_pool(self, nursery: trio.Nursery) -> Pool:
        return Pool(
            nursery,
            start=self._start_message,
            roots=lambda: [source.root_fd for source in self._sources],
            workers_max=self._options.streams,
            slot_bytes=self._slot_bytes,
            on_message=self._on_message,
            on_gone=self._on_gone,
        )

    @property
    def _slot_bytes(self) -> int:
        most = frame_bytes_max(self._header.frame_bytes, self._header.chunk_maximum)
        return math.ceil(most / 4096) * 4096

    def _start_message(self, stream: int, slots: tuple[int, ...]) -> Start:
        header = self._header
        return Start(
            stream=stream,
            keys=self._keys.export(),
            chunker=(header.chunk_minimum, header.chunk_average, header.chunk_maximum),
            frame_bytes=header.frame_bytes,
            range_bytes=self._options.range_bytes,
            levels=self._options.levels,
            slots=slots,
            slot_bytes=self._slot_bytes,
            roots=tuple(source.root_fd for source in self._sources),
            subjects=tuple(source.subject for source in self._sources),
        )

    @property
    def streams_used(self) -> int:
        """The most workers that there were at one time, 1 at least."""
        return self._dispatcher.streams_used

    # -- ends ---------------------------------------------------------------------------------

    def fail(self, error: BaseException) -> None:
        """End the job now, with this error unless there was one before."""
        if self._failure is None:
            self._failure = error
        self._scope.cancel()

    def _committer_failed(self) -> None:
        self._scope.cancel()

    async def _finish(self) -> None:
        """Close the segments: every number given out has come back or is burned."""
        for source in self._sources:
            source.assembly.close_problems()
        unused = list(self._spare_tickets)
        for handle in self._pool.workers.values():
            for segment_id, count in handle.tickets.items():
                self._burn(segment_id, count)
            handle.tickets.clear()
        for ticket in unused:
            self._burn(ticket.segment_id, 1)
        await self._checkpoints.last(unfinished=bool(self._interrupts))
        if self._interrupts:
            self._failure = _interrupted()

    def _burn(self, segment_id: Any, count: int) -> None:
        if count:  # none of a segment that has been closed meanwhile
            self._committer.post(lambda: self._writer.burn(segment_id, count))

    async def _report(self) -> None:
        """Progress, ten times a second."""
        while True:
            await trio.sleep(0.1)
            self._on_progress(self.state())

    def state(self) -> ProgressState:
        """How far the job is now."""
        written = self._writer.written
        return state_of(
            (source.assembly for source in self._sources),
            seconds=time.monotonic() - self._started,
            bytes_new=written.plain_bytes,
            bytes_stored=written.stored_bytes,
            pending=len(self._planner),
            bytes_expected=self._bytes_expected,
            streams=[
                StreamState(h.number, b"/".join(h.path).decode(errors="replace"))
                for h in self._pool.workers.values()
                if h.held
            ],
        )

    # -- storing ------------------------------------------------------------------------------

    def _known(self, keys: Sequence[bytes]) -> set[bytes]:
        return self._places.known(keys)

    def _put_meta(self, source: JobSource, data: bytes) -> ChunkId:
        chunk_id = self._keys.chunk_id(data)

        def put() -> None:
            if self._writer.put_meta(chunk_id, data):
                source.nodes_new += len(data)

        self._committer.post(put, size=len(data))
        return chunk_id

    async def _answer(self, handle: Handle, claim: channel.Claim) -> None:
        new = self._claims.answer(handle.number, claim.sequence, claim.keys)
        wanted = TICKETS_HELD - handle.tickets.total() if any(new) else 0
        while len(self._spare_tickets) < wanted:
            # Others may take tickets meanwhile, hence the loop.
            self._spare_tickets.extend(
                await self._committer.call(lambda: self._writer.tickets(TICKETS_FETCHED))
            )
        tickets = [self._spare_tickets.popleft() for _ in range(wanted)]
        for ticket in tickets:
            handle.tickets[ticket.segment_id] += 1
        handle.send(Answer(claim.sequence, new, tickets))

    def _append(self, handle: Handle, ready: channel.FrameReady) -> None:
        segment_id: Any = ready.segment_id
        handle.tickets[segment_id] -= 1
        frame = SealedFrame(ready.number, ready.sealed_bytes, ready.plain_bytes, ready.chunks)
        data = self._pool.slot(ready.slot, ready.sealed_bytes)

        def done() -> None:
            if not handle.gone:
                handle.send(SlotFree(ready.slot))
                handle.flush()

        self._committer.post(lambda: self._writer.append(segment_id, frame, data), done)
        self._claims.delivered(handle.number, ready.through)
        for number, size in ready.shares:
            self._sources[number].chunks_new += size

    # -- messages -----------------------------------------------------------------------------

    async def _on_message(self, handle: Handle, message: Any) -> None:
        match message:
            case channel.Claim():
                await self._answer(handle, message)
            case channel.FrameReady():
                self._append(handle, message)
            case channel.Listed() | channel.Saved() | channel.RangeSaved():
                self._result(handle, message)
                self.dispatch()
                await self._committer.room(BACKLOG_BYTES_MAX)
            case channel.Ready():
                handle.ready = True
                if self._interrupts:
                    handle.send(Halt())
                self._dispatcher.retire_thread()
                self.dispatch()
            case channel.Halted():
                handle.halted = True
                self.check_end()
            case channel.Broken(error):
                self._on_notice(f"a worker failed: {error}")

    def _result(self, handle: Handle, message: Any) -> None:
        work = handle.held.pop(message.task)
        match message:
            case channel.Listed():
                self._results.listed(handle, work, message)
            case channel.Saved():
                self._results.part_saved(handle, work, message)
            case channel.RangeSaved():
                self._results.range_saved(handle, work, message)

    # -- dispatching --------------------------------------------------------------------------

    def dispatch(self) -> None:
        """Hand out tasks; start workers when the queue demands; see whether the job is over."""
        if self._finished.is_set():
            return
        if self._dispatcher.nothing_left:
            self._add_held_back()
        self._dispatcher.hand_out()
        if self._dispatcher.somebody_idle:
            self._take_further()
        self._dispatcher.start_workers()
        self.check_end()

    def _take_further(self) -> None:
        """A worker has nothing to do: have the next source taken for it."""
        if self._further is not None and not self._taking and not self._interrupts:
            self._taking = True
            self._nursery.start_soon(self._take, self._further)

    async def _take(self, further: Further) -> None:
        try:
            more = await trio.to_thread.run_sync(further.take)
            found = further.taken()
            await trio.to_thread.run_sync(further.survey, trio.from_thread.check_cancelled)
        except RepoError as error:
            self.fail(error)
            return
        # No await from here: a task of a source must not come before the source itself.
        self._taking = False
        self._further = further if more else None
        if not self._interrupts:
            for source in found:
                self._sources.append(source)
                for handle in self._pool.workers.values():
                    handle.send_with(channel.Further(source.subject), source.root_fd)
                self._begin(len(self._sources) - 1, source)
        self.dispatch()
        self._pool.flush()

    def _add_held_back(self) -> None:
        """Queue what was to come behind everything else: moved directories, then last tries."""
        for source in self._sources:
            for work in source.descent.found():
                self._planner.add(work)
        if not len(self._planner):
            self._retries.begin_last()

    def check_end(self) -> None:
        """End the job when every source is done, or when it is interrupted and all have stopped."""
        if self._interrupts:
            over = all(h.halted or not h.ready for h in self._pool.workers.values())
        else:
            over = self._further is None and all(
                s.assembly.done or s.failure is not None for s in self._sources
            )
        if over:
            self._finished.set()

    # -- dead workers -------------------------------------------------------------------------

    def _on_gone(self, handle: Handle) -> None:
        """A worker died: burn its tickets, free its claims, do its tasks elsewhere."""
        self._dead_workers += 1
        self._pool.remove(handle)
        for segment_id, count in handle.tickets.items():
            self._burn(segment_id, count)
        # Its slots may still be on their way to the disk: they are free behind what was posted.
        self._committer.post(lambda: None, lambda: self._slots_free(handle.slots))
        alone = len(handle.held) == 1
        for work in handle.held.values():
            self._lost(work, alone=alone)
        self._claims.lost(handle.number)
        if self._dead_workers > TRIES_MAX * (self._options.streams + 1):
            self.fail(
                JobFailed(
                    f"{self._dead_workers} workers died",
                    where="ingest",
                    next_step="see the messages above and the kernel's log (out of memory?)",
                )
            )
            return
        self.dispatch()

    def _slots_free(self, slots: Sequence[int]) -> None:
        self._pool.free(slots)
        self.dispatch()
        self._pool.flush()

    def _lost(self, work: Work, *, alone: bool) -> None:
        work.suspect = True
        work.tries += alone
        if work.tries < TRIES_MAX:
            self._planner.again(work)
            return
        task, directory = work.task, work.directory
        path = b"/".join((*task.path, *((task.name,) if isinstance(task, RangeTask) else ())))
        problem = Problem(path, "read", 0, f"{TRIES_MAX} workers died over it")
        if isinstance(task, ListTask):
            work.last_try = True
            self._results.not_listed(
                work, channel.Listed(task.id, 0, channel.Counts(), error=problem)
            )
        elif isinstance(task, RangeTask):
            self._large_files.range_arrived(
                work, channel.RangeSaved(task.id, 0, b"", 0, 0, problem.detail, errno=-1)
            )
        else:
            directory.source.problem(problem)
            directory.source.arrived(directory)


def _interrupted() -> Interrupted:
    return Interrupted(
        "interrupted",
        next_step="what was stored until now is kept: the same command finds it again",
    )
