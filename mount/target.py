"""A target: the tree that a restore writes, walked by directory descriptors, never by a path.

Whatever names and links the repository or the target hold, nothing outside is reached: each
step opens one name in one open directory and follows no symlink.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import stat
import time
from collections import OrderedDict
from contextlib import suppress
from typing import Final, NamedTuple

from mount.restoreproblem import Path
from repo.errors import Damaged
from repo.fileflags import PROTECTING, RESTORABLE, get_flags, set_flags
from repo.format import limits
from repo.types import Kind

_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
OPEN_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_DESCRIPTORS_MAX: Final = 64
_DEFAULT_ACL: Final = "system.posix_acl_default"
_ACCESS_ACL: Final = "system.posix_acl_access"
_TEMPORARY: Final = b".repo-restore-"
_IS_TEMPORARY: Final = re.compile(re.escape(_TEMPORARY) + b"[0-9a-f]{16}").fullmatch
_LEFT_SECONDS: Final = 10
"""What is younger may be about to be locked."""

KIND_OF: Final = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFIFO: Kind.FIFO,
    stat.S_IFSOCK: Kind.SOCKET,
    stat.S_IFCHR: Kind.CHARACTER_DEVICE,
    stat.S_IFBLK: Kind.BLOCK_DEVICE,
}


class Site(NamedTuple):
    """A directory of the target in which entries are restored.

    fresh: this restore made it, so that nothing is in it yet. plain: what is made in it is just
    as asked for; nothing (ACL, group, flag) is inherited from it.
    """

    path: Path
    fresh: bool
    plain: bool


def check_name(name: bytes) -> None:
    """Raises Damaged unless the name names an entry of one directory and nothing else."""
    if not name or name in (b".", b"..") or b"/" in name or b"\0" in name:
        raise Damaged(
            f"a node holds the name {name!r}", where="node", next_step="run `repo verify`"
        )


def temporary_name() -> bytes:
    """A name that nothing has, for an entry that is not whole yet."""
    return _TEMPORARY + secrets.token_hex(8).encode()


def hold(fd: int) -> None:
    """Keep other restores from taking a file of a temporary name for one that was left behind."""
    with suppress(OSError):  # where nothing can be locked nothing is taken away
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


class Target:
    """The directories of a target. Keeps the descriptors of those used last."""

    def __init__(self, root_fd: int) -> None:
        """`root_fd` stays the caller's."""
        self.root_fd = root_fd
        self.uid = os.geteuid()
        self.gid = os.getegid()
        self._opened: OrderedDict[Path, int] = OrderedDict()
        self._loosened: dict[Path, tuple[int, int]] = {}

    def close(self) -> None:
        """Close all descriptors but that of the root; nothing stays open that was closed to us."""
        for path in list(self._loosened):
            with suppress(OSError):
                self.leave(path)
        while self._opened:
            os.close(self._opened.popitem()[1])

    def open(self, path: Path) -> int:
        """The descriptor of a directory; good until 64 others were opened. Raises OSError."""
        if not path:
            return self.root_fd
        fd = self._opened.get(path)
        if fd is not None:
            self._opened.move_to_end(path)
            return fd
        above = self._opened.get(path[:-1])
        if above is not None:
            return self._keep(path, os.open(path[-1], _OPEN, dir_fd=above))
        fd = self.root_fd
        for depth, name in enumerate(path):
            here = path[: depth + 1]
            known = self._opened.get(here)
            fd = self._keep(here, os.open(name, _OPEN, dir_fd=fd)) if known is None else known
        return fd

    def _keep(self, path: Path, fd: int) -> int:
        self._opened[path] = fd
        if len(self._opened) > _DESCRIPTORS_MAX:
            os.close(self._opened.popitem(last=False)[1])
        return fd

    def forget(self, path: Path) -> None:
        """Close a directory that is finished."""
        self._loosened.pop(path, None)
        fd = self._opened.pop(path, None)
        if fd is not None:
            os.close(fd)

    # -- directories --------------------------------------------------------------------------

    def root_site(self, *, fresh: bool) -> Site:
        """The root, which was there or was just made. Raises OSError."""
        if fresh:
            return self._made(())
        return self._prepared((), stat.S_IMODE(os.fstat(self.root_fd).st_mode))

    def enter(self, site: Site, name: bytes) -> Site:
        """Make a directory in `site`, or take over the one that is there, so that we can write
        in it. Something else of that name is removed. Raises OSError, Damaged.
        """
        check_name(name)
        limits.check("depth", len(site.path) + 1, limits.TREE_DEPTH_MAX, where="tree")
        above = self.open(site.path)
        try:
            os.mkdir(name, 0o700, dir_fd=above)
        except FileExistsError:
            found = os.stat(name, dir_fd=above, follow_symlinks=False).st_mode
            if stat.S_ISDIR(found):
                self._grant(above, name)
                return self._prepared((*site.path, name), stat.S_IMODE(found))
            self.remove(above, name)
            os.mkdir(name, 0o700, dir_fd=above)
        path = (*site.path, name)
        if site.fresh and site.plain and site.path:  # as that one was, so is this
            return Site(path, fresh=True, plain=True)
        return self._made(path)

    def _made(self, path: Path) -> Site:
        """A directory that was just made. What it inherited it shall not hand on."""
        fd = self.open(path)
        if not self._plain(fd, mode=0o700):
            for acl in (_DEFAULT_ACL, _ACCESS_ACL):
                with suppress(OSError):
                    os.removexattr(fd, acl)
            with suppress(OSError):
                os.fchown(fd, self.uid, self.gid)
            with suppress(OSError):
                os.fchmod(fd, 0o700)
            with suppress(OSError):
                set_flags(fd, get_flags(fd) & ~RESTORABLE)
            return Site(path, fresh=True, plain=self._plain(fd, mode=0o700))
        return Site(path, fresh=True, plain=True)

    def _prepared(self, path: Path, mode: int) -> Site:
        """A directory that was there with `mode`: names in it can change until it is finished."""
        fd = self.open(path)
        flags = get_flags(fd)
        if flags & PROTECTING:
            set_flags(fd, flags & ~PROTECTING)
            self._loosened[path] = (mode, flags)
        if self.uid != 0 and mode & 0o700 != 0o700 and os.fstat(fd).st_uid == self.uid:
            os.fchmod(fd, mode | 0o700)
            self._loosened[path] = (mode, flags)
        self._sweep(fd)
        return Site(path, fresh=False, plain=self._plain(fd))

    def _sweep(self, dirfd: int) -> None:
        """Remove the files that killed restores have left half made in a directory."""
        for name in map(os.fsencode, os.listdir(dirfd)):
            if _IS_TEMPORARY(name):
                with suppress(OSError):
                    self._sweep_file(dirfd, name)

    @staticmethod
    def _sweep_file(dirfd: int, name: bytes) -> None:
        if not stat.S_ISREG(os.stat(name, dir_fd=dirfd, follow_symlinks=False).st_mode):
            return
        fd = os.open(name, OPEN_READ, dir_fd=dirfd)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_ctime < time.time() - _LEFT_SECONDS:
                os.unlink(name, dir_fd=dirfd)
        finally:
            os.close(fd)

    def leave(self, path: Path) -> None:
        """Close a directory that was there and is to be as it was, but for what is new in it."""
        mode, flags = self._loosened.get(path, (0, 0))
        if path in self._loosened:
            fd = self.open(path)
            os.fchmod(fd, mode)
            if flags & PROTECTING:
                set_flags(fd, get_flags(fd) | flags & PROTECTING)
        self.forget(path)

    def _plain(self, fd: int, mode: int | None = None) -> bool:
        """Whether a new entry gets our own user and group, the mode asked for, and no more.

        A directory that was made with `mode` also tells whether the file system keeps modes.
        """
        status = os.fstat(fd)
        found = stat.S_IMODE(status.st_mode)
        if found & stat.S_ISGID or (status.st_uid, status.st_gid) != (self.uid, self.gid):
            return False
        if mode is not None and found != mode:
            return False
        with suppress(OSError):
            os.getxattr(fd, _DEFAULT_ACL)
            return False
        return not get_flags(fd) & RESTORABLE

    @staticmethod
    def _grant(above: int, name: bytes) -> None:
        """Let ourselves into a directory of ours that its mode keeps us out of."""
        try:
            os.close(os.open(name, _OPEN, dir_fd=above))
        except PermissionError:
            fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=above)
            try:
                os.chmod(b"/proc/self/fd/%d" % fd, 0o700)
            finally:
                os.close(fd)

    # -- names --------------------------------------------------------------------------------

    def remove(self, dirfd: int, name: bytes) -> None:
        """Remove an entry that is no directory. Raises OSError."""
        try:
            os.unlink(name, dir_fd=dirfd)
        except PermissionError:
            if not self.unprotect(dirfd, name):
                raise
            os.unlink(name, dir_fd=dirfd)

    def move_over(self, dirfd: int, temporary: bytes, name: bytes) -> None:
        """Give a finished entry its name, in place of whatever has it. Raises OSError.

        A directory makes way only when it is empty.
        """
        try:
            os.rename(temporary, name, src_dir_fd=dirfd, dst_dir_fd=dirfd)
        except IsADirectoryError:
            os.rmdir(name, dir_fd=dirfd)
            os.rename(temporary, name, src_dir_fd=dirfd, dst_dir_fd=dirfd)
        except PermissionError:
            if not self.unprotect(dirfd, name):
                raise
            os.rename(temporary, name, src_dir_fd=dirfd, dst_dir_fd=dirfd)

    @staticmethod
    def unprotect(dirfd: int, name: bytes) -> int:
        """Clear the flags of a regular file that forbid any change; returns them, 0 for none."""
        try:
            if not stat.S_ISREG(os.stat(name, dir_fd=dirfd, follow_symlinks=False).st_mode):
                return 0  # opening a device may have effects
            fd = os.open(name, OPEN_READ, dir_fd=dirfd)
        except OSError:
            return 0
        try:
            flags = get_flags(fd)
            if flags & PROTECTING:
                set_flags(fd, flags & ~PROTECTING)
            return flags & PROTECTING
        except OSError:
            return 0
        finally:
            os.close(fd)

    @staticmethod
    def protect(dirfd: int, name: bytes, flags: int) -> None:
        """Give back what `unprotect` took. Raises OSError."""
        fd = os.open(name, OPEN_READ, dir_fd=dirfd)
        try:
            set_flags(fd, get_flags(fd) | flags)
        finally:
            os.close(fd)


def is_in_the_way(error: OSError) -> bool:
    """Whether a directory that is not empty stands where another kind of entry belongs."""
    return error.errno == errno.ENOTEMPTY
