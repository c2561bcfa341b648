"""The upcoming: sources of a job that no worker has come to yet.

A snapshot is made when there are workers to read it, not before: what waits for hours behind a
large source need not be kept from changing, nor its old blocks on the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ingest.jobsource import JobSource
from ingest.opened import OpenedSource


class Upcoming:
    """Takes one source after the other. `sources` are those taken so far, in order."""

    def __init__(
        self,
        opened: Iterable[OpenedSource],
        pre_read: Callable[[OpenedSource], None],
        prepare: Callable[[OpenedSource], None],
        survey: Callable[[OpenedSource, Callable[[], None]], None],
    ) -> None:
        """`opened` makes the snapshot of a source when it is asked for it; `pre_read` may take
        its time as well; `prepare` looks into the repository; `survey` looks over the source, and
        calls back meanwhile.
        """
        self.sources: list[OpenedSource] = []
        self._opened = iter(opened)
        self._pre_read = pre_read
        self._prepare = prepare
        self._survey = survey
        self._fresh: list[OpenedSource] = []
        self._unsurveyed: list[OpenedSource] = []

    def take(self) -> bool:
        """Take the next source; False when there is none. May take seconds: in a thread.

        Raises what opening a source does.
        """
        source = next(self._opened, None)
        if source is None:
            return False
        self._pre_read(source)
        self._fresh.append(source)
        return True

    def taken(self) -> list[JobSource]:
        """What was taken since the last call, ready to be read. In the thread of the repository."""
        fresh, self._fresh = self._fresh, []
        for source in fresh:
            self._prepare(source)
            self.sources.append(source)
        self._unsurveyed = fresh
        return [source.job_source for source in fresh]

    def survey(self, on_tick: Callable[[], None]) -> None:
        """Look over what `taken` gave last. May take long: in a thread. `on_tick` is called there
        now and then, and ends it by raising.
        """
        for source in self._unsurveyed:
            self._survey(source, on_tick)
        self._unsurveyed = []
