"""A report of garbage collection: how far it is, and what it gave free or would."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class GcProgress:
    """How far it is. `doing`: the step; `items` of it are points, parts or segments."""

    doing: str
    items: int
    items_expected: int | None


OnProgress = Callable[[GcProgress], None]


@dataclass(slots=True, kw_only=True)
class GcReport:
    """What came of it; with `dry_run`, what would. Bytes are those on disk.

    `points_removed`: forgotten points that can come back no more. `bytes_dead`: what dead chunks
    took before, as far as frames tell; `bytes_dead_left`: what they still take in segments that are
    mostly alive. `bytes_removed`: of segments that went, dead ones and rewritten ones;
    `bytes_written`: what was written anew of the latter; `bytes_freed`: the difference.
    `bytes_held_back`: in retired segments that `holders` (leases: purpose and process) may still
    read, to go with the next run. `chunks_lost`: chunks that points rely on and that nothing holds,
    which is damage; what `points_marked` say they have lost is not among them. `reserve_bytes`:
    free space that this run needs at most. `segments_left`: not rewritten, for want of room; the
    smallest of them needs `bytes_short` more.
    """

    dry_run: bool
    points: int = 0
    points_removed: int = 0
    points_marked: int = 0
    chunks_alive: int = 0
    chunks_dead: int = 0
    chunks_lost: int = 0
    chunks_revived: int = 0
    segments: int = 0
    segments_dead: int = 0
    segments_repacked: int = 0
    segments_removed: int = 0
    bytes_total: int = 0
    bytes_dead: int = 0
    bytes_dead_left: int = 0
    bytes_removed: int = 0
    bytes_written: int = 0
    bytes_freed: int = 0
    bytes_held_back: int = 0
    segments_left: int = 0
    bytes_short: int = 0
    reserve_bytes: int = 0
    holders: Sequence[str] = ()
    damages: list[str] = field(default_factory=list)
    seconds: float = 0.0
