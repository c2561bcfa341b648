"""A drain: runs what is queued, many sources in one job, until nothing is left that is due.

An entry leaves the queue only after its point is published. A drain that dies in between is found
out by the id of the point, which the entry has known from the beginning.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from ingest.progress import ProgressState
from ingest.queue import pins
from ingest.queue.entry import Entry
from ingest.queue.spool import Running, Spool
from ingest.request import IngestRequest
from ingest.session import IngestSummary, ingest
from repo.errors import (
    Damaged,
    Interrupted,
    JobFailed,
    NotARepository,
    RepoError,
    RepositoryFailed,
    TryLater,
    WrongKey,
)
from repo.format.manifest import Point
from repo.repository import Repository

SOURCES_MAX: Final = 64
"""In one job."""

TELL_SECONDS: Final = 1.0

_OF_THE_REPOSITORY: Final = (
    *(Damaged, Interrupted, NotARepository, RepositoryFailed, TryLater, WrongKey),
)
"""Errors that say nothing of an entry."""


@dataclass(slots=True)
class Drained:
    """What a drain did. `problems`: of files and hooks; `failed`: entries, and in words why."""

    points: list[Point] = field(default_factory=list)
    done_before: int = 0
    jobs: int = 0
    problems: int = 0
    failed: list[tuple[Entry, str]] = field(default_factory=list)


class Drain:
    """One run. `streams` and `hooks` as in the request of an ingest."""

    def __init__(
        self,
        spool: Spool,
        repository: Repository,
        running: Running,
        *,
        streams: int,
        hooks: str,
        made_by: str,
        on_progress: Callable[[ProgressState], None],
        on_notice: Callable[[str], None],
    ) -> None:
        self._spool = spool
        self._repository = repository
        self._running = running
        self._streams = streams
        self._hooks = hooks
        self._made_by = made_by
        self._on_progress = on_progress
        self._on_notice = on_notice
        self._told = 0.0
        self._name = os.fsencode(os.path.realpath(repository.path))
        self.drained = Drained()

    def run(self) -> None:
        """Until nothing is due. Raises what says nothing of an entry; then all of them stay."""
        while batch := due(self._spool.entries(), self._name, time.time_ns()):
            published = {point.id.hex() for point in self._points()}
            left = [entry for entry in batch if entry.point_id not in published]
            for entry in batch:
                if entry.point_id in published:
                    self._finish(entry)
            self.drained.done_before += len(batch) - len(left)
            for group in grouped(self._there(left)):
                self._job(group)

    def _points(self) -> list[Point]:
        return self._repository.points(on_damage=lambda _damage: None)

    def _there(self, entries: Iterable[Entry]) -> list[Entry]:
        """Those whose snapshot still is: one that is not would end the job of all the others."""
        there = []
        for entry in entries:
            path = path_of(entry)
            try:
                os.close(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            except OSError as error:
                self._failed(entry, f"the snapshot cannot be opened: {error.strerror}")
            else:
                there.append(entry)
        return there

    def _job(self, group: Sequence[Entry]) -> None:
        self._running.tell(entries=[entry.key for entry in group])
        try:
            summary = ingest(
                self._repository,
                self._request(group),
                on_progress=self._progress,
                on_notice=self._on_notice,
            )
        except _OF_THE_REPOSITORY as error:
            for entry in group:
                self._spool.replace(msgspec.structs.replace(entry, error=str(error)))
            raise
        except RepoError as error:
            if len(group) == 1:
                self._failed(group[0], str(error))
                return
            # One of them is to blame, and the others shall not wait for it.
            for entry in group:
                self._job([entry])
            return
        finally:
            self._running.tell(entries=[])
        self._conclude(group, summary)

    def _request(self, group: Sequence[Entry]) -> IngestRequest:
        first = group[0]
        return IngestRequest(
            paths=[os.fsdecode(path_of(entry)) for entry in group],
            source_ids=[entry.source_id if entry.named else "" for entry in group],
            lineages=[entry.pin.lineage if entry.pin is not None else {} for entry in group],
            point_ids=[bytes.fromhex(entry.point_id) for entry in group],
            exclude=[os.fsdecode(pattern) for pattern in first.exclude],
            exclude_from=[os.fsdecode(name) for name in first.exclude_from],
            exclude_caches=first.exclude_caches,
            one_file_system=first.one_file_system,
            tags=first.tags,
            streams=self._streams,
            levels=first.levels,
            take=first.take,
            keep_snapshot=first.keep_snapshot,
            hooks=self._hooks,
            made_by=self._made_by,
        )

    def _conclude(self, group: Sequence[Entry], summary: IngestSummary) -> None:
        self.drained.jobs += 1
        self.drained.points += summary.points
        self.drained.problems += summary.problems + summary.hooks_failed
        published = {point.id.hex() for point in summary.points}
        for entry in group:
            if entry.point_id in published:
                self._finish(entry)
            else:
                self._failed(entry, "; ".join(summary.failed) or "not read")

    def _finish(self, entry: Entry) -> None:
        """Its point is published: let go of the snapshot, then of the entry."""
        try:
            if entry.pin is not None:
                pins.unpin(entry.pin)
            if entry.unique:
                self._spool.done(entry.key)
            self._spool.remove(entry.key)
            if entry.pin is not None:
                # Whoever queued it may have pinned it only now, and looks for the entry after that.
                pins.unpin(entry.pin)
        except OSError as error:
            self._failed(entry, f"backed up, but not to be unpinned: {error.strerror}")

    def _failed(self, entry: Entry, error: str) -> None:
        later = entry.after_failure(error, time.time_ns())
        self._spool.replace(later)
        self.drained.failed.append((later, error))

    def _progress(self, state: ProgressState) -> None:
        self._on_progress(state)
        now = time.monotonic()
        if now - self._told >= TELL_SECONDS:
            self._told = now
            self._running.tell(
                files=state.files, bytes_source=state.bytes_source, bytes_new=state.bytes_new
            )


def path_of(entry: Entry) -> bytes:
    """Where an entry's snapshot can be read: its pin, unless that was never made."""
    if entry.pin is not None and os.path.isdir(entry.pin.path):
        return entry.pin.path
    return entry.path


def due(entries: Iterable[Entry], repository: bytes, now_ns: int) -> list[Entry]:
    """Whose turn it is: of each source the oldest, so that the next one builds on it."""
    chosen: dict[str, Entry] = {}
    for entry in entries:
        if not entry.failed and entry.repository == repository and entry.not_before_ns <= now_ns:
            chosen.setdefault(entry.source_id, entry)
    return list(chosen.values())[:SOURCES_MAX]


def grouped(entries: Iterable[Entry]) -> list[list[Entry]]:
    """Entries that can share a job."""
    groups: dict[tuple[object, ...], list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.options, []).append(entry)
    return list(groups.values())


def drop(spool: Spool, entry: Entry) -> None:
    """Take an entry out that is not to be backed up. Raises JobFailed when it stays pinned."""
    try:
        if entry.pin is not None:
            pins.unpin(entry.pin)
    except OSError as error:
        raise JobFailed(
            f"the snapshot cannot be unpinned: {error.strerror}",
            where=os.fsdecode(entry.pin.path if entry.pin else entry.path),
            next_step="delete that subvolume, then try again",
        ) from error
    spool.remove(entry.key)
