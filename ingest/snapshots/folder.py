"""A snapshot folder: where repo keeps its snapshots on a file system, hidden and closed to others.

It lies at the topmost directory of the file system that can be reached from a source by going
up, so that usually it is in no source at all. On btrfs it is a subvolume: snapshots of what it
lies in do not hold it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

FOLDER_NAME: Final = ".repo-snapshots"
SNAPSHOT_PREFIX: Final = ".repo-snap-"
ANCHOR_PREFIX: Final = ".repo-anchor-"
HELD_PREFIX: Final = ".repo-held-"

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NOT_WRITABLE: Final = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})

SameFileSystem = Callable[[int], bool]
"""Whether an open directory lies on the file system in question."""
Make = Callable[[int, bytes], None]
"""Makes an empty folder of that name in an open directory. Raises OSError."""


class SnapshotFolder:
    """An open snapshot folder. `path` is for people and for the journal."""

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self.fd = fd

    def names(self, prefix: str) -> list[str]:
        """The names in it that begin so, the oldest first. Raises OSError."""
        os.lseek(self.fd, 0, os.SEEK_SET)  # btrfs lists what there was at the open or at this
        names = [name for name in os.listdir(self.fd) if name.startswith(prefix)]
        found = [(os.stat(name, dir_fd=self.fd).st_ctime_ns, name) for name in names]
        return [name for _, name in sorted(found)]

    def close(self) -> None:
        """Close it; a second call does nothing."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def above(path: str, same: SameFileSystem) -> Iterator[str]:
    """The directories from `path` (canonical) upwards, as far as the file system goes."""
    while True:
        try:
            fd = os.open(path, _DIRECTORY)
        except OSError:
            return
        try:
            if not same(fd):
                return
        finally:
            os.close(fd)
        yield path
        if path == "/":
            return
        path = os.path.dirname(path)


def open_or_make(path: str, same: SameFileSystem, make: Make) -> SnapshotFolder:
    """The snapshot folder for what lies at `path`: the topmost there is or can be. Raises OSError:
    EEXIST for something of its name that is not ours.
    """
    problem: OSError | None = None
    for directory in reversed([*above(path, same)]):
        try:
            return open_folder(os.path.join(directory, FOLDER_NAME), same)
        except FileNotFoundError:
            pass
        try:
            with _opened(directory) as fd:
                make(fd, FOLDER_NAME.encode())
        except FileExistsError:
            pass  # somebody else's job was quicker
        except OSError as error:
            if error.errno not in _NOT_WRITABLE:
                raise
            problem = error
            continue
        return open_folder(os.path.join(directory, FOLDER_NAME), same)
    raise problem or OSError(errno.ENOENT, os.strerror(errno.ENOENT), path)


def open_folder(path: str, same: SameFileSystem) -> SnapshotFolder:
    """A snapshot folder that is there. Raises OSError: EEXIST when others can reach into it."""
    fd = os.open(path, _DIRECTORY)
    try:
        found = os.fstat(fd)
        mode = stat.S_IMODE(found.st_mode)
        if found.st_uid != os.geteuid() or mode & 0o022 or not same(fd):
            raise OSError(errno.EEXIST, "not a snapshot folder of repo", path)
        if mode & 0o077:  # btrfs makes them open to read
            os.fchmod(fd, 0o700)
    except BaseException:
        os.close(fd)
        raise
    return SnapshotFolder(path, fd)


@contextmanager
def _opened(path: str) -> Iterator[int]:
    fd = os.open(path, _DIRECTORY)
    try:
        yield fd
    finally:
        with suppress(OSError):
            os.close(fd)
