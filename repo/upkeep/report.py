"""A report: what a verification looked at, how far it is, and what it found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from repo.errors import Damaged
from repo.upkeep.damage import Damage

Level = Literal["structure", "data", "keyless"]


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What came of a verification. `segments`, `frames` and `chunks` are those looked at.

    `open_segments`: not closed by a running or killed job, and checked only as far as the index
    knows them (keyless: not at all). points_marked: those whose marks say what is lost of them,
    which is no damage any more; losses_known: how many files and directories that are, in all
    points. points_unfinished: checkpoints of runs that have not ended.
    """

    level: Level
    damages: Sequence[Damage]
    segments: int
    open_segments: int
    frames: int
    chunks: int
    points: int
    bytes_read: int
    seconds: float
    points_unfinished: int = 0
    points_marked: int = 0
    losses_known: int = 0

    @property
    def exit_status(self) -> int:
        """The status of the command: 0, or 4 when there is damage."""
        return Damaged.exit_status if self.damages else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyProgress:
    """How far a verification is. `doing`: the step; `items` are segments or points of that step.

    Totals are None while nobody knows them. Bytes are those read from segments.
    """

    doing: str
    items: int
    items_expected: int | None
    bytes_read: int
    bytes_expected: int | None
    damages: int


OnProgress = Callable[[VerifyProgress], None]
OnNotice = Callable[[str], None]


def no_progress(_progress: VerifyProgress) -> None:
    """Drop it."""


def no_notice(_text: str) -> None:
    """Drop it."""
