"""Reading back: what a repository holds of a source, entry by entry, against the source itself.

Reads through `Repository.tree` and the reader alone, so that it tells a fault of ingest from one
of restore. What a restore makes of it is tested elsewhere.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from repo.format.manifest import Point, Problem, parse_problems
from repo.format.node import Entry
from repo.keys import KeyFile
from repo.repository import Repository
from repo.types import ChunkId, Kind
from tests.support import chattr, command
from tests.support.compare import CHATTR_MASK

_KINDS = {
    Kind.FILE: stat.S_IFREG,
    Kind.DIRECTORY: stat.S_IFDIR,
    Kind.SYMLINK: stat.S_IFLNK,
    Kind.FIFO: stat.S_IFIFO,
    Kind.SOCKET: stat.S_IFSOCK,
    Kind.CHARACTER_DEVICE: stat.S_IFCHR,
    Kind.BLOCK_DEVICE: stat.S_IFBLK,
}


@contextmanager
def opened(made: command.Repository) -> Iterator[Repository]:
    """The repository of a test, opened in this process; its index is where the command has it."""
    with environment_of(made), Repository.open(made.path, KeyFile(made.key_file)) as repository:
        yield repository


@contextmanager
def environment_of(made: command.Repository) -> Iterator[None]:
    """The home of the test's commands as that of this process: it decides where an index lies."""
    names = [name for name in os.environ if name.startswith("XDG_")] + ["HOME"]
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    os.environ["HOME"] = made.env["HOME"]
    try:
        yield
    finally:
        os.environ.pop("HOME", None)
        os.environ.update(before)


def problems(repository: Repository, point: Point) -> list[Problem]:
    """The problems that a point lists."""
    found: list[Problem] = []
    for chunk_id in point.problems:
        data = bytes(repository.reader.chunk(ChunkId(chunk_id)))
        found += parse_problems(data, where="problems")
    return found


# -- a point against its source -------------------------------------------------------------------


def differences(repository: Repository, point: Point, source: Path) -> list[str]:
    """What a point holds otherwise than its source, one line each; none when it is all there.

    Compared are names (by listing and by look-up), kind, mode, owner, times, inode number, size,
    content, holes as zeros, link target, device number, xattrs, flags, hard links and the totals
    of each directory.
    """
    walk = _Walk(repository)
    fd = os.open(source, os.O_RDONLY | os.O_DIRECTORY)
    try:
        walk.directory(point.root, fd, b"")
    finally:
        os.close(fd)
    walk.hard_links()
    return walk.found


class _Totals(NamedTuple):
    entries: int
    bytes: int


