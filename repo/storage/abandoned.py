"""An abandoned segment: a segment file that a dead process left open, held for recovery."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Self

from repo.errors import RepositoryFailed
from repo.storage.durable import fsync_directory, repository_io, try_lock, write_all
from repo.types import SegmentId


class AbandonedSegment:
    """One open segment file whose lock this process holds, so nobody else writes or recovers it.

    Recovery reads the frames, finds where the valid ones end and calls `finish`. Killed at any
    point it leaves a file that the next recovery finds in the same state or already sealed: the
    only bytes it changes lie behind the valid end, which it finds anew each time.
    """

    def __init__(self, segment_id: SegmentId, fd: int, path: Path, sealed_path: Path) -> None:
        self.segment_id = segment_id
        self.path = path
        self._sealed_path = sealed_path
        self._fd = fd

    @classmethod
    def take(cls, segment_id: SegmentId, path: Path, sealed_path: Path) -> AbandonedSegment | None:
        """The segment with its lock; None when somebody else holds it or it was closed meanwhile.

        Raises RepositoryFailed.
        """
        with repository_io("cannot recover a segment", path):
            try:
                fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
            try:
                # Between open and lock its holder may have sealed and renamed it.
                if try_lock(fd) and _names(path, fd):
                    return cls(segment_id, fd, path, sealed_path)
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)
            return None

    @property
    def size(self) -> int:
        """Length of the file in bytes."""
        with repository_io("cannot recover a segment", self.path):
            return os.fstat(self._fd).st_size

    def read(self, offset: int, length: int) -> bytes:
        """The bytes from offset on, fewer than length only at the end of the file."""
        parts: list[bytes] = []
        with repository_io("cannot read a segment", self.path):
            while length > 0 and (part := os.pread(self._fd, length, offset)):
                parts.append(part)
                offset += len(part)
                length -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def truncate(self, size: int) -> None:
        """Cuts off what lies behind `size` bytes; never makes the file longer."""
        with repository_io("cannot recover a segment", self.path):
            if os.fstat(self._fd).st_size > size:
                os.ftruncate(self._fd, size)

    def extend(self, size: int) -> None:
        """Makes the file `size` bytes long, with zeros for what is not there; never shorter."""
        with repository_io("cannot recover a segment", self.path):
            if os.fstat(self._fd).st_size < size:
                os.ftruncate(self._fd, size)

    def append(self, data: bytes) -> None:
        """Writes data at the end of the file."""
        with repository_io("cannot recover a segment", self.path):
            os.lseek(self._fd, 0, os.SEEK_END)
            write_all(self._fd, data)

    def sync(self) -> None:
        """Makes content and length durable."""
        with repository_io("cannot recover a segment", self.path):
            os.fdatasync(self._fd)

    def finish(self, valid_end: int, footer: bytes) -> None:
        """Seals the segment: cut at valid_end, footer, sync, rename, directory sync; closes it.

        Raises RepositoryFailed; the file then stays open for the next recovery.
        """
        if os.path.lexists(self._sealed_path):
            raise RepositoryFailed(
                "a segment is there both open and sealed: " + os.strerror(errno.EEXIST),
                where=str(self._sealed_path),
                next_step="keep the sealed one if `repo verify` finds it good and move "
                f"{self.path.name} away",
            )
        self.truncate(valid_end)
        self.append(footer)
        self.sync()
        with repository_io("cannot close a segment", self.path):
            os.rename(self.path, self._sealed_path)
            fsync_directory(self.path.parent)
        self.close()

    def remove(self) -> None:
        """Removes a segment in which not even the header is valid, durably; closes it."""
        with repository_io("cannot remove an empty segment", self.path):
            os.unlink(self.path)
            fsync_directory(self.path.parent)
        self.close()

    def close(self) -> None:
        """Gives up the lock, leaving the file as it is."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _names(path: Path, fd: int) -> bool:
    """Whether path still names the file of this descriptor."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except FileNotFoundError:
        return False
