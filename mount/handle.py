"""A handle: one entry of the target, held by a descriptor or by its directory and name.

Either way no symlink is followed: what changes is the entry itself.
"""

from __future__ import annotations

import errno
import os
from typing import Final, Protocol

from repo.fileflags import get_flags, set_flags

_NO_XATTRS: Final = frozenset({errno.ENOTSUP, errno.EPERM, errno.EACCES, errno.ENOSYS})


class Handle(Protocol):
    """Reads and changes the attributes of one entry. Everything raises OSError."""

    def status(self) -> os.stat_result:
        """What stat says."""

    def change_owner(self, uid: int, gid: int) -> None:
        """-1 leaves one as it is."""

    def change_mode(self, mode: int) -> None:
        """All of 0o7777."""

    def change_time(self, mtime_ns: int) -> None:
        """The access time becomes the same: the point holds none."""

    def xattrs(self) -> dict[bytes, bytes]:
        """The extended attributes that we may see; none where there are none."""

    def set_xattr(self, name: bytes, value: bytes) -> None:
        """Set one."""

    def remove_xattr(self, name: bytes) -> None:
        """Remove one."""

    def flags(self) -> int:
        """The file flags; 0 for what has none."""

    def set_flags(self, flags: int) -> None:
        """Set the flags to exactly these."""


class OpenHandle:
    """An open file or directory."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def status(self) -> os.stat_result:
        """What stat says."""
        return os.fstat(self.fd)

    def change_owner(self, uid: int, gid: int) -> None:
        """-1 leaves one as it is."""
        os.fchown(self.fd, uid, gid)

    def change_mode(self, mode: int) -> None:
        """All of 0o7777."""
        os.fchmod(self.fd, mode)

    def change_time(self, mtime_ns: int) -> None:
        """The access time becomes the same: the point holds none."""
        os.utime(self.fd, ns=(mtime_ns, mtime_ns))

    def xattrs(self) -> dict[bytes, bytes]:
        """The extended attributes that we may see; none where there are none."""
        return _xattrs(self.fd, follow=True)

    def set_xattr(self, name: bytes, value: bytes) -> None:
        """Set one."""
        os.setxattr(self.fd, name, value)

    def remove_xattr(self, name: bytes) -> None:
        """Remove one."""
        os.removexattr(self.fd, name)

    def flags(self) -> int:
        """The file flags; 0 for what has none."""
        return get_flags(self.fd)

    def set_flags(self, flags: int) -> None:
        """Set the flags to exactly these."""
        set_flags(self.fd, flags)


class NameHandle:
    """A symlink, device, fifo or socket: what is not opened.

    Extended attributes need /proc: there is no system call by directory and name before
    Linux 6.13.
    """

    def __init__(self, dirfd: int, name: bytes) -> None:
        self._dirfd = dirfd
        self._name = name
        self._path = b"/proc/self/fd/%d/%s" % (dirfd, name)

    def status(self) -> os.stat_result:
        """What stat says."""
        return os.stat(self._name, dir_fd=self._dirfd, follow_symlinks=False)

    def change_owner(self, uid: int, gid: int) -> None:
        """-1 leaves one as it is."""
        os.chown(self._name, uid, gid, dir_fd=self._dirfd, follow_symlinks=False)

    def change_mode(self, mode: int) -> None:
        """All of 0o7777, through a descriptor that only names the entry: chmod by name follows."""
        fd = os.open(self._name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._dirfd)
        try:
            os.chmod(b"/proc/self/fd/%d" % fd, mode)
        finally:
            os.close(fd)

    def change_time(self, mtime_ns: int) -> None:
        """The access time becomes the same: the point holds none."""
        when = (mtime_ns, mtime_ns)
        os.utime(self._name, ns=when, dir_fd=self._dirfd, follow_symlinks=False)

    def xattrs(self) -> dict[bytes, bytes]:
        """The extended attributes that we may see; none where there are none."""
        return _xattrs(self._path, follow=False)

    def set_xattr(self, name: bytes, value: bytes) -> None:
        """Set one."""
        os.setxattr(self._path, name, value, follow_symlinks=False)

    def remove_xattr(self, name: bytes) -> None:
        """Remove one."""
        os.removexattr(self._path, name, follow_symlinks=False)

    def flags(self) -> int:
        """None: opening a device to ask may have effects."""
        return 0

    def set_flags(self, flags: int) -> None:
        """Never called: what is not opened has no flags."""
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


def _xattrs(at: int | bytes, *, follow: bool) -> dict[bytes, bytes]:
    try:
        names = os.listxattr(at, follow_symlinks=follow)
    except OSError as error:
        if error.errno in _NO_XATTRS:
            return {}
        raise
    found: dict[bytes, bytes] = {}
    for name in map(os.fsencode, names):
        try:
            found[name] = os.getxattr(at, name, follow_symlinks=follow)
        except OSError:
            continue  # gone, or not for us to read: where it matters, setting it tells
    return found
