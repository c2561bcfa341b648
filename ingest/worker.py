"""A worker: does tasks of a job and sends back what came of them. Synchronous; no trio.

Usually a process of its own, started by exec as `python -m ingest.worker SOCKET MEMFD`; the
first one of a job is a thread of the master, so that a small job starts no process.
"""

from __future__ import annotations

import mmap
import os
import socket
import sys
import traceback
from collections.abc import Iterable
from contextlib import suppress
from errno import ENAMETOOLONG, ENOENT

import msgspec
from xxhash import xxh32_intdigest

from ingest.channel import (
    Broken,
    Counts,
    Directory,
    Large,
    Listed,
    RangeSaved,
    Ready,
    Run,
    Start,
    WorkerEnd,
)
from ingest.channel import Saved as PartSaved
from ingest.exclusion import CACHE_TAG, Exclusion, is_cache_directory
from ingest.filereader import open_file_stat
from ingest.mounts import pseudo_file_system
from ingest.outcome import Deferred, Failed, Saved, Torn, failed, problem
from ingest.saver import Saver, data_bytes, directory_entry, version_of, xattr_bytes
from ingest.statx import TIME_MAX, TIME_MIN, DirectoryOpener, Stat, stat_fd
from ingest.stream import Halting, Stopped, Stream
from ingest.task import ListTask, PartTask, Path, RangeTask, Subject, Task
from repo.format import limits
from repo.format.manifest import Problem
from repo.format.node import Entry, pack_entries
from repo.hardening import harden_process
from repo.kernel.cut import CutParameters, Cutter
from repo.keys import Keys

Named = tuple[bytes, bool]
"""A name and whether it was listed as a regular file."""

_encode_names = msgspec.msgpack.Encoder().encode
_decode_names = msgspec.msgpack.Decoder(list[tuple[bytes, bool]]).decode


def pack_names(names: list[Named]) -> bytes:
    """Names for a task of their own."""
    return _encode_names(names)


class Gathered:
    """What the entries of one task came to."""

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self.large: list[Large] = []
        self.failed: list[Named] = []
        self.problems: list[Problem] = []
        self._entries: list[Entry] = []
        self._weight = 0
        self._files = 0
        self._bytes_source = 0
        self._bytes_read = 0
        self._xattrs = False

    def add(self, entry: Entry, bytes_read: int) -> None:
        """Take a saved entry; entries come in the order of their names."""
        self._entries.append(entry)
        self._files += 1
        self._bytes_source += entry.size
        self._bytes_read += bytes_read
        self._weight += 160 + len(entry.extents)
        if entry.xattrs:
            self._xattrs = True
            self._weight += sum(len(name) + len(value) for name, value in entry.xattrs)
        full = len(self._entries) >= limits.PAGE_ENTRIES_MAX
        if full or self._weight >= limits.PAGE_BYTES_TARGET:
            self.close_run()

    def defer(self, outcome: Deferred) -> None:
        """Take a large file, which becomes range tasks and counts when they are done."""
        self.large.append(Large(outcome.entry, outcome.version))
        self._xattrs = self._xattrs or bool(outcome.entry.xattrs)

    def close_run(self) -> None:
        """Pack what there is as one run."""
        if self._entries:
            below = sum(entry.size for entry in self._entries)
            packed = pack_entries(self._entries)
            self.runs.append(Run(self._entries[0].name, len(self._entries), packed, below))
            self._entries = []
            self._weight = 0

    def counts(self) -> Counts:
        """The figures of the task."""
        return Counts(self._files, self._bytes_source, self._bytes_read, self._xattrs)


class Source:
    """A source as a worker holds it: its open root and how to read it."""

    def __init__(
        self, root_fd: int, subject: Subject, stream: Stream, keys: Keys, start: Start
    ) -> None:
        self.subject = subject
        self.opener = DirectoryOpener(root_fd)
        cutter = Cutter(CutParameters(*start.chunker), keys.chunker_key.reveal())
        self.saver = Saver(stream, cutter, subject, start.range_bytes)
        self.exclusion = Exclusion.parse(subject.rules) if subject.rules else None


