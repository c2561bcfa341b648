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
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from errno import ENAMETOOLONG, ENOENT
from operator import itemgetter

import msgspec
from xxhash import xxh32_intdigest

from ingest.audit import Audit
from ingest.channel import (
    Broken,
    Counts,
    Directory,
    Large,
    Listed,
    Part,
    RangeSaved,
    Ready,
    Run,
    Start,
    WorkerEnd,
)
from ingest.channel import Saved as PartSaved
from ingest.exclusion import CACHE_TAG, Exclusion, is_cache_directory
from ingest.filereader import open_file_stat
from ingest.known import Known, same_attributes
from ingest.mounts import pseudo_file_system, unstable_inodes
from ingest.outcome import Deferred, Failed, Saved, Torn, failed, problem
from ingest.saver import Saver, data_bytes, directory_entry, version_of, xattr_bytes
from ingest.snapshots.folder import FOLDER_NAME
from ingest.statx import TIME_MAX, TIME_MIN, DirectoryOpener, Stat, stat_fd
from ingest.stream import Halting, Stopped, Stream
from ingest.task import Comparison, ListTask, PartTask, Path, RangeTask, Subject, Task
from repo.format import limits
from repo.format.manifest import Problem
from repo.format.node import Entry, pack_entries, parse_entries
from repo.hardening import harden_process
from repo.kernel.cut import CutParameters, Cutter
from repo.keys import Keys
from repo.types import Kind

Named = tuple[bytes, bool, int]
"""A name, whether it was listed as a regular file, and its inode in the listing (0: unknown)."""

_first = itemgetter(0)
_encode_names = msgspec.msgpack.Encoder().encode
_decode_names = msgspec.msgpack.Decoder(list[tuple[bytes, bool, int]]).decode


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
        self.wrong: list[bytes] = []
        self.unchanged = False
        self._entries: list[Entry] = []
        self._weight = 0
        self._files = 0
        self._bytes_source = 0
        self._bytes_read = 0
        self._xattrs = False
        self._reused = 0
        self.audited = 0

    def add(self, entry: Entry, bytes_read: int) -> None:
        """Take a saved entry; entries come in the order of their names."""
        full = len(self._entries) >= limits.PAGE_ENTRIES_MAX
        if full or self._weight >= limits.PAGE_BYTES_TARGET:
            self.close_run()
        self._entries.append(entry)
        self._files += 1
        self._bytes_source += entry.size
        self._bytes_read += bytes_read
        self._weight += 160 + len(entry.extents)
        if entry.xattrs:
            self._xattrs = True
            self._weight += sum(len(name) + len(value) for name, value in entry.xattrs)

    def take_over(self, entry: Entry) -> None:
        """Take an entry of the base, which still holds."""
        self.add(entry, 0)
        self._reused += 1

    def defer(self, outcome: Deferred, base: Entry | None, *, begun: bool) -> None:
        """Take a large file, which becomes range tasks and counts when they are done."""
        self.large.append(Large(outcome.entry, outcome.version, base, begun))
        self._xattrs = self._xattrs or bool(outcome.entry.xattrs)

    def close(self, known: Known | None) -> None:
        """The task is done. When its entries are those of the base's first run, it need not hear
        them again.
        """
        if (
            known is not None
            and known.first
            and known.taken_of_first == len(known.first) == len(self._entries)
            and not (self.runs or self.large or self.failed)
        ):
            self.unchanged = True
        else:
            self.close_run()

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
        return Counts(
            self._files,
            self._bytes_source,
            self._bytes_read,
            self._xattrs,
            self._reused,
            self.audited,
        )


class Source:
    """A source as a worker holds it: its open root and how to read it."""

    def __init__(
        self, root_fd: int, subject: Subject, stream: Stream, keys: Keys, start: Start
    ) -> None:
        self.subject = subject
        self.opener = DirectoryOpener(root_fd)
        self.mount_id = stat_fd(root_fd).mount_id
        cutter = Cutter(CutParameters(*start.chunker), keys.chunker_key.reveal())
        self.saver = Saver(stream, cutter, subject, start.range_bytes)
        self.exclusion = Exclusion.parse(subject.rules) if subject.rules else None


