"""The further: sources of a job that are not taken yet, as the job sees them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from ingest.jobsource import JobSource


class Further(Protocol):
    """Sources that are not taken yet."""

    def take(self) -> bool:
        """Take the next one, or several; False when there is none. In a thread: it may wait."""

    def taken(self) -> list[JobSource]:
        """What was taken since the last call, ready to be read."""

    def survey(self, on_tick: Callable[[], None]) -> None:
        """Look over what was taken. In a thread: it may take long; `on_tick` may end it."""


class _NothingFurther:
    def take(self) -> bool:
        return False

    def taken(self) -> list[JobSource]:
        return []

    def survey(self, on_tick: Callable[[], None]) -> None:
        pass


NOTHING_FURTHER: Final = _NothingFurther()