class Worker:
    """The loop: take a task, do it, send its result."""

    def __init__(self, stream: Stream, keys: Keys, start: Start) -> None:
        self._stream = stream
        self._sources = [
            Source(fd, subject, stream, keys, start)
            for fd, subject in zip(start.roots, start.subjects, strict=True)
        ]
        self._owners: set[tuple[int, int]] = set()  # those the master knows of
        self._met: set[tuple[int, int]] = set()  # those of the present task

    def run(self) -> None:
        """Do tasks until the master says stop or is gone."""
        try:
            try:
                while True:
                    self._do(self._stream.next_task())
            except Halting:
                self._stream.halt()
        except (Stopped, EOFError, ConnectionError):
            return
        finally:
            for source in self._sources:
                source.opener.close()

    def _do(self, task: Task) -> None:
        source = self._sources[task.source]
        match task:
            case ListTask():
                self._stream.send(self._list(source, task))
            case PartTask():
                self._stream.send(self._part(source, task))
            case RangeTask():
                self._stream.send(self._range(source, task))

    # -- a directory --------------------------------------------------------------------------

    def _list(self, source: Source, task: ListTask) -> Listed:
        name = task.path[-1] if task.path else b""
        try:
            fd = source.opener.open(task.path)
            stat = stat_fd(fd)
            volume = task.volume
            if stat.device != task.device and task.device >= 0:
                volume = xxh32_intdigest(b"/".join(task.path)) or 1
            entry = directory_entry(name, fd, stat, volume)
            reason, notice = _absence(source.subject, task, stat)
            if reason:
                entry = msgspec.structs.replace(entry, absent=reason)
                notices = [notice] if notice else []
                return Listed(task.id, self._stream.claims, Counts(), entry, notices=notices)
            directories, others = self._names(source, task.path, fd)
        except OSError as error:
            return self._unlisted(task, error)
        entry, problems = _fitting(entry, task.path)
        others = [named for named in others if _named_well(named[0], task.path, problems)]
        directories = [d for d in directories if _named_well(d.name, task.path, problems)]
        later = others[limits.PAGE_ENTRIES_MAX :]
        parts = [
            pack_names(later[at : at + limits.PAGE_ENTRIES_MAX])
            for at in range(0, len(later), limits.PAGE_ENTRIES_MAX)
        ]
        found = self._save(source, task.path, fd, others[: limits.PAGE_ENTRIES_MAX], last=False)
        return Listed(
            task.id,
            self._stream.claims,
            found.counts(),
            entry,
            device=stat.device,
            volume=volume,
            directories=directories,
            large=found.large,
            runs=found.runs,
            parts=parts,
            failed=[pack_names(found.failed)] if found.failed else [],
            problems=problems + found.problems,
            owners=self._new_owners(((stat.uid, stat.gid),)),
        )

    def _unlisted(self, task: ListTask, error: OSError) -> Listed:
        if error.errno == ENOENT:  # gone, like a file that is gone before it can be opened
            return Listed(task.id, self._stream.claims, Counts())
        what = failed(task.path[-1] if task.path else b".", "list", error)
        return Listed(task.id, self._stream.claims, Counts(), error=problem(task.path[:-1], what))

    def _names(self, source: Source, path: Path, fd: int) -> tuple[list[Directory], list[Named]]:
        """The names of a directory that are to be saved, sorted: directories and the others."""
        directories: list[bytes] = []
        others: list[Named] = []
        with os.scandir(fd) as listing:
            for item in listing:
                name = os.fsencode(item.name)
                if item.is_dir(follow_symlinks=False):
                    directories.append(name)
                else:
                    others.append((name, item.is_file(follow_symlinks=False)))
        subject = source.subject
        if subject.exclude_caches and is_cache_directory(fd, [name for name, _ in others]):
            return [], [(CACHE_TAG, True)]
        if (exclusion := source.exclusion) is not None:
            directories = [n for n in directories if not exclusion.excludes((*path, n), True)]
            others = [n for n in others if not exclusion.excludes((*path, n[0]), False)]
        directories.sort()
        others.sort()
        return [Directory(name) for name in directories], others

    def _part(self, source: Source, task: PartTask) -> PartSaved:
        names = _decode_names(task.names)
        try:
            fd = source.opener.open(task.path)
        except OSError as error:
            if error.errno == ENOENT:
                names = []
            problems = [problem(task.path, failed(name, "open", error)) for name, _ in names]
            return PartSaved(task.id, self._stream.claims, Counts(), problems=problems)
        found = self._save(source, task.path, fd, names, last=task.last_try)
        return PartSaved(
            task.id,
            self._stream.claims,
            found.counts(),
            large=found.large,
            runs=found.runs,
            failed=[pack_names(found.failed)] if found.failed else [],
            problems=found.problems,
            owners=self._new_owners(()),
        )

    def _save(
        self, source: Source, path: Path, fd: int, names: Iterable[Named], *, last: bool
    ) -> Gathered:
        """Save entries. What fails is kept for another try, unless this is the last one."""
        found = Gathered()
        save = source.saver.save
        owners = self._met = set()
        for name, regular in names:
            outcome = save(fd, name, regular=regular)
            if type(outcome) is Saved:
                entry = outcome.entry
                owners.add((entry.uid, entry.gid))
                found.add(entry, outcome.bytes_read)
                if not TIME_MIN < entry.mtime_ns < TIME_MAX:
                    found.problems.append(_other_time(path, name))
            elif isinstance(outcome, Deferred):
                entry = outcome.entry
                owners.add((entry.uid, entry.gid))
                found.defer(outcome)
                if not last and not TIME_MIN < entry.mtime_ns < TIME_MAX:
                    found.problems.append(_other_time(path, name))
            elif isinstance(outcome, Torn | Failed):
                if not last:
                    found.failed.append((name, regular))
                    continue
                found.problems.append(problem(path, outcome))
                if isinstance(outcome, Torn):
                    found.add(outcome.entry, outcome.bytes_read)
        found.close_run()
        return found

    def _new_owners(self, more: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        """Owners met in this task that the master has not been told of yet."""
        fresh = self._met.union(more) - self._owners
        self._owners |= fresh
        return list(fresh)

    # -- a range ------------------------------------------------------------------------------

    def _range(self, source: Source, task: RangeTask) -> RangeSaved:
        try:
            dirfd = source.opener.open(task.path)
            fd, stat = open_file_stat(dirfd, task.name)
        except OSError as error:
            return self._range_failed(task, error)
        try:
            changed = version_of(stat) != task.version
            extents, covered, detail = source.saver.content_range(fd, task.start, task.stop, stat)
            if not source.subject.frozen:
                changed = changed or version_of(stat_fd(fd)) != task.version
        except OSError as error:
            return self._range_failed(task, error)
        finally:
            os.close(fd)
        if changed:
            detail = "changed while it was read"
        read = data_bytes(extents)
        return RangeSaved(task.id, self._stream.claims, extents, covered, read, detail)

    def _range_failed(self, task: RangeTask, error: OSError) -> RangeSaved:
        what = failed(task.name, "read", error)
        return RangeSaved(
            task.id, self._stream.claims, b"", 0, 0, what.detail, errno=what.errno or -1
        )


def _named_well(name: bytes, path: Path, problems: list[Problem]) -> bool:
    """Whether a node can hold a name: the kernel lets some file systems have longer ones."""
    if len(name) <= limits.NAME_BYTES_MAX:
        return True
    detail = f"its name has {len(name)} bytes"
    problems.append(problem(path, Failed(name, "list", ENAMETOOLONG, detail)))
    return False


def _fitting(entry: Entry, path: Path) -> tuple[Entry, list[Problem]]:
    """The entry of a directory as a node can hold it, and what that leaves out."""
    problems: list[Problem] = []
    if entry.xattrs and (size := xattr_bytes(entry.xattrs)) > limits.ENTRY_BYTES_MAX:
        detail = f"has {size} bytes of extended attributes: they are left out"
        problems.append(Problem(b"/".join(path) or b".", "xattr", 0, detail))
        entry = msgspec.structs.replace(entry, xattrs=())
    if not TIME_MIN < entry.mtime_ns < TIME_MAX:
        problems.append(_other_time(path[:-1], entry.name or b"."))
    return entry, problems


def _other_time(path: Path, name: bytes) -> Problem:
    detail = "its time of modification lies outside 1677 to 2262: saved with the nearest time"
    return problem(path, Failed(name, "stat", 0, detail))


def _absence(subject: Subject, task: ListTask, stat: Stat) -> tuple[str, str]:
    """Why a directory is not entered, and what the user is told of it; ("", "") when it is."""
    path = os.fsdecode(b"/".join(task.path)) or "."
    if (stat.device, stat.inode) in subject.excluded:
        return "the repository", f"{path}: excluded, for it is the repository's own folder"
    if task.device < 0 or stat.device == task.device:
        return "", ""
    if subject.one_file_system:
        return "another file system", ""
    if kind := pseudo_file_system(stat.mount_id):
        return f"pseudo file system {kind}", f"{path}: not entered, a {kind} file system"
    return "", ""


def serve(connection: socket.socket, slots: memoryview) -> None:
    """Be a worker at the other end of a connection until the job ends; closes it."""
    with connection, suppress(EOFError, ConnectionError):
        channel = WorkerEnd(connection)
        start = channel.receive()
        try:
            keys = Keys.load(start.keys)
            stream = Stream(channel, keys, start, slots)
            worker = Worker(stream, keys, start)
            channel.send(Ready())
            channel.flush()
            worker.run()
        except Exception:  # noqa: BLE001 (the master hears of it, whatever it is)
            channel.send(Broken(traceback.format_exc()))
            channel.flush()


def main() -> None:
    """The entry of a worker process: descriptors of the channel and of the slots in argv."""
    harden_process()
    connection = socket.socket(fileno=int(sys.argv[1]))
    memory = mmap.mmap(int(sys.argv[2]), 0)
    serve(connection, memoryview(memory))


if __name__ == "__main__":
    main()
