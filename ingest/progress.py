"""Progress: how far a job is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ingest.assembly import SourceAssembly


@dataclass(frozen=True, slots=True)
class StreamState:
    """What one worker is doing."""

    number: int
    path: str


@dataclass(frozen=True, slots=True)
class ProgressState:
    """How far a job is. Sizes in bytes; `pending` are tasks that no worker has yet."""

    seconds: float = 0.0
    files: int = 0
    directories: int = 0
    files_reused: int = 0
    bytes_source: int = 0
    bytes_read: int = 0
    bytes_new: int = 0
    bytes_stored: int = 0
    problems: int = 0
    pending: int = 0
    bytes_expected: int = 0
    streams: Sequence[StreamState] = ()


def state_of(
    assemblies: Iterable[SourceAssembly],
    *,
    seconds: float,
    bytes_new: int = 0,
    bytes_stored: int = 0,
    pending: int = 0,
    bytes_expected: int = 0,
    streams: Sequence[StreamState] = (),
) -> ProgressState:
    """The figures of all sources of a job together."""
    of_all = list(assemblies)
    return ProgressState(
        seconds=seconds,
        files=sum(a.files for a in of_all),
        directories=sum(a.directories for a in of_all),
        files_reused=sum(a.files_reused for a in of_all),
        bytes_source=sum(a.bytes_source for a in of_all),
        bytes_read=sum(a.bytes_read for a in of_all),
        bytes_new=bytes_new,
        bytes_stored=bytes_stored,
        problems=sum(a.problems_total for a in of_all),
        pending=pending,
        bytes_expected=bytes_expected,
        streams=streams,
    )
