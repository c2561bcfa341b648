"""A planner: the queue of a job: which task goes to which worker next.

Directories go depth first, so that few of them are pending at any time; small tasks go
before large files, which keep up to half of the workers while there are both.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Final

from ingest.task import RangeTask, Task

if TYPE_CHECKING:
    from ingest.assembly import PendingDirectory
    from ingest.largefile import LargeFile

BATCH_MAX: Final = 8
"""Small tasks handed out in one message."""

RANGES_AHEAD: Final = 2
"""Range tasks that a worker holds, so that it reads on while results travel."""

TRIES_MAX: Final = 3
"""A task that took so many workers with it is given up."""


@dataclass(slots=True, eq=False)
class Work:
    """A task and what its result belongs to. `last_try`: a failure now is a problem.

    `suspect`: a worker died while it held this task among others; from then on the task goes to
    a worker that holds nothing else, and `tries` counts the workers that died over it alone. So
    no task is given up for its neighbours.
    """

    task: Task
    directory: PendingDirectory
    large: LargeFile | None = None
    suspect: bool = False
    tries: int = 0
    last_try: bool = False


@dataclass(slots=True)
class Planner:
    """The tasks that no worker has yet."""

    _small: list[Work] = field(default_factory=list)
    _ranges: deque[Work] = field(default_factory=deque)
    _ids: count[int] = field(default_factory=lambda: count(1))
    _stopped: bool = False

    def __len__(self) -> int:
        """Tasks waiting."""
        return len(self._small) + len(self._ranges)

    @property
    def ranges(self) -> int:
        """Ranges of large files waiting."""
        return len(self._ranges)

    def next_id(self) -> int:
        """A task id, never given twice in a job."""
        return next(self._ids)

    def stop(self) -> None:
        """Drop all tasks, and those that are still to come."""
        self._stopped = True
        self._small.clear()
        self._ranges.clear()

    def add(self, work: Work) -> None:
        """Queue a task."""
        if self._stopped:
            return
        if isinstance(work.task, RangeTask):
            self._ranges.append(work)
        else:
            self._small.append(work)

    def again(self, work: Work) -> None:
        """Queue a task once more, before all others."""
        if self._stopped:
            return
        if isinstance(work.task, RangeTask):
            self._ranges.appendleft(work)
        else:
            self._small.append(work)

    def take(self, *, workers: int, on_ranges: Callable[[], int], holds: int) -> list[Work]:
        """The next tasks for a worker that `holds` some already; [] when it has enough.

        `workers` are at work in all; `on_ranges` counts the others among them that are on large
        files.
        """
        ranges_turn = self._ranges and (not self._small or on_ranges() < max(1, workers // 2))
        if ranges_turn:
            room = min(RANGES_AHEAD - holds, len(self._ranges))
            return _unsuspected(room, holds, lambda: self._ranges[0], self._ranges.popleft)
        if holds > BATCH_MAX // 2 or not self._small:
            return []
        fair = max(1, len(self._small) // (2 * workers))
        return _unsuspected(min(BATCH_MAX, fair), holds, lambda: self._small[-1], self._small.pop)


def _unsuspected(
    room: int, holds: int, look: Callable[[], Work], take: Callable[[], Work]
) -> list[Work]:
    """At most `room` works up to the first suspect one, which is taken alone or not at all."""
    if room > 0 and look().suspect:
        return [] if holds else [take()]
    taken: list[Work] = []
    while len(taken) < room and not look().suspect:
        taken.append(take())
    return taken
