"""The large files of a job: each is read in ranges by whoever is free, and put together again.

On the master's loop.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

from ingest import channel
from ingest.assembly import PendingDirectory
from ingest.changes.changesource import Range
from ingest.jobsource import JobSource
from ingest.largefile import LargeFile, kept_parts
from ingest.planner import Planner, Work
from ingest.task import PartTask, RangeTask
from ingest.worker import pack_names
from repo.errors import Damaged
from repo.format.manifest import Problem
from repo.repository import Repository
from repo.types import MIB

RANGES_MAX: Final = 4096
"""A file is cut into at most so many ranges; those of a huge one are longer."""


class LargeFiles:
    """Of one job."""

    def __init__(
        self,
        repository: Repository,
        planner: Planner,
        sources: Sequence[JobSource],
        range_bytes: int,
        *,
        retry: Callable[[Work], None],
        dispatch: Callable[[], None],
        on_notice: Callable[[str], None],
    ) -> None:
        """`retry` keeps a task for the last try; `dispatch` is called when there is a new state
        of which nobody else will tell.
        """
        self._repository = repository
        self._planner = planner
        self._sources = sources
        self._range_bytes = range_bytes
        self._retry = retry
        self._dispatch = dispatch
        self._on_notice = on_notice

    def found(self, directory: PendingDirectory, found: channel.Large, *, last_try: bool) -> None:
        """A listing found one: queue the ranges that are to be read."""
        directory.waiting += 1
        large = LargeFile(found, directory.source.put_meta, last_try=last_try)
        directory.large.add(large)
        size = large.entry.size
        step = max(self._range_bytes, math.ceil(size / RANGES_MAX / MIB) * MIB)
        for first, last in self._to_read(directory, large, found):
            for start in range(first, last, step):
                task = RangeTask(
                    self._planner.next_id(),
                    directory.source.number,
                    directory.path,
                    large.entry.name,
                    start,
                    min(last, start + step),
                    large.version,
                )
                large.outstanding += 1
                self._planner.add(Work(task, directory, large))
        if not large.outstanding:
            self._arrived(directory, large)

    def _to_read(
        self, directory: PendingDirectory, large: LargeFile, found: channel.Large
    ) -> list[Range]:
        """The ranges of a large file that no base holds; what one holds is kept."""
        base, entry = found.base, large.entry
        whole = [Range(0, entry.size)]
        if base is None:
            return whole
        plan = self._sources[directory.source.number].foundation.plan
        changed: list[Range] | None = None
        if found.begun:
            changed = []
        elif plan is not None:
            changed = plan.ranges(base.inode, entry.inode, entry.size)
        if changed is None:
            return whole
        try:
            kept, to_read = kept_parts(self._repository.tree, base, changed, entry.size)
        except Damaged as damage:
            self._on_notice(f"{entry.name!r} is read as a whole: {damage}")
            return whole
        for part in kept:
            large.keep(part)
        return to_read

    def range_saved(self, work: Work, saved: channel.RangeSaved, *, good: bool) -> None:
        """A range was read, and its chunks are settled; not `good`: some of them were lost."""
        if not good:
            self._planner.again(work)
            self._dispatch()
            return
        self.range_arrived(work, saved)

    def range_arrived(self, work: Work, saved: channel.RangeSaved) -> None:
        """What there is of a range is there."""
        large, task = work.large, work.task
        if large is None or not isinstance(task, RangeTask):
            raise AssertionError("a range without its file")
        large.add(task.start, task.stop, saved)
        work.directory.source.bytes_read += saved.bytes_read
        large.outstanding -= 1
        if not large.outstanding:
            self._arrived(work.directory, large)
            self._dispatch()  # what settled this may be a frame, which dispatches nothing

    def _arrived(self, directory: PendingDirectory, large: LargeFile) -> None:
        assembly, name = directory.source, large.entry.name
        directory.large.discard(large)
        path = b"/".join((*directory.path, name))
        if (large.changed or large.errno) and not large.last_try:
            names = pack_names([(name, True, 0)])
            directory.waiting += 1
            retry = PartTask(
                self._planner.next_id(), assembly.number, directory.path, names, last_try=True
            )
            self._retry(Work(retry, directory))
        else:
            if large.changed or large.errno:
                assembly.problem(Problem(path, "read", max(0, large.errno), large.changed))
            if not large.errno:
                entry = large.finish()
                assembly.files += 1
                assembly.bytes_source += entry.size
                directory.add(entry)
        assembly.arrived(directory)