class Worker:
    """The loop: take a task, do it, send its result."""

    def __init__(self, stream: Stream, keys: Keys, start: Start) -> None:
        self._stream = stream
        self._keys = keys
        self._start = start
        self._sources = [
            Source(fd, subject, stream, keys, start)
            for fd, subject in zip(start.roots, start.subjects, strict=True)
        ]
        self._audit = Audit(keys)
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
            self._stream.close()

    def _do(self, task: Task) -> None:
        while task.source >= len(self._sources):
            fd, subject = self._stream.further.popleft()
            self._sources.append(Source(fd, subject, self._stream, self._keys, self._start))
            os.close(fd)  # the opener has its own
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
            if _was_elsewhere(task, stat):
                return self._put_off(task, stat, volume)
            same = _same_directory(task, stat, volume)
            if same and task.before is not None:
                entry = msgspec.structs.replace(task.before, name=name)
            else:
                entry = directory_entry(name, fd, stat, volume)
            reason, notice = _absence(source, task, stat)
            if reason:
                entry = directory_entry(name, fd, stat, volume)
                entry = msgspec.structs.replace(entry, absent=reason)
                notices = [notice] if notice else []
                return Listed(task.id, self._stream.claims, Counts(), entry, notices=notices)
            directories, others = self._names(source, task.path, fd)
        except OSError as error:
            return self._unlisted(task, error)
        entry, problems = _fitting(entry, task.path)
        others = [named for named in others if _named_well(named[0], task.path, problems)]
        directories = [d for d in directories if _named_well(d.name, task.path, problems)]
        now = 0 if task.bounds else limits.PAGE_ENTRIES_MAX
        parts = [_part(names) for names in _pages(others[now:], task.bounds)]
        known = _known(task.comparison, stat)
        found = self._save(source, task.path, fd, others[:now], known, last=False)
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
            unchanged=found.unchanged,
            same=same,
            wrong=found.wrong,
        )

    def _put_off(self, task: ListTask, stat: Stat, volume: int) -> Listed:
        """A directory that lay elsewhere when its base was made: the master is to say where."""
        name = task.path[-1] if task.path else b""
        entry = Entry(
            name, Kind.DIRECTORY, stat.mode, stat.uid, stat.gid, stat.mtime_ns, stat.ctime_ns,
            stat.btime_ns, stat.inode, stat.nlink,
        )  # fmt: skip
        claims = self._stream.claims
        return Listed(task.id, claims, Counts(), entry, volume=volume, put_off=True)

    def _unlisted(self, task: ListTask, error: OSError) -> Listed:
        if error.errno == ENOENT:  # gone, like a file that is gone before it can be opened
            return Listed(task.id, self._stream.claims, Counts())
        what = failed(task.path[-1] if task.path else b".", "list", error)
        return Listed(task.id, self._stream.claims, Counts(), error=problem(task.path[:-1], what))

    def _names(self, source: Source, path: Path, fd: int) -> tuple[list[Directory], list[Named]]:
        """The names of a directory that are to be saved, sorted: directories and the others."""
        directories: list[tuple[bytes, int]] = []
        others: list[Named] = []
        with os.scandir(fd) as listing:
            for item in listing:
                name = os.fsencode(item.name)
                if item.is_dir(follow_symlinks=False):
                    directories.append((name, item.inode()))
                else:
                    others.append((name, item.is_file(follow_symlinks=False), item.inode()))
        subject = source.subject
        if subject.exclude_caches and is_cache_directory(fd, [named[0] for named in others]):
            return [], [named for named in others if named[0] == CACHE_TAG]
        if (exclusion := source.exclusion) is not None:
            directories = [d for d in directories if not exclusion.excludes((*path, d[0]), True)]
            others = [n for n in others if not exclusion.excludes((*path, n[0]), False)]
        directories.sort()
        others.sort()
        return [Directory(name, inode) for name, inode in directories], others

    def _part(self, source: Source, task: PartTask) -> PartSaved:
        if task.audit:
            return self._audit_only(source, task)
        names = _decode_names(task.names) if task.names else None
        known = None
        try:
            fd = source.opener.open(task.path)
            if task.comparison is not None:
                known = _known(task.comparison, stat_fd(fd))
            if names is None and known is not None:
                names = [(e.name, e.kind == Kind.FILE, e.inode) for e in known.first]
        except OSError as error:
            names = names or []
            if error.errno == ENOENT:
                names = []
            problems = [problem(task.path, failed(named[0], "open", error)) for named in names]
            return PartSaved(task.id, self._stream.claims, Counts(), problems=problems)
        found = self._save(source, task.path, fd, names or [], known, last=task.last_try)
        return PartSaved(
            task.id,
            self._stream.claims,
            found.counts(),
            large=found.large,
            runs=found.runs,
            failed=[pack_names(found.failed)] if found.failed else [],
            problems=found.problems,
            owners=self._new_owners(()),
            unchanged=found.unchanged,
            wrong=found.wrong,
        )

    def _save(
        self,
        source: Source,
        path: Path,
        fd: int,
        names: Iterable[Named],
        known: Known | None,
        *,
        last: bool,
    ) -> Gathered:
        """Save entries, or take them over from what is known. What fails is kept for another
        try, unless this is the last one.
        """
        found = Gathered()
        save = source.saver.save
        owners = self._met = set()
        for name, regular, inode in names:
            if known is not None and (entry := self._taken(known, fd, name, inode)) is not None:
                found.take_over(entry)
                if self._audit.due(entry):
                    frozen = source.subject.frozen
                    right = self._audit.unchanged if frozen else self._audit.right
                    self._do_audit(found, fd, entry, right)
                continue
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
                base, begun = known.of_large(outcome.stat, name) if known else (None, False)
                found.defer(outcome, base, begun=begun)
                if not last and not TIME_MIN < entry.mtime_ns < TIME_MAX:
                    found.problems.append(_other_time(path, name))
            elif isinstance(outcome, Torn | Failed):
                if not last:
                    found.failed.append((name, regular, inode))
                    continue
                found.problems.append(problem(path, outcome))
                if isinstance(outcome, Torn):
                    found.add(outcome.entry, outcome.bytes_read)
        found.close(known)
        return found

    def _do_audit(
        self, found: Gathered, fd: int, entry: Entry, right: Callable[[int, bytes, Entry], bool]
    ) -> None:
        with suppress(OSError):  # it is gone, or cannot be opened, which says nothing of the base
            found.audited += 1
            if not right(fd, entry.name, entry):
                found.wrong.append(entry.name)

    def _audit_only(self, source: Source, task: PartTask) -> PartSaved:
        """Look at files that were taken over without a look."""
        found = Gathered()
        with suppress(OSError):
            fd = source.opener.open(task.path)
            for run in task.comparison.runs if task.comparison is not None else ():
                for entry in parse_entries(run.entries, where="an audit"):
                    self._do_audit(found, fd, entry, self._audit.unchanged)
        claims = self._stream.claims
        return PartSaved(task.id, claims, found.counts(), wrong=found.wrong)

    def _taken(self, known: Known, fd: int, name: bytes, inode: int) -> Entry | None:
        """The entry of the base, if it holds."""
        with suppress(OSError):  # what cannot be looked at is saved, and fails there
            return known.take(fd, name, inode)
        return None

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


