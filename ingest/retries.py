"""The retries: tasks that failed, kept for a last try at the end of the job."""

from __future__ import annotations

from typing import Final

from ingest.planner import Planner, Work

HELD_MAX: Final = 1000
"""Directories held open for the last try at the end; beyond, the last try comes at once."""


class Retries:
    """Of one job. `last`: the last tries have begun, so that a failure now is a problem."""

    def __init__(self, planner: Planner) -> None:
        self.last = False
        self._planner = planner
        self._held: list[Work] = []
        self._stopped = False

    def add(self, work: Work) -> None:
        """Keep a failed task for the last try; its directory waits as long."""
        if self._stopped:
            return
        if self.last or len(self._held) >= HELD_MAX:
            self._planner.add(work)
        else:
            self._held.append(work)

    def begin_last(self) -> None:
        """Queue what is kept: nothing else is left to do."""
        if self._held:
            self.last = True
            for work in self._held:
                self._planner.add(work)
            self._held.clear()

    def stop(self) -> None:
        """Drop what is kept, and what is still to come."""
        self._stopped = True
        self._held.clear()
