"""A case: one piece of work that is measured, with what comes before it and the check after it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tools.bench.contender import BackupTool, Contender
from tools.bench.measure import Measurement, Meter


@dataclass(frozen=True)
class Run:
    """One run of a case by one contender.

    moved_bytes: content the work went over, for the throughput; None where that says nothing.
    remark: what was not as it should be though the program called it success. words: what else
    there is to say of it.
    """

    measured: Measurement
    moved_bytes: int | None = None
    files: int | None = None
    stored_bytes: int | None = None
    remark: str = ""
    words: str = ""
    facts: dict[str, object] = field(default_factory=dict)


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Case:
    """A named piece of work.

    needs_repository: only a contender that keeps one can do it. alone: only the first contender
    does it. reads_source: the source is to be warm. short: it needs more runs than asked for, and
    ends before its memory could be sampled. end: gives up what the attempts have made.
    """

    name: str
    attempt: Callable[[Contender, Meter], Run]
    needs_repository: bool = False
    alone: bool = False
    reads_source: bool = False
    short: bool = False
    end: Callable[[], None] = _nothing


def tool_of(contender: Contender) -> BackupTool:
    """The contender as one that keeps a repository; Case.needs_repository has seen to it."""
    if not isinstance(contender, BackupTool):
        raise TypeError(f"{contender.name} keeps no repository")
    return contender
