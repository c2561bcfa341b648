"""A file reader: opens an entry of a source, reads its content and its attributes.

Everything goes by descriptor, so that no path of a live tree is looked up twice. All errors
are OSErrors of the source; the caller turns them into outcomes.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

from ingest.ranges import data_ranges, read_run
from ingest.statx import Stat, stat_fd
from repo.types import MIB, Kind

if TYPE_CHECKING:
    from repo.kernel.cut import Cutter

Xattrs = tuple[tuple[bytes, bytes], ...]
"""Extended attributes as (name, value), sorted by name; ACLs and capabilities are among them."""

# Nothing may block or have an effect: a fifo put in a file's place answers at once (O_NONBLOCK)
# and no symlink is followed. The access time stays where the owner or CAP_FOWNER reads.
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_READ_NOATIME: Final = _READ | os.O_NOATIME

_FILE: Final = Kind.FILE  # an enumeration's member costs a look-up each time


def open_file(dirfd: int, name: bytes) -> int:
    """Open a regular file for reading. Raises OSError, also when it is of another kind."""
    return open_file_stat(dirfd, name)[0]


def open_file_stat(dirfd: int, name: bytes) -> tuple[int, Stat]:
    """Open a regular file for reading and say what it was then, one system call each.

    Raises OSError: ELOOP for a symlink, ENXIO for a socket, EISDIR for a directory, EINVAL for
    another kind.
    """
    try:
        fd = os.open(name, _READ_NOATIME, dir_fd=dirfd)
    except (PermissionError, BlockingIOError):
        fd = _open_otherwise(dirfd, name)
    try:
        stat = stat_fd(fd)
        if stat.kind is not _FILE:
            _refuse(stat, name)
    except BaseException:
        os.close(fd)
        raise
    return fd, stat


def _open_otherwise(dirfd: int, name: bytes) -> int:
    """Open a file whose owner we are not, or on which another process holds a lease."""
    with suppress(BlockingIOError):
        return os.open(name, _READ, dir_fd=dirfd)
    # A write lease (Samba's oplocks): only an open that may wait gets through, until the holder
    # gives in or the kernel breaks the lease. Wait only when it is a regular file for certain.
    path_fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dirfd)
    try:
        stat = stat_fd(path_fd)
        if stat.kind is not _FILE:
            _refuse(stat, name)
        return os.open(b"/proc/self/fd/%d" % path_fd, os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(path_fd)


def _refuse(stat: Stat, name: bytes) -> NoReturn:
    number = errno.EISDIR if stat.kind is Kind.DIRECTORY else errno.EINVAL
    raise OSError(number, f"is a {stat.kind.name.lower()}, not a regular file", name)


def torn(before: Stat, after: Stat) -> bool:
    """Whether a file changed between two stats of it, so that what was read may be a mixture.

    Any change of content or attributes moves the ctime; size and mtime cover what an mmap
    writer or a coarse clock hides.
    """
    return (
        before.ctime_ns != after.ctime_ns
        or before.mtime_ns != after.mtime_ns
        or before.size != after.size
        or before.inode != after.inode
        or before.device != after.device
    )


# -- content ------------------------------------------------------------------------------------


def read_small(fd: int, size: int) -> bytes:
    """The whole content from the present position, in one read when the file keeps its size.

    `size` is what stat said. A result of another length means that the file changed: a longer
    one ends after at most one byte more, which is enough to notice.
    """
    data = os.read(fd, size + 1)
    if len(data) >= size:
        return data
    pieces = [data]  # short: the end, or a file system that answers in pieces
    length = len(data)
    while length <= size and (data := os.read(fd, size + 1 - length)):
        pieces.append(data)
        length += len(data)
    return b"".join(pieces)


class Piece(NamedTuple):
    """A chunk of a file's content; the memory stays good as long as somebody holds the view."""

    data: memoryview


class Hole(NamedTuple):
    """A stretch of a file without data, or one that could not be read (`damaged`)."""

    length: int
    damaged: bool = False


