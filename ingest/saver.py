"""A saver: reads the entries of one source and turns each into an outcome."""

from __future__ import annotations

import os
from errno import ENOENT
from typing import Final, Protocol

from ingest.filereader import (
    ContentReader,
    Hole,
    Xattrs,
    flags_fd,
    open_file_stat,
    read_small,
    torn,
    xattrs_at,
    xattrs_fd,
)
from ingest.outcome import Deferred, Failed, Outcome, Saved, Torn, Vanished, failed
from ingest.statx import Stat, stat_at, stat_fd
from ingest.task import Subject
from repo.format import limits
from repo.format.node import EXTENT_ROW, HOLE, Entry
from repo.kernel.cut import Cutter
from repo.types import Kind

Version = tuple[int, int, int, int, int]

EXTENTS_BYTES_MAX: Final = limits.EXTENT_ROWS_MAX * EXTENT_ROW.size
"""Extents beyond this do not fit into an entry."""

_FILE: Final = Kind.FILE
_SYMLINK: Final = Kind.SYMLINK
_pack_row = EXTENT_ROW.pack


def version_of(stat: Stat) -> Version:
    """What must stay the same for a file to be the same while its ranges are read."""
    return (stat.device, stat.inode, stat.size, stat.mtime_ns, stat.ctime_ns)


class Chunks(Protocol):
    """Where chunks go: a stream, as a rule."""

    def add(self, data: bytes | memoryview) -> bytes:
        """Take a chunk; returns its id. The memory must stay as it is."""
        ...


class Saver:
    """Saves entries of one source into a stream."""

    def __init__(self, stream: Chunks, cutter: Cutter, subject: Subject, range_bytes: int) -> None:
        self._add = stream.add
        self._cutter = cutter
        self._small = cutter.parameters.minimum
        self._range_bytes = range_bytes
        self._frozen = subject.frozen
        self._skip_bad_blocks = subject.skip_bad_blocks

    def save(self, dirfd: int, name: bytes, *, regular: bool) -> Outcome:
        """Save one entry that is no directory. `regular`: whether the listing called it a file."""
        try:
            if regular:
                return self._file(dirfd, name)
            return self._special(dirfd, name)
        except FileNotFoundError:
            return Vanished(name)

    def _file(self, dirfd: int, name: bytes) -> Outcome:
        try:
            fd, stat = open_file_stat(dirfd, name)
        except OSError as error:
            if error.errno == ENOENT:
                return Vanished(name)
            return failed(name, "open", error)
        try:
            try:
                xattrs = xattrs_fd(fd)
                flags = flags_fd(fd)
            except OSError as error:
                return failed(name, "xattr", error)
            if xattrs and (size := xattr_bytes(xattrs)) > limits.ENTRY_BYTES_MAX:
                return _too_many(name, size)
            if stat.size > self._range_bytes:
                return self._deferred(name, stat, flags, xattrs)
            try:
                extents, size, detail = self._content(fd, stat)
                if not self._frozen and not detail and torn(stat, stat_fd(fd)):
                    detail = "changed while it was read"
            except OSError as error:
                return failed(name, "read", error)
            if len(extents) > EXTENTS_BYTES_MAX:
                return self._deferred(name, stat, flags, xattrs)
            entry = file_entry(name, stat, size, extents, flags, xattrs)
            read = size if stat.blocks * 512 >= size else data_bytes(extents)
            return Torn(entry, read, detail) if detail else Saved(entry, read)
        finally:
            os.close(fd)

    @staticmethod
    def _deferred(name: bytes, stat: Stat, flags: int, xattrs: Xattrs) -> Deferred:
        """A file whose extents need pages, which the master makes: it is large or in tatters."""
        entry = file_entry(name, stat, stat.size, b"", flags, xattrs)
        return Deferred(entry, version_of(stat), stat)

    def _content(self, fd: int, stat: Stat) -> tuple[bytes, int, str]:
        """Read a whole file: packed extents, bytes covered, and what makes it torn ("")."""
        size = stat.size
        if size == 0:
            return b"", 0, ""
        if size > self._small or stat.blocks * 512 < size:
            return self.content_range(fd, 0, size, stat)
        data = read_small(fd, size)
        if len(data) == size:
            return _pack_row(self._add(data), size), size, ""
        detail = "grew while it was read" if len(data) > size else "shrank while it was read"
        data = data[:size]
        if not data:
            return b"", 0, detail
        return _pack_row(self._add(data), len(data)), len(data), detail

    def content_range(self, fd: int, start: int, stop: int, stat: Stat) -> tuple[bytes, int, str]:
        """Read the bytes [start, stop): packed extents, bytes covered, what is wrong with them."""
        reader = ContentReader(
            fd, start, stop, stat, self._cutter, skip_bad_blocks=self._skip_bad_blocks
        )
        rows: list[bytes] = []
        add = self._add
        for piece in reader:
            if isinstance(piece, Hole):
                rows.append(_pack_row(HOLE, piece.length))
            else:
                rows.append(_pack_row(add(piece.data), len(piece.data)))
        detail = "shrank while it was read" if reader.shrunk else ""
        if reader.unreadable:
            lost = sum(last - first for first, last in reader.unreadable)
            detail = f"{lost} bytes cannot be read and are holes in the point"
        return b"".join(rows), reader.stopped - start, detail

    def _special(self, dirfd: int, name: bytes) -> Outcome:
        try:
            stat = stat_at(dirfd, name)
            if stat.kind is _FILE:
                return self._file(dirfd, name)
            if stat.kind is Kind.DIRECTORY:
                return Failed(name, "stat", 0, "became a directory while it was read")
            target = b""
            if stat.kind is _SYMLINK:
                target = os.readlink(name, dir_fd=dirfd)
            xattrs = xattrs_at(dirfd, name)
        except OSError as error:
            if error.errno == ENOENT:
                return Vanished(name)
            return failed(name, "stat", error)
        entry = Entry(
            name,
            stat.kind,
            stat.mode,
            stat.uid,
            stat.gid,
            stat.mtime_ns,
            stat.ctime_ns,
            stat.btime_ns,
            stat.inode,
            stat.nlink,
            xattrs=xattrs,
            target=target,
            rdev=stat.rdev,
        )
        if xattrs and (size := xattr_bytes(xattrs)) > limits.ENTRY_BYTES_MAX:
            return _too_many(name, size)
        return Saved(entry)


