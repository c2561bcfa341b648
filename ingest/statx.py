"""A stat: what the kernel says of one entry of a source, by statx(2).

`os.stat` knows neither birth time nor mount id nor attributes, and its result is slower to
take apart; statx through ctypes costs 1.5 us by name and .8 us by descriptor besides the
decoding (.5 us). The C function is called without `argtypes` on purpose: ctypes then hands
int and bytes over directly, which saves a quarter. Hence every argument here must be an int
of 32 bits, bytes, or a ctypes buffer.
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from collections.abc import Sequence
from struct import Struct
from typing import Final, NamedTuple

from repo.types import Kind

_NANOSECONDS: Final = 1_000_000_000

TIME_MIN: Final = -(1 << 63)
TIME_MAX: Final = (1 << 63) - 1
"""What nanoseconds since 1970 in 64 bits can hold: the years 1677 to 2262. A time that a file
system has beyond them becomes the nearest of these two."""

_SECONDS: Final = TIME_MAX // _NANOSECONDS

# struct statx of linux/stat.h; atime and what we have no use for are padding.
_STATX = Struct(
    "<8x"  # mask, blksize
    "QIIIHxx"  # attributes, nlink, uid, gid, mode
    "QQQ"  # inode, size, blocks
    "8x16x"  # attributes_mask, atime
    "qI4xqI4xqI4x"  # btime, ctime, mtime
    "IIII"  # rdev major, minor; dev major, minor
    "Q"  # mount id
)
_STATX_BYTES: Final = 256
assert _STATX.size == 152

_MASK: Final = 0x1FFF  # STATX_BASIC_STATS | STATX_BTIME | STATX_MNT_ID; what is not known is 0
_BY_NAME: Final = 0x0100 | 0x0800  # AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT
_BY_DESCRIPTOR: Final = _BY_NAME | 0x1000  # AT_EMPTY_PATH

_KINDS: Final = {
    0x8: Kind.FILE,
    0x4: Kind.DIRECTORY,
    0xA: Kind.SYMLINK,
    0x1: Kind.FIFO,
    0xC: Kind.SOCKET,
    0x2: Kind.CHARACTER_DEVICE,
    0x6: Kind.BLOCK_DEVICE,
}

_statx = ctypes.CDLL(None, use_errno=True).statx
_new = tuple.__new__
_makedev = os.makedev


class _ThreadBuffer(threading.local):
    """The buffer that statx fills: one per thread, because the call gives the GIL away."""

    def __init__(self) -> None:
        self.statx = ctypes.create_string_buffer(_STATX_BYTES)


_thread = _ThreadBuffer()


class Stat(NamedTuple):
    """What statx says of an entry. Times in nanoseconds since 1970, negative before."""

    kind: Kind
    mode: int
    """Permission bits, set-id and sticky: 0o7777 of st_mode."""
    uid: int
    gid: int
    size: int
    blocks: int
    """Allocated blocks of 512 bytes."""
    mtime_ns: int
    ctime_ns: int
    btime_ns: int
    """Birth time; 0 where the file system keeps none."""
    inode: int
    nlink: int
    rdev: int
    """Device number of a device node, as `os.makedev` makes it; else 0."""
    device: int
    """st_dev: the file system (on btrfs the subvolume) that holds the entry."""
    mount_id: int
    """The mount through which it was reached; 0 before Linux 5.8."""
    attributes: int
    """STATX_ATTR_* bits."""


def stat_at(dirfd: int, name: bytes) -> Stat:
    """The stat of `name` in the directory; a symlink is not followed. Raises OSError."""
    buffer = _thread.statx
    if _statx(dirfd, name, _BY_NAME, _MASK, buffer):
        raise _failure(name)
    return _decode(buffer)


def stat_fd(fd: int) -> Stat:
    """The stat of an open file. Raises OSError."""
    buffer = _thread.statx
    if _statx(fd, b"", _BY_DESCRIPTOR, _MASK, buffer):
        raise _failure(None)
    return _decode(buffer)


def _failure(name: bytes | None) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), name)


def _decode(buffer: ctypes.Array[ctypes.c_char]) -> Stat:
    (
        attributes, nlink, uid, gid, mode, inode, size, blocks,
        btime, btime_part, ctime, ctime_part, mtime, mtime_part,
        rdev_major, rdev_minor, major, minor, mount_id,
    ) = _STATX.unpack_from(buffer)  # fmt: skip
    kind = _KINDS.get(mode >> 12)
    if kind is None:
        raise OSError(errno.EINVAL, f"unknown kind of file: mode {mode:o}")
    if not (-_SECONDS < mtime < _SECONDS and -_SECONDS < btime < _SECONDS):
        mtime, mtime_part = _nearest(mtime, mtime_part)
        btime, btime_part = _nearest(btime, btime_part)
    # tuple.__new__ instead of Stat(): a third of the time.
    return _new(
        Stat,
        (
            kind, mode & 0o7777, uid, gid, size, blocks,
            mtime * _NANOSECONDS + mtime_part,
            ctime * _NANOSECONDS + ctime_part,
            btime * _NANOSECONDS + btime_part,
            inode, nlink,
            _makedev(rdev_major, rdev_minor) if rdev_major or rdev_minor else 0,
            _makedev(major, minor), mount_id, attributes,
        ),
    )  # fmt: skip


def _nearest(seconds: int, part: int) -> tuple[int, int]:
    """A time as 64 bits hold it, in seconds and nanoseconds."""
    nanoseconds = min(max(seconds * _NANOSECONDS + part, TIME_MIN), TIME_MAX)
    return divmod(nanoseconds, _NANOSECONDS)


_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_directory_at(dirfd: int, name: bytes) -> int:
    """Open one directory for listing: no symlink followed, access time kept where we may.

    Raises OSError; ENOTDIR when `name` is no directory (any more), a symlink included.
    """
    try:
        return os.open(name, _DIRECTORY | os.O_NOATIME, dir_fd=dirfd)
    except PermissionError:
        # EPERM: O_NOATIME belongs to the owner and to CAP_FOWNER. EACCES comes again.
        return os.open(name, _DIRECTORY, dir_fd=dirfd)


def open_directory(root_fd: int, path_parts: Sequence[bytes]) -> int:
    """Open a directory below `root_fd`, one step at a time, so no PATH_MAX applies.

    The caller owns the descriptor; no parts give a new descriptor of the root itself.
    Raises OSError.
    """
    if not path_parts:
        return open_directory_at(root_fd, b".")
    fd = open_directory_at(root_fd, path_parts[0])
    for part in path_parts[1:]:
        try:
            below = open_directory_at(fd, part)
        finally:
            os.close(fd)
        fd = below
    return fd


class DirectoryOpener:
    """Opens directories below a root and keeps the last chain open: cheap in depth-first order.

    One thread at a time. At most `depth_max` descriptors are held, however deep the path.
    """

    def __init__(self, root_fd: int, *, depth_max: int = 64) -> None:
        # Its own descriptor of the root: a position in a listing is shared by whoever shares one.
        self._root_fd = open_directory(root_fd, ())
        self._depth_max = depth_max
        self._parts: list[bytes] = []
        self._fds: list[int] = []  # of the deepest directories of the chain; others are closed

    def open(self, path_parts: Sequence[bytes]) -> int:
        """The directory at `path_parts`, open for listing. Raises OSError.

        The descriptor stays the opener's and is good until the next call.
        """
        common = 0
        for held, wanted in zip(self._parts, path_parts, strict=False):
            if held != wanted:
                break
            common += 1
        self._keep(common)
        if not self._fds:
            # The root, or an ancestor that depth_max has closed: all the steps again.
            self._keep(0)
            if not path_parts:
                return self._root_fd
        for part in path_parts[len(self._parts) :]:
            above = self._fds[-1] if self._fds else self._root_fd
            self._push(open_directory_at(above, part), part)
        return self._fds[-1]

    def close(self) -> None:
        """Close what is held; the opener is of no use afterwards."""
        self._keep(0)
        os.close(self._root_fd)

    def _push(self, fd: int, part: bytes) -> None:
        self._fds.append(fd)
        self._parts.append(part)
        if len(self._fds) > self._depth_max:
            os.close(self._fds.pop(0))

    def _keep(self, depth: int) -> None:
        """Give up everything below `depth`."""
        surplus = len(self._parts) - depth
        del self._parts[depth:]
        for _ in range(min(surplus, len(self._fds))):
            os.close(self._fds.pop())
        if not self._fds:
            self._parts.clear()
