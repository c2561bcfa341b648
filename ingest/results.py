"""The results: takes what workers send of their tasks into the directories that it is of.

On the master's loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from ingest import channel
from ingest.assembly import PendingDirectory, SourceAssembly, entries_of, names_of
from ingest.claims import Claims
from ingest.jobsource import JobSource
from ingest.largefiles import LargeFiles
from ingest.planner import Planner, Work
from ingest.pool import Handle
from ingest.retries import Retries
from ingest.task import PartTask, Path
from ingest.worker import pack_names
from repo.format.manifest import Problem


class Distrusted(Exception):
    """What a base calls unchanged is not: the number of the source, and the path of a file."""

    def __init__(self, source: int, path: bytes) -> None:
        super().__init__(source, path)
        self.source = source
        self.path = path


class Master(Protocol):
    """A job, as far as a result may concern it."""

    def dispatch(self) -> None:
        """There may be new tasks, or a worker with nothing to do."""

    def check_end(self) -> None:
        """A source may be done."""

    def fail(self, error: BaseException) -> None:
        """The job ends with this error."""


class Results:
    """Of one job."""

    def __init__(
        self,
        master: Master,
        planner: Planner,
        sources: Sequence[JobSource],
        claims: Claims,
        large_files: LargeFiles,
        retries: Retries,
        on_notice: Callable[[str], None],
    ) -> None:
        self._master = master
        self._planner = planner
        self._sources = sources
        self._claims = claims
        self._large_files = large_files
        self._retries = retries
        self._on_notice = on_notice

    def listed(self, handle: Handle, work: Work, listed: channel.Listed) -> None:
        """A directory was listed, or could not be."""
        directory, assembly = work.directory, work.directory.source
        descent = self._sources[assembly.number].descent
        if listed.error is not None or listed.entry is None or listed.entry.absent:
            self.not_listed(work, listed)
            return
        if listed.put_off:
            if not descent.put_off(work, listed):
                work.task = msgspec.structs.replace(work.task, probe_ns=0)
                self._planner.add(work)
            return
        directory.entry, directory.same = listed.entry, listed.same
        if listed.entry.xattrs:
            assembly.has_xattrs = True
        directory.device, directory.volume = listed.device, listed.volume
        if listed.volume:
            assembly.volumes.add(listed.volume)
        if directory.above is not None:
            directory.above.below.add(directory)
        for below in descent.children(directory, listed.directories):
            self._planner.add(below)
        for part in listed.parts:
            self._enqueue_names(directory, part.names, last_try=False, part=part)
        self._take_entries(handle, work, listed, paged=bool(listed.parts), joined=False)

    def not_listed(self, work: Work, listed: channel.Listed) -> None:
        """A directory could not be listed, or is not to be."""
        directory, assembly = work.directory, work.directory.source
        for notice in listed.notices:
            self._on_notice(notice)
        if listed.error is not None and not (work.last_try or self._retries.last):
            work.last_try = True
            self._retries.add(work)
            return
        if listed.error is not None:
            assembly.problem(listed.error)
        if directory.above is None:
            self._sources[assembly.number].failure = listed.error or Problem(
                b"", "list", 0, listed.entry.absent if listed.entry else "it is gone"
            )
            self._master.check_end()
            return
        assembly.left_out(directory, listed.entry)
        self._master.check_end()

    def _enqueue_names(
        self,
        directory: PendingDirectory,
        names: bytes,
        *,
        last_try: bool,
        part: channel.Part | None = None,
    ) -> None:
        directory.waiting += 1
        task = PartTask(
            self._planner.next_id(),
            directory.source.number,
            directory.path,
            names,
            last_try,
            part.first_name if part is not None else b"",
            part.last_name if part is not None else b"",
        )
        self._planner.add(Work(task, directory))

    def _take_entries(
        self, handle: Handle, work: Work, result: Any, *, paged: bool, joined: bool
    ) -> None:
        """Take the entries of a directory or part as soon as all their chunks are there."""
        directory, assembly = work.directory, work.directory.source
        last_try = isinstance(work.task, PartTask) and work.task.last_try
        assembly.owners.update(result.owners)
        assembly.has_xattrs = assembly.has_xattrs or result.counts.xattrs
        if result.wrong:
            self._distrust(assembly, directory.path, result.wrong)
            return
        for large in result.large:
            self._large_files.found(directory, large, last_try=last_try)
        for names in result.failed:
            directory.waiting += 1
            retry = PartTask(
                self._planner.next_id(), assembly.number, directory.path, names, last_try=True
            )
            self._retries.add(Work(retry, directory))

        def settled(good: bool) -> None:
            again: set[bytes] = set()
            if result.unchanged:
                good = True  # it relies on nothing that was read now
                self._keep_run(work, result)
            elif not good:
                again = self._again(directory, result.runs, last_try=last_try)
            elif joined:
                for entry in entries_of(result.runs):
                    directory.add(entry)
            else:
                directory.add_runs(result.runs, paged=paged)
            if good:
                assembly.files += result.counts.files
                assembly.bytes_source += result.counts.bytes_source
                assembly.bytes_read += result.counts.bytes_read
                assembly.files_reused += result.counts.reused
                assembly.files_audited += result.counts.audited
            for problem in result.problems:
                if problem.path.rpartition(b"/")[2] not in again:
                    assembly.problem(problem)
            assembly.arrived(directory)
            self._master.check_end()

        self._when_settled(handle, result.claims, settled)

    def _keep_run(self, work: Work, result: Any) -> None:
        """Take over the run of the base that a task compared with first."""
        directory, task, counts = work.directory, work.task, result.counts
        first = [*([directory.own] if directory.own is not None else []), *directory.others][0]
        listed = first.node.listed
        page = None
        if isinstance(task, PartTask) and listed.pages:
            page = first.page_of(task.first_name)
        run = page or channel.Run(b"", counts.files, listed.entries, counts.bytes_source)
        directory.take_run(run, kept=first is directory.own)

    def _again(
        self, directory: PendingDirectory, runs: Sequence[channel.Run], *, last_try: bool
    ) -> set[bytes]:
        """Entries whose chunks were lost with a worker are saved once more; their names."""
        again: set[bytes] = set()
        for run in runs:
            names = names_of(run)
            again.update(named[0] for named in names)
            self._enqueue_names(directory, pack_names(names), last_try=last_try)
        self._master.dispatch()
        return again

    def _when_settled(self, handle: Handle, claims: int, call: Callable[[bool], None]) -> None:
        if claims:
            self._claims.expect(handle.number, claims)
        self._claims.wait(handle.number, claims, call)

    def part_saved(self, handle: Handle, work: Work, saved: channel.Saved) -> None:
        """A part of a directory was saved, or audited."""
        if isinstance(work.task, PartTask) and work.task.audit:
            self._audited(handle, work, saved)
            return
        last_try = isinstance(work.task, PartTask) and work.task.last_try
        self._take_entries(handle, work, saved, paged=True, joined=last_try)

    def range_saved(self, handle: Handle, work: Work, saved: channel.RangeSaved) -> None:
        """A range of a large file was read."""
        self._when_settled(
            handle,
            saved.claims,
            lambda good: self._large_files.range_saved(work, saved, good=good),
        )

    def _audited(self, handle: Handle, work: Work, saved: channel.Saved) -> None:
        assembly, top = work.directory.source, work.directory
        self._when_settled(handle, saved.claims, lambda _good: None)
        if saved.wrong:
            self._distrust(assembly, work.task.path, saved.wrong)
            return
        assembly.files_audited += saved.counts.audited
        assembly.arrived(top)
        self._master.check_end()

    def _distrust(self, assembly: SourceAssembly, path: Path, names: Sequence[bytes]) -> None:
        """An audit found that a file changed without a sign of it: the job is begun anew."""
        self._master.fail(Distrusted(assembly.number, b"/".join((*path, names[0]))))