def data_bytes(extents: bytes) -> int:
    """How many of the bytes that packed extents cover are no holes."""
    return sum(length for chunk_id, length in EXTENT_ROW.iter_unpack(extents) if chunk_id != HOLE)


def file_entry(
    name: bytes,
    stat: Stat,
    size: int,
    extents: bytes,
    flags: int,
    xattrs: Xattrs,
) -> Entry:
    """The entry of a regular file."""
    _, mode, uid, gid, _, _, mtime_ns, ctime_ns, btime_ns, inode, nlink, _, _, _, _ = stat
    return Entry(
        name, _FILE, mode, uid, gid, mtime_ns, ctime_ns, btime_ns, inode, nlink,
        size, extents, 0, flags, xattrs,
    )  # fmt: skip


def xattr_bytes(xattrs: Xattrs) -> int:
    """What extended attributes take of a node."""
    return sum(len(name) + len(value) for name, value in xattrs)


def _too_many(name: bytes, size: int) -> Failed:
    return Failed(name, "xattr", 0, f"has {size} bytes of extended attributes")


def directory_entry(name: bytes, fd: int, stat: Stat, volume: int) -> Entry:
    """The entry of an open directory, without its node. Raises OSError."""
    return Entry(
        name,
        Kind.DIRECTORY,
        stat.mode,
        stat.uid,
        stat.gid,
        stat.mtime_ns,
        stat.ctime_ns,
        stat.btime_ns,
        stat.inode,
        stat.nlink,
        flags=flags_fd(fd),
        xattrs=xattrs_fd(fd),
        volume=volume,
    )
