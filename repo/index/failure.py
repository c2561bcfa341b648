"""A failure of the index: what LMDB and the operating system report, in our words."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import lmdb

from repo.errors import RepoError, RepositoryFailed, TryLater
from repo.types import MIB

_REBUILD: Final = "repo rebuild-index"
_UNUSABLE: Final = (
    lmdb.BadRslotError,
    lmdb.BadTxnError,
    lmdb.BadValsizeError,
    lmdb.CorruptedError,
    lmdb.CursorFullError,
    lmdb.IncompatibleError,
    lmdb.InvalidError,
    lmdb.NotFoundError,
    lmdb.PageFullError,
    lmdb.PageNotFoundError,
    lmdb.PanicError,
    lmdb.VersionMismatchError,
)
_FULL_BELOW_BYTES: Final = MIB


class IndexUnusable(RepoError):
    """The index is missing, foreign, of another format or damaged: only a rebuild helps."""

    def __init__(self, what: str, *, where: str, next_step: str = _REBUILD) -> None:
        super().__init__(what, where=where, next_step=next_step)


class IndexReplaced(IndexUnusable):
    """A rebuild has put another index into the place of this one, which is no damage."""


@contextmanager
def translated(path: Path, what: str) -> Iterator[None]:
    """Turns the errors of LMDB and the operating system into ours."""
    try:
        yield
    except (lmdb.Error, OSError) as error:
        raise translate(error, path, what) from error


def translate(error: lmdb.Error | OSError, path: Path, what: str) -> RepoError:
    """Our error for one of LMDB or the operating system, with what to do next."""
    where = str(path)
    if isinstance(error, _UNUSABLE):
        return IndexUnusable(f"the index is damaged: {error}", where=where)
    if isinstance(error, lmdb.ReadersFullError):
        return TryLater(
            "too many processes read the index",
            where=where,
            next_step="end some of them, then run the same command again",
        )
    code = error.errno if isinstance(error, OSError) else error.code
    if code in {errno.ENOSPC, errno.EDQUOT} or (code == errno.EIO and _disk_is_full(path)):
        return RepositoryFailed(
            f"{what}: {os.strerror(errno.ENOSPC if code == errno.EIO else code)}",
            where=where,
            next_step="free space there and run the same command again: everything durable is "
            "kept and reused",
        )
    if code == errno.EIO:
        return RepositoryFailed(
            f"{what}: {os.strerror(errno.EIO)}",
            where=where,
            next_step="check the disk (kernel log, SMART), then run `repo rebuild-index`",
        )
    return RepositoryFailed(
        f"{what}: {error}",
        where=where,
        next_step="check owner, mode and file system of that folder, or choose another one with "
        "--index-dir",
    )


def _disk_is_full(path: Path) -> bool:
    # LMDB says EIO for the short write that a full disk begins with.
    try:
        status = os.statvfs(path)
    except OSError:
        return False
    return status.f_bavail * status.f_frsize < _FULL_BELOW_BYTES or status.f_favail == 0
