"""A durable file: complete under its name after a crash, or not there at all."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from repo.errors import RepositoryFailed
from repo.format.layout import TEMPORARY_PREFIX, is_temporary

FILE_MODE: Final = 0o600
DIRECTORY_MODE: Final = 0o700

_GO_ON: Final = "run the same command again: everything durable is kept and reused"
_NEXT_STEPS: Final = {
    errno.ENOSPC: f"free space there and {_GO_ON}",
    errno.EDQUOT: f"raise the quota or free space there and {_GO_ON}",
    errno.EEXIST: "look what is there under that name; nothing was replaced",
    errno.EIO: "check the disk (kernel log, SMART), then run `repo verify`",
    errno.EROFS: "mount that file system for writing, then run the same command again",
    errno.EACCES: "run as the owner of the repository, or correct the owner and mode of that file",
    errno.EPERM: "run as the owner of the repository, or look for an immutable flag (lsattr)",
    errno.ESTALE: "the file server lost this file: mount it again, then run `repo verify`",
    errno.EMFILE: "raise the limit of open files (ulimit -n) and run the same command again",
    errno.ENFILE: "raise fs.file-max and run the same command again",
    errno.ENOENT: "check that the repository is complete and mounted, then run `repo verify`",
}
_LOOK: Final = "look into the kernel log, then run the same command again"


def repository_failed(what: str, where: str | os.PathLike[str], error: OSError) -> RepositoryFailed:
    """The error of a failed operation on the repository's own files, with its next step."""
    number = error.errno or 0
    reason = os.strerror(number) if number else str(error)
    return RepositoryFailed(
        f"{what}: {reason}", where=os.fspath(where), next_step=_NEXT_STEPS.get(number, _LOOK)
    )


@contextmanager
def repository_io(what: str, where: str | os.PathLike[str]) -> Iterator[None]:
    """Runs operations on the repository's own files: any OSError becomes RepositoryFailed.

    what: the operation that could not be done, as `cannot read a segment`.
    where: the path concerned.
    """
    try:
        yield
    except OSError as error:
        raise repository_failed(what, where, error) from error


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Writes all of data at the file's position; short writes go on. Raises OSError."""
    view = memoryview(data).cast("B")
    while view:
        view = view[os.write(fd, view) :]


def read_all(path: str | os.PathLike[str], *, limit_bytes: int) -> bytes:
    """The content of a small file. Raises OSError; EFBIG above limit_bytes."""
    with open(path, "rb", buffering=0) as file:
        parts: list[bytes] = []
        left = limit_bytes + 1
        while left and (part := file.read(left)):
            parts.append(part)
            left -= len(part)
    if not left:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), os.fspath(path))
    return b"".join(parts)