class _Walk:
    def __init__(self, repository: Repository) -> None:
        self.found: list[str] = []
        self._tree = repository.tree
        self._reader = repository.reader
        self._links_here: dict[tuple[int, int], list[bytes]] = {}
        self._links_there: dict[tuple[int, int], list[bytes]] = {}

    def _differ(self, path: bytes, aspect: str, source: object, point: object) -> None:
        if source != point:
            text = f"{path!r}: {aspect}: {source!r} is {point!r} in the point"
            self.found.append(text if len(text) < 1000 else text[:1000] + "...")

    def directory(self, entry: Entry, fd: int, path: bytes) -> _Totals:
        """Compare a directory that is open in the source; returns what lies below it."""
        self._attributes(entry, os.fstat(fd), path)
        self._differ(path, "xattrs", _xattrs(b"/proc/self/fd/%d" % fd, follow=True), entry.xattrs)
        self._differ(path, "flags", _flags(fd), entry.flags & CHATTR_MASK)
        names = sorted(map(os.fsencode, os.listdir(fd)))
        held = list(self._tree.entries(entry))
        self._differ(path, "names", names, [below.name for below in held])
        entries = size = 0
        for below in held:
            self._differ(path, f"look-up of {below.name!r}", self._lookup(entry, below), below)
            if below.name in names:
                totals = self._entry(below, fd, path + b"/" + below.name, entry.volume)
                entries += 1 + totals.entries
                size += totals.bytes
        node = self._tree.node(entry)
        self._differ(path, "totals", (entries, size), tuple(node.totals))
        self._differ(path, "totals", (entries, size), (entry.entries_below, entry.bytes_below))
        return _Totals(entries, size)

    def _lookup(self, directory: Entry, below: Entry) -> Entry | None:
        # Bisection reads a page anew each time: of a large directory a few names must do.
        if directory.entries_below > 2000 and hash(below.name) % 97:
            return below
        return self._tree.lookup(directory, below.name)

    def _entry(self, entry: Entry, above: int, path: bytes, volume: int) -> _Totals:
        status = os.stat(entry.name, dir_fd=above, follow_symlinks=False)
        if entry.kind == Kind.DIRECTORY:
            if entry.absent:
                self.found.append(f"{path!r}: absent: {entry.absent}")
                return _Totals(0, 0)
            fd = os.open(entry.name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=above)
            try:
                return self.directory(entry, fd, path)
            finally:
                os.close(fd)
        self._attributes(entry, status, path)
        by_fd = b"/proc/self/fd/%d/%s" % (above, entry.name)
        self._differ(path, "xattrs", _xattrs(by_fd, follow=False), entry.xattrs)
        if status.st_nlink > 1:
            self._links_here.setdefault((status.st_dev, status.st_ino), []).append(path)
        if entry.nlink > 1:
            self._links_there.setdefault((volume, entry.inode), []).append(path)
        if entry.kind == Kind.FILE:
            fd = os.open(entry.name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=above)
            try:
                self._differ(path, "flags", _flags(fd), entry.flags & CHATTR_MASK)
                self._content(entry, fd, path)
            finally:
                os.close(fd)
        elif entry.kind == Kind.SYMLINK:
            self._differ(path, "target", os.readlink(entry.name, dir_fd=above), entry.target)
        elif entry.kind in (Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE):
            self._differ(path, "device", status.st_rdev, entry.rdev)
        return _Totals(0, entry.size)

    def _attributes(self, entry: Entry, status: os.stat_result, path: bytes) -> None:
        self._differ(path, "kind", stat.S_IFMT(status.st_mode), _KINDS[Kind(entry.kind)])
        self._differ(path, "mode", oct(stat.S_IMODE(status.st_mode)), oct(entry.mode))
        self._differ(path, "owner", (status.st_uid, status.st_gid), (entry.uid, entry.gid))
        self._differ(path, "mtime", status.st_mtime_ns, entry.mtime_ns)
        self._differ(path, "ctime", status.st_ctime_ns, entry.ctime_ns)
        self._differ(path, "links", status.st_nlink, entry.nlink)
        if entry.kind == Kind.FILE:
            self._differ(path, "size", status.st_size, entry.size)

    def _content(self, entry: Entry, fd: int, path: bytes) -> None:
        position = 0
        for extent in self._tree.extents(entry):
            if extent.is_hole:
                good = _zeros(fd, position, position + extent.length)
            else:
                data = self._reader.chunk(extent.id)
                good = len(data) == extent.length == len(held := os.pread(fd, len(data), position))
                good = good and held == data
            if not good:
                self._differ(path, "content", "as read", f"other from byte {position}")
                return
            position += extent.length

    def hard_links(self) -> None:
        """The same names must be one file on both sides."""
        here = {tuple(paths) for paths in self._links_here.values() if len(paths) > 1}
        there = {tuple(paths) for paths in self._links_there.values() if len(paths) > 1}
        self._differ(b"", "hard links", sorted(here - there), sorted(there - here))


def _xattrs(path: bytes, *, follow: bool) -> tuple[tuple[bytes, bytes], ...]:
    names = sorted(map(os.fsencode, os.listxattr(path, follow_symlinks=follow)))
    return tuple((name, os.getxattr(path, name, follow_symlinks=follow)) for name in names)


def _flags(fd: int) -> int:
    try:
        return chattr.get(fd) & CHATTR_MASK
    except OSError:
        return 0


def _zeros(fd: int, start: int, stop: int) -> bool:
    """Whether a file holds zeros only in a range, which may be very long."""
    position = start
    while position < stop:
        try:
            position = os.lseek(fd, position, os.SEEK_DATA)
        except OSError:  # ENXIO: no data behind
            return True
        if position >= stop:
            return True
        data = os.pread(fd, min(1 << 20, stop - position), position)
        if data.strip(b"\0"):
            return False
        position += len(data)
    return True


# -- a point by itself ----------------------------------------------------------------------------

Content = Mapping[bytes, tuple[object, ...]]
"""What a point holds: path -> everything but times, inode numbers and ids; content as a digest."""


def content(repository: Repository, point: Point) -> Content:
    """All that a point holds, read from the repository bit for bit. Raises Damaged."""
    found: dict[bytes, tuple[object, ...]] = {}
    stack = [(b"", point.root)]
    while stack:
        path, entry = stack.pop()
        what = (entry.kind, entry.mode, entry.uid, entry.gid, entry.xattrs, entry.target)
        if entry.kind == Kind.DIRECTORY:
            found[path] = (*what, entry.entries_below, entry.bytes_below, entry.absent)
            below = repository.tree.entries(entry)
            stack += [(path + b"/" + each.name, each) for each in below]
        else:
            found[path] = (*what, entry.size, _digest(repository, entry))
    return found


def _digest(repository: Repository, entry: Entry) -> str:
    digest = hashlib.blake2b()
    for extent in repository.tree.extents(entry):
        if extent.is_hole:
            digest.update(b"hole %d" % extent.length)
        else:
            digest.update(repository.reader.chunk(extent.id))
    return digest.hexdigest()


def whole(repository: Repository) -> dict[bytes, Content]:
    """Every point of a repository with all that it holds. Raises Damaged."""
    return {point.id: content(repository, point) for point in repository.points()}
