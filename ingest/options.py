"""Options: how a job is done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from repo.types import MIB
from repo.writer import COMMIT_SECONDS

RANGE_BYTES: Final = 64 * MIB
"""Files above this are read in ranges of so many bytes."""


@dataclass(frozen=True, slots=True)
class Options:
    """How a job is done. `levels`: zstd levels to choose from, () for none."""

    streams: int
    levels: tuple[int, ...] = (1, 3)
    range_bytes: int = RANGE_BYTES
    checkpoint_seconds: float = COMMIT_SECONDS
    started: float | None = None
    """On the monotonic clock, in seconds, when it did not begin with the job itself."""