class ContentReader:
    """Iterates over a byte range of a file as pieces, cut into chunks, and holes.

    Chunks never cross the border of the range nor that of a hole. Zeros that the file system
    holds as data are data. When the file shrinks meanwhile, the iteration ends early:
    `stopped` then is below the range's end, and `shrunk` is true.
    """

    def __init__(
        self,
        fd: int,
        start: int,
        stop: int,
        stat: Stat,
        cutter: Cutter,
        *,
        window_bytes: int = 4 * MIB,
        skip_bad_blocks: bool = False,
    ) -> None:
        self._fd = fd
        self._start = start
        self._stop = stop
        self._stat = stat
        self._cuts = cutter.cuts
        self._window = window_bytes
        self._skip_bad_blocks = skip_bad_blocks
        self.stopped = start
        """Offset in the file up to which pieces and holes were handed out."""
        self.unreadable: list[tuple[int, int]] = []
        """(start, stop) of what could not be read, only with `skip_bad_blocks`."""

    @property
    def shrunk(self) -> bool:
        """After the iteration: whether the file ended before the range did."""
        return self.stopped < self._stop

    def __iter__(self) -> Iterator[Piece | Hole]:
        """Yield the range's pieces and holes in order. Raises OSError."""
        _advise(self._fd, self._start, self._stop - self._start, os.POSIX_FADV_SEQUENTIAL)
        for first, last, is_hole in data_ranges(self._fd, self._start, self._stop, self._stat):
            if is_hole:
                self.stopped = last
                yield Hole(last - first)
            else:
                yield from self._data(first, last)
                if self.stopped < last:
                    return

    def _data(self, first: int, last: int) -> Iterator[Piece | Hole]:
        """The pieces of a range without holes, and the damage in it."""
        offset = first
        tail = memoryview(b"")
        while offset < last:
            wanted = min(self._window, last - offset)
            buffer = memoryview(bytearray(len(tail) + wanted))
            buffer[: len(tail)] = tail
            if offset + wanted < last:
                ahead = min(self._window, last - offset - wanted)
                _advise(self._fd, offset + wanted, ahead, os.POSIX_FADV_WILLNEED)
            good, bad = read_run(
                self._fd, buffer[len(tail) :], offset, skip_bad_blocks=self._skip_bad_blocks
            )
            data = buffer[: len(tail) + good]
            ended = bad == 0 and good < wanted
            offset += good
            begin = 0
            for end in self._cuts(data, final=offset == last or bad > 0 or ended):
                self.stopped += end - begin
                yield Piece(data[begin:end])
                begin = end
            tail = data[begin:]
            if bad:
                self.unreadable.append((offset, offset + bad))
                offset += bad
                self.stopped = offset
                yield Hole(bad, damaged=True)
            if ended:
                return


def _advise(fd: int, offset: int, length: int, advice: int) -> None:
    """Tell the kernel what will be read; it is free not to listen, and so is a file system."""
    with suppress(OSError):
        os.posix_fadvise(fd, offset, length, advice)


# -- attributes ---------------------------------------------------------------------------------

# Not supported by the file system or the kind of file, or not for us to read.
_NO_XATTRS: Final = frozenset({errno.ENOTSUP, errno.EPERM, errno.EACCES, errno.ENOSYS})


def xattrs_fd(fd: int) -> Xattrs:
    """The extended attributes of an open file or directory that we may read. Raises OSError."""
    try:
        names = os.listxattr(fd)
    except OSError as error:
        if error.errno in _NO_XATTRS:
            return ()
        raise
    if not names:
        return ()
    return _values(names, lambda name: os.getxattr(fd, name))


def xattrs_at(dirfd: int, name: bytes) -> Xattrs:
    """The same for an entry that cannot be opened: a symlink, device, fifo or socket.

    Needs /proc: there is no system call by directory and name before Linux 6.13.
    """
    path = b"/proc/self/fd/%d/%s" % (dirfd, name)
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno in _NO_XATTRS:
            return ()
        raise
    if not names:
        return ()
    return _values(names, lambda name: os.getxattr(path, name, follow_symlinks=False))


def _values(names: list[str], value_of: Callable[[str], bytes]) -> Xattrs:
    found = []
    for name in names:
        try:
            found.append((os.fsencode(name), value_of(name)))
        except OSError as error:
            # Gone since it was listed, or listed but not for us to read.
            if error.errno != errno.ENODATA and error.errno not in _NO_XATTRS:
                raise
    found.sort()
    return tuple(found)


_GETFLAGS: Final = 0x80006601 | Struct("@l").size << 16  # FS_IOC_GETFLAGS, _IOR('f', 1, long)
_FLAGS = Struct("=I")  # whatever the request's number says, file systems write 32 bits

_RESTORABLE: Final = (
    0x00000001  # secure deletion
    | 0x00000002  # undelete
    | 0x00000004  # compress
    | 0x00000008  # synchronous
    | 0x00000010  # immutable
    | 0x00000020  # append only
    | 0x00000040  # no dump
    | 0x00000080  # no access time
    | 0x00000400  # do not compress
    | 0x00004000  # journal data
    | 0x00008000  # no tail merging
    | 0x00010000  # synchronous directory
    | 0x00020000  # top of a hierarchy
    | 0x00800000  # no copy on write
    | 0x02000000  # direct access
    | 0x20000000  # project id inherited
    | 0x40000000  # case folded
)
"""The FS_*_FL flags that chattr can set again; the others say how a file system stores a file."""

# ENOTTY and its kin: a file system without flags. EPERM: not ours to ask.
_NO_FLAGS: Final = frozenset(
    {errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EACCES}
)


class _ThreadBuffer(threading.local):
    """The buffer that ioctl fills: one per thread, because the call gives the GIL away."""

    def __init__(self) -> None:
        self.flags = bytearray(8)


_thread = _ThreadBuffer()
_ioctl = fcntl.ioctl


def flags_fd(fd: int) -> int:
    """The flags (chattr) of an open file or directory that a restore can set; 0 without any.

    Only for these two kinds: on a device the same request would reach the driver. Raises OSError.
    """
    buffer = _thread.flags
    try:
        _ioctl(fd, _GETFLAGS, buffer)
    except OSError as error:
        if error.errno in _NO_FLAGS:
            return 0
        raise
    flags: int = _FLAGS.unpack_from(buffer)[0]
    return flags & _RESTORABLE
