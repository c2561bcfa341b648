"""A directory as a snapshot: the live tree itself, which nothing freezes."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import Final

from ingest.snapshots.snapshot import Snapshot, SubSource, Terms
from ingest.source import readable
from repo.errors import JobFailed, RepoError, UsageError

_NOT_THERE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG})


def check_there(path: str) -> None:
    """Whether there is anything at a path, whoever is to read it. Raises UsageError, JobFailed."""
    try:
        os.stat(path)
    except OSError as error:
        raise _failure(path, error) from error


class DirectoryProvider:
    """Reads a tree in place. Files that change meanwhile are found out one by one."""

    name = "directory"

    def hold(self, path: str, terms: Terms) -> DirectoryHeld:
        """The tree at `path`, symlinks to it resolved; whatever it is, it is taken.

        Raises UsageError when there is no directory, JobFailed when it cannot be looked at.
        """
        return hold_live(path)


def hold_live(path: str) -> DirectoryHeld:
    """The tree at a path as it is; see `DirectoryProvider.hold`."""
    canonical = os.path.realpath(path)
    try:
        fd = os.open(canonical, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _failure(path, error) from error
    return DirectoryHeld(canonical, fd)


class DirectoryHeld:
    """A live tree, open at its root."""

    children: Sequence[SubSource] = ()
    notices: Sequence[str] = ()

    def __init__(self, path: str, root_fd: int) -> None:
        self.root_fd = root_fd
        stat = os.fstat(root_fd)
        self.snapshot = Snapshot(
            provider=DirectoryProvider.name,
            path=path,
            identity={"path": readable(path)},
            device=stat.st_dev,
            inode=stat.st_ino,
        )

    def alive(self) -> bool:
        """Whether the same directory still lies there: not renamed, not unmounted."""
        try:
            stat = os.stat(self.snapshot.path)
        except OSError:
            return False
        return (stat.st_dev, stat.st_ino) == (self.snapshot.device, self.snapshot.inode)

    def keep(self, tag: str, point_id: bytes) -> None:
        """Nothing was made for the job, so nothing stays."""

    def release(self) -> None:
        """Nothing was made for the job, so nothing goes."""
        if self.root_fd >= 0:
            os.close(self.root_fd)
            self.root_fd = -1


def _failure(path: str, error: OSError) -> RepoError:
    if error.errno in _NOT_THERE:
        return UsageError(
            f"cannot back up what is no directory: {error.strerror}",
            where=path,
            next_step="give the path of a directory",
        )
    return JobFailed(
        f"cannot open the source: {error.strerror}", where=path, next_step="check its permissions"
    )