def fsync_directory(path: str | os.PathLike[str]) -> None:
    """Makes the names in a directory durable. Raises OSError.

    Some file systems (SMB, several FUSE ones) cannot sync a directory and say EINVAL: they
    offer nothing better, so that is not an error.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(fd)


def make_directory(path: str | os.PathLike[str]) -> None:
    """Makes a directory of mode 0700 durably; one that is there already is left as it is.

    Also syncs the parent when the directory is there: whoever made it may not have got so far.
    Raises OSError.
    """
    with suppress(FileExistsError):
        os.mkdir(path, DIRECTORY_MODE)
        os.chmod(path, DIRECTORY_MODE)
    fsync_directory(os.path.dirname(os.path.abspath(path)))


def create_temporary(folder: str | os.PathLike[str]) -> tuple[int, str]:
    """A new empty file in the making, mode 0600, whose lock the returned descriptor holds.

    The lock is what tells a file somebody is writing from one that a dead process left.
    Returns (descriptor, path). Raises OSError.
    """
    while True:
        path = os.path.join(folder, TEMPORARY_PREFIX + secrets.token_hex(12))
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
        try:
            os.fchmod(fd, FILE_MODE)
            fcntl.flock(fd, fcntl.LOCK_EX)
            # A sweep may have taken the lock first and removed the file: then make another.
            if os.fstat(fd).st_nlink:
                return fd, path
        except BaseException:
            discard_temporary(fd, path)
            raise
        os.close(fd)


def discard_temporary(fd: int, path: str) -> None:
    """Closes and removes a file in the making, as far as that goes; a sweep does the rest."""
    with suppress(OSError):
        os.unlink(path)
    with suppress(OSError):
        os.close(fd)


def link_new(temporary: str, path: str | os.PathLike[str]) -> None:
    """Gives a complete, synced file its name, durably; never replaces one. Raises OSError."""
    os.link(temporary, path)
    os.unlink(temporary)
    fsync_directory(os.path.dirname(os.path.abspath(path)))


@contextmanager
def _complete_file(
    what: str, folder: str | os.PathLike[str], name: str, data: bytes
) -> Iterator[str]:
    """A synced file of this content under a temporary name, for the block to put at `name`.

    Its lock is held inside. When anything fails the temporary name is removed, and an OSError is
    told as RepositoryFailed.
    """
    with repository_io(what, os.path.join(folder, name)):
        fd, temporary = create_temporary(folder)
        try:
            write_all(fd, data)
            os.fsync(fd)
            yield temporary
        except BaseException:
            discard_temporary(fd, temporary)
            raise
        os.close(fd)


def replace(folder: str | os.PathLike[str], name: str, data: bytes) -> None:
    """Puts a file with this content in the place of `name`, durably; before, the old one stays.

    Raises RepositoryFailed.
    """
    with _complete_file("cannot replace a file of the repository", folder, name, data) as temporary:
        os.rename(temporary, os.path.join(folder, name))
        fsync_directory(folder)


_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2
_libc = ctypes.CDLL(None, use_errno=True)


def replace_existing(folder: str | os.PathLike[str], name: str, data: bytes) -> bool:
    """Like `replace`, but only where there is a file of that name; whether there was one.

    Names are exchanged, so that a file which somebody removes meanwhile does not come back.
    Raises RepositoryFailed.
    """
    with _complete_file("cannot replace a file of the repository", folder, name, data) as temporary:
        try:
            _exchange(temporary, os.path.join(folder, name))
        except FileNotFoundError:
            os.unlink(temporary)
            return False
        fsync_directory(folder)
        os.unlink(temporary)  # by now the old one
    return True


def _exchange(one: str, other: str) -> None:
    """renameat2(2) with RENAME_EXCHANGE, or what comes close where there is none."""
    paths = os.fsencode(one), os.fsencode(other)
    if not _libc.renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE):
        return
    number = ctypes.get_errno()
    if number not in {errno.EINVAL, errno.ENOSYS}:
        raise OSError(number, os.strerror(number), other)
    # A file system without it. What is removed between these two calls comes back.
    os.stat(other)
    spare = f"{one}-old"
    os.link(other, spare)
    os.rename(one, other)
    os.rename(spare, one)


def write_new(folder: str | os.PathLike[str], name: str, data: bytes) -> None:
    """Makes the file `name` in `folder` with this content, durably, or not at all.

    Order: temporary name, write, fsync, link without replacing, directory fsync. When this
    returns, the file survives a power cut. Raises RepositoryFailed, also when the name is taken.
    """
    with _complete_file("cannot write a file of the repository", folder, name, data) as temporary:
        link_new(temporary, os.path.join(folder, name))


def try_lock(fd: int, *, shared: bool = False) -> bool:
    """Whether the lock of an open file could be taken without waiting. Raises OSError."""
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def sweep_temporaries(folder: str | os.PathLike[str]) -> int:
    """Removes the files in the making that dead processes left in a folder; returns how many.

    Raises OSError, but not for files that vanish meanwhile.
    """
    removed = 0
    for name in os.listdir(folder):
        if not is_temporary(name):
            continue
        path = Path(folder, name)
        with suppress(FileNotFoundError):
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                if try_lock(fd):
                    path.unlink()
                    removed += 1
            finally:
                os.close(fd)
    return removed
