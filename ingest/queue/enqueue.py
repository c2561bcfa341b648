"""An order: what somebody asks to have queued, and how it becomes entries."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from ingest.queue import pins
from ingest.queue.convention import Told
from ingest.queue.entry import Entry, key_of, new_point_id
from ingest.queue.spool import Spool
from ingest.request import IngestRequest
from ingest.source import SourceIdentity
from repo.errors import UsageError


class Queued(NamedTuple):
    """An entry that is in the queue now; whether it came in by this order, and is pinned."""

    entry: Entry
    is_new: bool
    pinned: bool


def enqueue(
    spool: Spool,
    repository: Path,
    told: Sequence[Told],
    request: IngestRequest,
    *,
    origin: str,
    on_notice: Callable[[str], None],
) -> list[Queued]:
    """Queue snapshots. What `request` says of paths is not looked at; `source_ids` are.

    Durable on return. Raises UsageError for a snapshot that is not there, JobFailed when the
    queue cannot be written.
    """
    names = request.source_ids or [""] * len(told)
    return [
        _one(spool, repository, snapshot, name, request, origin, on_notice)
        for snapshot, name in zip(told, names, strict=True)
    ]


def _one(
    spool: Spool,
    repository: Path,
    told: Told,
    name: str,
    request: IngestRequest,
    origin: str,
    on_notice: Callable[[str], None],
) -> Queued:
    path = os.path.abspath(told.path)
    try:
        found = pins.identify(path)
    except OSError as error:
        raise UsageError(
            f"what is to be queued cannot be opened: {error.strerror}",
            where=told.path,
            next_step="give the path of a snapshot or another directory",
        ) from error
    live = found.live if told.live == told.path and found.live else told.live
    source_id = SourceIdentity.of(live, name).id
    place = os.fsencode(os.path.realpath(repository))
    key = key_of(place, source_id, found.state)
    entry = Entry(
        key=key,
        repository=place,
        path=os.fsencode(path),
        source_id=source_id,
        # What somebody's snapshot is of, the points tell better: they know it by its origin.
        named=bool(name) or told.live != told.path or not found.snapshot,
        point_id=new_point_id(),
        origin=origin,
        unique=found.unique or told.unique,
        queued_ns=time.time_ns(),
        tags=tuple(request.tags),
        exclude=tuple(map(os.fsencode, request.exclude)),
        exclude_from=tuple(os.fsencode(os.path.abspath(name)) for name in request.exclude_from),
        exclude_caches=request.exclude_caches,
        one_file_system=request.one_file_system,
        levels=request.levels,
        take=request.take,
        keep_snapshot=request.keep_snapshot,
    )
    if request.pin and found.snapshot:
        try:
            entry = msgspec.structs.replace(entry, pin=pins.plan(path, key))
        except OSError as error:
            on_notice(_unpinned(told.path, error))
    # The entry first: a pin without one would stay for ever.
    is_new = spool.add(entry)
    # Whoever queued it before may have been killed before he could pin it.
    there = entry if is_new else spool.get(key)
    pinned = there is not None and _pin(spool, there, path, on_notice)
    return Queued(there or entry, is_new, pinned)


def _pin(spool: Spool, entry: Entry, path: str, on_notice: Callable[[str], None]) -> bool:
    if entry.pin is None:
        return False
    try:
        pins.make(path, entry.pin)
        if spool.get(entry.key) is None:
            pins.unpin(entry.pin)  # a drain was quicker
    except OSError as error:
        on_notice(_unpinned(entry.shown, error))
        spool.replace(msgspec.structs.replace(entry, pin=None))
        return False
    return True


def _unpinned(path: str, error: OSError) -> str:
    return (
        f"{path}: queued, but not pinned ({error.strerror}): "
        "it is lost to the backup when it is deleted before that"
    )
