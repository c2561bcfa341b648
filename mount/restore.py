"""A restore: what `repo restore` does, from a point and paths in it to files in the target."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from mount.restorejob import OnProgress, RestoreJob, RestoreProgress, StreamState
from mount.restoreplan import choose
from mount.restoreproblem import Problem
from repo.errors import JobFailed, UsageError
from repo.format.manifest import Point
from repo.repository import Repository

__all__ = ["Problem", "RestoreProgress", "RestoreSummary", "StreamState", "restore"]

OnNotice = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class RestoreSummary:
    """What came of a restore. Sizes in bytes.

    files: entries that are no directories; files_unchanged: regular files whose content was
    there. bytes: of regular files as they are now; bytes_written: what had to be written.
    damaged: how many of the problems lie with the repository (exit status 4). `problems` names
    them; those of one kind come as one with a count, problems_total counts them all.
    """

    files: int
    directories: int
    bytes: int
    bytes_written: int
    files_unchanged: int
    problems: Sequence[Problem]
    problems_total: int
    damaged: int
    seconds: float
    streams: int


def restore(
    repository: Repository,
    point: Point,
    *,
    paths: Sequence[bytes] = (),
    to: Path,
    streams: int = 0,
    on_progress: OnProgress = lambda _progress: None,
    on_notice: OnNotice = lambda _text: None,
) -> RestoreSummary:
    """Restore a point, or some paths of it, into the directory `to`, which is made when missing.

    The root of the point is shown at `to`; a path (from that root) at its place below. In a tree
    that is there only what differs is written; names that the point has not are left alone.
    `streams`: worker processes at most; 0 for one per processor.

    What cannot be restored as recorded is a problem in the summary, and the rest goes on. Raises
    UsageError for a path or target that does not fit, RepositoryFailed, Interrupted (SIGINT,
    SIGTERM), JobFailed when no worker can work.
    """
    started = time.monotonic()
    with repository.lease("restore", reading=True):  # before anything is looked up
        chosen = choose(repository.tree, point.root, paths)
        with (
            _opened(repository, to) as (root_fd, fresh),
            _creation_mask(),
            _stop_signals() as asked,
        ):
            job = RestoreJob(
                repository,
                root_fd,
                chosen,
                streams or len(os.sched_getaffinity(0)),
                on_progress=on_progress,
                stop_asked=asked,
            )
            job.run(point.root, fresh=fresh)
    figures, problems = job.figures, job.problems
    if figures.owners_kept:
        on_notice(
            f"{figures.owners_kept} entries belong to you instead of their owner: "
            "only root can give files away"
        )
    return RestoreSummary(
        files=figures.files,
        directories=figures.directories,
        bytes=figures.bytes,
        bytes_written=figures.bytes_written,
        files_unchanged=figures.files_unchanged,
        problems=problems.found(),
        problems_total=problems.total,
        damaged=problems.damaged,
        seconds=time.monotonic() - started,
        streams=job.streams,
    )


@contextmanager
def _opened(repository: Repository, to: Path) -> Iterator[tuple[int, bool]]:
    """The descriptor of the target's root, and whether it was just made."""
    try:
        own = repository.path.resolve()
        place = to.resolve()
        if place == own or own in place.parents:
            raise UsageError(
                "the target lies in the repository", where=str(to), next_step="choose another one"
            )
        to.parent.mkdir(parents=True, exist_ok=True)
        try:
            to.mkdir(mode=0o700)
            fresh = True
        except FileExistsError:
            fresh = False
        root_fd = os.open(to, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except NotADirectoryError:
        raise UsageError("the target is not a directory", where=str(to)) from None
    except OSError as error:
        raise JobFailed(f"the target cannot be used: {error.strerror}", where=str(to)) from error
    try:
        yield root_fd, fresh
    finally:
        os.close(root_fd)


@contextmanager
def _creation_mask() -> Iterator[None]:
    """No umask: what is made has the mode that was asked for."""
    before = os.umask(0)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def _stop_signals() -> Iterator[Callable[[], int]]:
    """How many times SIGINT or SIGTERM came. Only the main thread of a program can know."""
    count = 0

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        nonlocal count
        count += 1

    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    before = {
        number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield lambda: count
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
