"""A restore job: conducts the plan and the workers of one restore until all is in the target."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from mount.filecontent import Stopped
from mount.links import Answer, LocalLinks, Registry
from mount.restorechannel import Answers, Ask, Broken, Ready, Start, Tell, Wait
from mount.restoreplan import Chosen, RestorePlan, Work
from mount.restorepool import Gone, RestorePool, Worker
from mount.restoreproblem import Problem, Problems
from mount.restorer import Restorer
from mount.restoretask import Done, Figures
from mount.target import Target
from repo.errors import Interrupted, JobFailed, RepositoryFailed
from repo.format.node import Entry
from repo.repository import Repository
from repo.types import MIB

HELD_PER_WORKER: Final = 2
TRIES_MAX: Final = 3
"""A task whose worker died is given to another one so many times in all."""

UNSTARTED_MAX: Final = 10
"""So many workers may be killed before they are ready; one that fails by itself ends the job."""

SMALL_ENTRIES: Final = 1000
SMALL_BYTES: Final = 32 * MIB
"""A restore of no more than this starts no process: it is done before they would be up."""

_POLL_SECONDS: Final = 0.1
_PROGRESS_SECONDS: Final = 0.1


class StreamState(NamedTuple):
    """What one stream does now. path: of the task in work, empty when idle."""

    number: int
    path: bytes = b""


@dataclass(frozen=True, slots=True)
class RestoreProgress:
    """How far a restore is. Sizes in bytes. `files` are entries that are no directories."""

    seconds: float = 0.0
    files: int = 0
    directories: int = 0
    bytes: int = 0
    bytes_written: int = 0
    entries_expected: int = 0
    """Files and directories together."""
    bytes_expected: int = 0
    problems: int = 0
    streams: Sequence[StreamState] = ()


OnProgress = Callable[[RestoreProgress], None]


class RestoreJob:
    """One restore. Use `run` once."""

    def __init__(
        self,
        repository: Repository,
        root_fd: int,
        chosen: Chosen,
        streams: int,
        *,
        on_progress: OnProgress,
        stop_asked: Callable[[], int],
    ) -> None:
        """`stop_asked`: how many times the user has asked to end."""
        self._repository = repository
        self._chosen = chosen
        self._on_progress = on_progress
        self._stop_asked = stop_asked
        self._started = self._shown = time.monotonic()
        self._registry = Registry(self._answer_late)
        self._target = Target(root_fd)
        self._restorer = Restorer(
            repository.reader,
            repository.keys,
            self._target,
            LocalLinks(self._registry),
            lambda: bool(stop_asked()),
        )
        small = chosen.entries <= SMALL_ENTRIES and chosen.bytes <= SMALL_BYTES
        self.streams = 1 if small else streams
        self._plan = RestorePlan(
            repository.tree, self._target, self._restorer, divide_files=self.streams > 1
        )
        self._pool = RestorePool(root_fd, self._start(root_fd)) if self.streams > 1 else None
        self._again: list[Work] = []
        self._tries: Counter[int] = Counter()
        self._unstarted = 0
        self.figures = Figures()
        self.problems = Problems()

    def _start(self, root_fd: int) -> Start:
        repository = self._repository
        return Start(
            repository.keys.export(),
            str(repository.path),
            repository.header.repository_id,
            str(repository.index_path),
            root_fd,
            repository.kept.nodes(),
        )

    def run(self, root: Entry, *, fresh: bool) -> None:
        """Restore what is chosen of `root`. `fresh`: the target was just made.

        Raises RepositoryFailed, Interrupted, JobFailed; then no half-made file is left.
        """
        self._plan.begin(root, self._chosen.selection, fresh=fresh)
        try:
            if self._pool is None:
                while (work := self._plan.next()) is not None:
                    self._do_here(work)
            else:
                for _ in range(self.streams):
                    self._pool.start_worker()
                self._run_with(self._pool)
            self._show(last=True)
        except Stopped:
            raise Interrupted(
                "the restore was interrupted",
                next_step="the same command again writes only what is still missing",
            ) from None
        finally:
            if self._pool is not None:
                self._pool.close(hurry=lambda: self._stop_asked() > 1)
            self._plan.abandon()
            self._target.close()

    def _do_here(self, work: Work) -> None:
        if self._stop_asked():
            raise Stopped
        self._take(work, self._restorer.run(work.task))
        self._show()

    def _run_with(self, pool: RestorePool) -> None:
        """Hand out tasks in the order of the plan until all have come back."""
        while True:
            if self._stop_asked():
                raise Stopped
            more = self._hand_out(pool)
            busy = any(worker.held for worker in pool.workers.values())
            if not more and not busy:
                return
            starting = not any(worker.ready for worker in pool.workers.values())
            if starting and not self._one_here():
                return
            for worker, message in pool.messages(0 if starting else _POLL_SECONDS):
                self._on_message(pool, worker, message)
            self._show()

    def _one_here(self) -> bool:
        """Do a task in this process while the workers start. Returns whether there was one."""
        work = self._next()
        if work is not None:
            self._do_here(work)
        return work is not None

    def _hand_out(self, pool: RestorePool) -> bool:
        """Give each worker what it has room for. Returns whether there may be more to do."""
        for worker in pool.workers.values():
            while worker.ready and len(worker.held) < HELD_PER_WORKER:
                work = self._next()
                if work is None:
                    return False
                worker.held[work.task.id] = work
                pool.send(worker, work.task)
        return True

    def _next(self) -> Work | None:
        return self._again.pop() if self._again else self._plan.next()

    # -- what workers say ---------------------------------------------------------------------

    def _on_message(self, pool: RestorePool, worker: Worker, message: Any) -> None:
        match message:
            case Done():
                self._take(worker.held.pop(message.task), message)
            case Ready():
                worker.ready = True
                self._plan.enlarge_tasks(self._chosen, self.streams)
            case Ask():
                answers = self._registry.ask(worker.number, message.asked)
                pool.send(worker, Answers(answers))
            case Tell():
                self._registry.tell(worker.number, message.made)
            case Wait():
                self._registry.wait(worker.number, message.groups)
            case Broken(repository=True):
                raise RepositoryFailed(
                    message.what, where=message.where, next_step=message.next_step
                )
            case Broken():
                raise JobFailed(message.what, where=message.where, next_step=message.next_step)
            case Gone():
                self._on_gone(pool, worker)

    def _answer_late(self, number: int, answers: Sequence[Answer]) -> None:
        """Answer a worker that waited."""
        if self._pool is not None and number in self._pool.workers:
            self._pool.send(self._pool.workers[number], Answers(list(answers)))

    def _on_gone(self, pool: RestorePool, worker: Worker) -> None:
        """A worker died: another one takes its tasks; the one it was at not for ever."""
        if not worker.ready:
            self._unstarted += 1
            status = worker.process.returncode
            if status >= 0 or self._unstarted > UNSTARTED_MAX:
                raise JobFailed(
                    f"a worker ended at its start, with status {status}",
                    next_step="run the same command again with --streams 1",
                )
        self._registry.lose(worker.number)
        works = list(worker.held.values())
        if works:
            at_work = works[0]
            self._tries[at_work.task.id] += 1
            if self._tries[at_work.task.id] >= TRIES_MAX:
                del works[0]
                where = b"/".join(at_work.task.path) or b"."
                self.problems.add(
                    Problem(where, "restore", 0, f"its worker process died {TRIES_MAX} times")
                )
                self._plan.lost(at_work)
        self._again += reversed(works)
        pool.start_worker()

    # -- figures ------------------------------------------------------------------------------

    def _take(self, work: Work, done: Done) -> None:
        self.figures.add(done.figures)
        self._plan.returned(work, done)

    def _show(self, *, last: bool = False) -> None:
        """Tell how far it is, when that is due."""
        now = time.monotonic()
        if now - self._shown < _PROGRESS_SECONDS and not last:
            return
        self._shown = now
        own = self._restorer.report(0)
        self.figures.add(own.figures)
        self.problems.merge(own.problems)
        figures = self.figures
        self._on_progress(
            RestoreProgress(
                seconds=now - self._started,
                files=figures.files,
                directories=figures.directories,
                bytes=figures.bytes,
                bytes_written=figures.bytes_written,
                entries_expected=self._chosen.entries,
                bytes_expected=self._chosen.bytes,
                problems=self.problems.total,
                streams=self._streams(),
            )
        )

    def _streams(self) -> Sequence[StreamState]:
        workers = self._pool.workers.values() if self._pool is not None else ()
        return [
            StreamState(worker.number, b"/".join(next(iter(worker.held.values())).task.path))
            if worker.held
            else StreamState(worker.number)
            for worker in workers
        ]
