"""An appender: the one writer of one open segment file."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import xxhash

from repo.errors import RepositoryFailed
from repo.format.segment import BLOCK_BYTES
from repo.storage.durable import (
    create_temporary,
    discard_temporary,
    fsync_directory,
    link_new,
    make_directory,
    repository_failed,
    write_all,
)
from repo.storage.folder import Folder
from repo.types import SegmentId

if TYPE_CHECKING:
    from typing_extensions import Buffer

_VECTORS_MAX: Final = 1024  # IOV_MAX of Linux
_SYNC_FILE_RANGE_WRITE: Final = 2

_libc = ctypes.CDLL(None, use_errno=True)
_libc.sync_file_range.argtypes = (
    ctypes.c_int,
    ctypes.c_int64,
    ctypes.c_int64,
    ctypes.c_uint,
)


class BlockChecksums:
    """xxh3-64 of each 64 KiB block of a file that is fed in order, without copying it.

    Whole blocks are hashed straight from the caller's buffer; only a block that spans two
    buffers goes through a streaming state.
    """

    def __init__(self) -> None:
        self._full: list[int] = []
        self._partial = xxhash.xxh3_64()
        self._partial_bytes = 0

    def feed(self, buffer: Buffer) -> None:
        """Takes the next bytes of the file."""
        view = memoryview(buffer).cast("B")
        start = 0
        if self._partial_bytes:
            start = min(BLOCK_BYTES - self._partial_bytes, len(view))
            self._partial.update(view[:start])
            self._partial_bytes += start
            if self._partial_bytes < BLOCK_BYTES:
                return
            self._full.append(self._partial.intdigest())
            self._partial.reset()
            self._partial_bytes = 0
        whole_end = len(view) - (len(view) - start) % BLOCK_BYTES
        digest = xxhash.xxh3_64_intdigest
        self._full += [
            digest(view[at : at + BLOCK_BYTES]) for at in range(start, whole_end, BLOCK_BYTES)
        ]
        if whole_end < len(view):
            self._partial.update(view[whole_end:])
            self._partial_bytes = len(view) - whole_end

    def all(self) -> list[int]:
        """One checksum for each full block so far, then that of the last partial one if any."""
        return self._full + ([self._partial.intdigest()] if self._partial_bytes else [])


class Appender:
    """Writes one segment from its header to its footer, and holds the file's lock meanwhile.

    The file appears as `<id>.open` only when its header is durable and the lock held, so
    recovery never takes a segment that somebody is about to write.

    A failed write or sync is never retried (after EIO the kernel may call dirty pages clean):
    the appender is then poisoned and every later call raises RepositoryFailed, except
    `abandon`. What was durable before stays, and recovery seals it.

    Not more than one thread appends and one syncs at a time.
    """

    def __init__(self, folder: Folder, segment_id: SegmentId, header: bytes) -> None:
        """Makes the open file with this header, durably. Raises RepositoryFailed."""
        self.segment_id = segment_id
        self._path = folder.segment_path(segment_id, open=True)
        self._sealed_path = folder.segment_path(segment_id)
        self._poison: OSError | None = None
        self._checksums = BlockChecksums()
        try:
            make_directory(self._path.parent)
            self._fd, temporary = create_temporary(self._path.parent)
            try:
                write_all(self._fd, header)
                os.fsync(self._fd)
                link_new(temporary, self._path)
            except BaseException:
                discard_temporary(self._fd, temporary)
                raise
        except OSError as error:
            raise repository_failed("cannot make a segment", self._path, error) from error
        self._checksums.feed(header)
        self._size = self._durable = self._started = len(header)

    @property
    def size(self) -> int:
        """Bytes written, the header among them."""
        return self._size

    @property
    def durable(self) -> int:
        """Bytes that survive a power cut: only what lies below may be promised to anybody."""
        return self._durable

    def append(self, buffers: Sequence[Buffer]) -> int:
        """Writes the buffers one behind the other and returns the offset of the first byte.

        Raises RepositoryFailed; the file may then end in a part of the record, which recovery
        cuts off.
        """
        self._check()
        offset = self._size
        views = [memoryview(buffer).cast("B") for buffer in buffers]
        try:
            end = self._write(views, offset)
        except OSError as error:
            raise self._poisoned("cannot write a segment", error) from error
        for view in views:
            self._checksums.feed(view)
        self._size = end
        return offset

    def _write(self, views: Sequence[memoryview], offset: int) -> int:
        """Writes all views at offset, short writes going on; the offset behind the last byte."""
        left = [view for view in views if len(view)]
        while left:
            written = os.pwritev(self._fd, left[:_VECTORS_MAX], offset)
            offset += written
            done = 0
            while done < len(left) and written >= len(left[done]):
                written -= len(left[done])
                done += 1
            left = left[done:]
            if written:
                left[0] = left[0][written:]
        return offset

    def start_writeback(self) -> None:
        """Asks the kernel to begin writing what is new, so that the next sync waits less.

        Promises nothing; its errors are left for `sync` to find.
        """
        start, self._started = self._started, self._size
        if self._fd >= 0 and self._size > start:
            _libc.sync_file_range(self._fd, start, self._size - start, _SYNC_FILE_RANGE_WRITE)

    def sync(self) -> None:
        """Makes everything appended before this call durable. Raises RepositoryFailed."""
        self._check()
        size = self._size
        if size == self._durable:
            return
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            raise self._poisoned("cannot make a segment durable", error) from error
        self._durable = size

    def checksums(self) -> list[int]:
        """xxh3-64 of each 64 KiB block of the file from its first byte, the last maybe shorter."""
        return self._checksums.all()

    def close(self, footer: bytes) -> None:
        """Seals the segment: footer, sync, rename to its final name, directory sync.

        The footer is not covered by the block checksums. Raises RepositoryFailed; the segment
        is then left to recovery.
        """
        self._check()
        try:
            self._size = self._write([memoryview(footer)], self._size)
            os.fdatasync(self._fd)
            os.rename(self._path, self._sealed_path)
            fsync_directory(self._sealed_path.parent)
            self._durable = self._size
            fd, self._fd = self._fd, -1
            os.close(fd)
        except OSError as error:
            raise self._poisoned("cannot close a segment", error) from error

    def discard(self) -> None:
        """Removes the file of a segment that came to nothing, durably. Raises RepositoryFailed."""
        self._check()
        try:
            os.unlink(self._path)
            fsync_directory(self._path.parent)
        except OSError as error:
            raise self._poisoned("cannot remove an empty segment", error) from error
        self.abandon()

    def abandon(self) -> None:
        """Lets go of the file as it is, for recovery to seal; no error, and may come twice."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with suppress(OSError):
                os.close(fd)

    def _check(self) -> None:
        if self._poison is not None:
            raise repository_failed(
                "this segment failed before and is given up", self._path, self._poison
            )
        if self._fd < 0:
            raise RepositoryFailed(
                "this segment is closed",
                where=str(self._path),
                next_step="run the same command again",
            )

    def _poisoned(self, what: str, error: OSError) -> RepositoryFailed:
        self._poison = error
        return repository_failed(what, self._path, error)
