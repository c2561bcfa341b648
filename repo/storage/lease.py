"""A lease: the sign that a running process relies on the repository, gone when it dies.

A lease is a file that its holder keeps locked (flock). The kernel drops the lock with the
process, so no clock and no process id decides who is alive: that is what makes it safe for
garbage collection to ask for leases older than an epoch.

Order matters: a process acquires its lease first and looks up the index afterwards. Whatever
was condemned before the lease could be seen is then missed by its look-ups; whatever is
condemned later finds the lease.

A reader that cannot write there (a disk that is full or mounted read-only) locks the folder of
leases itself, shared. That tells no epoch, so that as long as it lasts nothing is removed.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple, Self

from repo.errors import RepositoryFailed
from repo.format import layout
from repo.storage.durable import (
    DIRECTORY_MODE,
    create_temporary,
    discard_temporary,
    repository_io,
    sweep_temporaries,
    try_lock,
    write_all,
)
from repo.storage.folder import Folder
from repo.types import KIB

_CANNOT_WRITE: Final = frozenset(
    (errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM)
)


class LeaseInfo(NamedTuple):
    """What a live lease says of its holder. `epoch` and `of_index` decide; the rest is to show.

    started: UTC, ISO 8601. of_index: which index the epoch is of; of another one it says nothing.
    first_segment: segments that the holder makes get this number in that index, or higher ones.
    """

    name: str
    pid: int
    host: str
    purpose: str
    epoch: int
    started: str
    of_index: str = ""
    first_segment: int = 0

    def older_than(self, epoch: int, index: str) -> bool:
        """Whether the holder may rely on what the index had before this epoch began."""
        return self.of_index != index or self.epoch < epoch


class Lease:
    """A lease held by this process until `release`, the end of its `with` block, or its death."""

    def __init__(self, path: Path | None, fd: int, info: LeaseInfo) -> None:
        """`path`: its file; None for a lock of the folder of leases."""
        self.path = path
        self.info = info
        self._fd = fd

    @classmethod
    def acquire(
        cls, folder: Folder, purpose: str, epoch: int, *, of_index: str = "", first_segment: int = 0
    ) -> Self:
        """Takes a lease. Raises RepositoryFailed.

        purpose: the command, for `live` to show. epoch: of the index, read before this call, as
        is first_segment; of_index: its identity.
        Acquire after turning into a daemon: the lease names this process.
        """
        place = folder.path / layout.LEASES
        name = secrets.token_hex(layout.ID_BYTES)
        started = datetime.now(UTC).isoformat(timespec="seconds")
        info = LeaseInfo(
            name,
            os.getpid(),
            socket.gethostname(),
            purpose,
            epoch,
            started,
            of_index,
            first_segment,
        )
        text = json.dumps(info._asdict()).encode()
        with repository_io("cannot take a lease", place):
            place.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
            fd, temporary = create_temporary(place)
            try:
                # Complete and locked before it can be seen; never synced, as nobody holds a
                # lease any more after a power cut.
                write_all(fd, text)
                os.link(temporary, place / name)
                os.unlink(temporary)
            except BaseException:
                discard_temporary(fd, temporary)
                raise
        return cls(place / name, fd, info)

    @classmethod
    def acquire_for_reading(
        cls, folder: Folder, purpose: str, epoch: int, *, of_index: str = ""
    ) -> Self:
        """The same for who writes nothing, also where nothing can be written. Raises as `acquire`.

        What has no `path` then holds back whatever garbage collection wants to remove.
        """
        try:
            return cls.acquire(folder, purpose, epoch, of_index=of_index)
        except RepositoryFailed as failure:
            cause = failure.__cause__
            if not isinstance(cause, OSError) or cause.errno not in _CANNOT_WRITE:
                raise
            place = folder.path / layout.LEASES
            try:
                fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                fcntl.flock(fd, fcntl.LOCK_SH)  # held against this by lookers only, for a moment
            except OSError:
                raise failure from cause
        name, started = "", datetime.now(UTC).isoformat(timespec="seconds")
        info = LeaseInfo(name, os.getpid(), socket.gethostname(), purpose, epoch, started, of_index)
        return cls(None, fd, info)

    def release(self) -> None:
        """Gives the lease up; a second call does nothing."""
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        if self.path is None:
            os.close(fd)
            return
        with repository_io("cannot give up a lease", self.path):
            try:
                self.path.unlink(missing_ok=True)
            finally:
                os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()


def live(folder: Folder) -> list[LeaseInfo]:
    """The leases whose holders live, oldest epoch first. Raises RepositoryFailed.

    One that cannot be read counts as epoch 0, so that it holds back what it might rely on.
    """
    place = folder.path / layout.LEASES
    found: list[LeaseInfo] = []
    with repository_io("cannot list the leases", place):
        for name in _names(place):
            try:
                fd = os.open(place / name, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                # Shared, so that two who look at the same time do not take each other for it.
                if not try_lock(fd, shared=True):
                    found.append(_parse(name, os.pread(fd, 4 * KIB, 0)))
            finally:
                os.close(fd)
        if _is_locked(place):
            found.append(LeaseInfo("", 0, "", "a reader that cannot write there", 0, ""))
    return sorted(found, key=lambda info: (info.epoch, info.name))


def sweep(folder: Folder) -> int:
    """Removes the leases of dead processes and returns how many. Raises RepositoryFailed."""
    place = folder.path / layout.LEASES
    removed = 0
    with repository_io("cannot remove a dead lease", place):
        for name in _names(place):
            try:
                fd = os.open(place / name, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                if try_lock(fd):
                    (place / name).unlink(missing_ok=True)
                    removed += 1
            finally:
                os.close(fd)
        if place.is_dir():
            removed += sweep_temporaries(place)
    return removed


def _is_locked(place: Path) -> bool:
    """Whether a reader has locked the folder of leases, or somebody else looks just now."""
    try:
        fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not try_lock(fd)
    except OSError:  # a file system where no folder can be locked: nobody has
        return False
    finally:
        os.close(fd)


def _names(place: Path) -> list[str]:
    try:
        return [name for name in os.listdir(place) if layout.parse_id(name) is not None]
    except FileNotFoundError:
        return []


def _parse(name: str, text: bytes) -> LeaseInfo:
    try:
        row = json.loads(text)
        return LeaseInfo(
            name,
            int(row["pid"]),
            str(row["host"]),
            str(row["purpose"]),
            int(row["epoch"]),
            str(row["started"]),
            str(row.get("of_index", "")),
            int(row.get("first_segment", 0)),
        )
    except (ValueError, KeyError, TypeError):
        return LeaseInfo(name, 0, "", "unreadable", 0, "")