def _known(comparison: Comparison | None, directory: Stat) -> Known | None:
    """What a base says of the entries of a directory, as far as its file system can be trusted."""
    if comparison is None:
        return None
    return Known(comparison, stable=not unstable_inodes(directory.mount_id))


def _was_elsewhere(task: ListTask, stat: Stat) -> bool:
    """Whether a directory is older than the base and not what the base has in this place."""
    if stat.btime_ns >= task.probe_ns or unstable_inodes(stat.mount_id):
        return False
    return task.before is None or task.before.inode != stat.inode


def _same_directory(task: ListTask, stat: Stat, volume: int) -> bool:
    """Whether the attributes of a directory are those that the base has of it."""
    before = task.before
    if before is None or before.absent or before.volume != volume:
        return False
    stable = not unstable_inodes(stat.mount_id)
    return same_attributes(stat, before, task.limit_ns, stable=stable)


def _pages(names: list[Named], bounds: tuple[bytes, ...]) -> Iterator[list[Named]]:
    """Sorted names as pages, which end where those of the base end or when they are full."""
    start = 0
    borders = [bisect_left(names, bound, key=_first) for bound in bounds[1:]]
    for border in [*borders, len(names)]:
        for at in range(start, border, limits.PAGE_ENTRIES_MAX):
            yield names[at : min(border, at + limits.PAGE_ENTRIES_MAX)]
        start = max(start, border)


def _part(names: list[Named]) -> Part:
    return Part(names[0][0], names[-1][0], pack_names(names))


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


def _absence(source: Source, task: ListTask, stat: Stat) -> tuple[str, str]:
    """Why a directory is not entered, and what the user is told of it; ("", "") when it is."""
    subject = source.subject
    path = os.fsdecode(b"/".join(task.path)) or "."
    if (stat.device, stat.inode) in subject.excluded:
        return "the repository", f"{path}: excluded, for it is the repository's own folder"
    if task.device < 0:
        return "", ""
    # btrfs gives what stands for a nested subvolume a st_dev of its own.
    placeholder = stat.inode == subject.placeholder and stat.mount_id == source.mount_id
    closed = not stat.mode & 0o077 or placeholder
    if closed and task.path[-1] == os.fsencode(FOLDER_NAME):
        return "snapshots kept by repo", ""
    if not placeholder and stat.device == task.device:
        return "", ""
    if placeholder:
        return "another subvolume", ""
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
