"""A directory as a snapshot: the live tree itself, which nothing freezes."""

from __future__ import annotations

import errno
import os
from typing import Final

from ingest.snapshots.snapshot import Snapshot
from ingest.source import readable
from repo.errors import JobFailed, RepoError, UsageError

_NOT_THERE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG})


class DirectoryProvider:
    """Reads a tree in place. Files that change meanwhile are found out one by one."""

    name = "directory"

    def adopt(self, path: str) -> Snapshot:
        """The tree at `path`, symlinks to it resolved.

        Raises UsageError when there is no directory, JobFailed when it cannot be looked at.
        """
        canonical = os.path.realpath(path)
        try:
            fd = _open(canonical)
        except OSError as error:
            raise _failure(path, error) from error
        try:
            stat = os.fstat(fd)
        finally:
            os.close(fd)
        return Snapshot(
            provider=self.name,
            path=canonical,
            identity={"path": readable(canonical)},
            device=stat.st_dev,
            inode=stat.st_ino,
        )

    def open_root(self, snapshot: Snapshot) -> int:
        """A descriptor of the tree's root. Raises UsageError or JobFailed as `adopt` does."""
        try:
            return _open(snapshot.path)
        except OSError as error:
            raise _failure(snapshot.path, error) from error

    def alive(self, snapshot: Snapshot) -> bool:
        """Whether the same directory still lies there: not renamed, not unmounted."""
        try:
            stat = os.stat(snapshot.path)
        except OSError:
            return False
        return (stat.st_dev, stat.st_ino) == (snapshot.device, snapshot.inode)

    def release(self, snapshot: Snapshot) -> None:
        """Nothing was made for the job, so nothing goes."""


def _open(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


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
