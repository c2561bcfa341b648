"""A reserve: space that is kept for garbage collection, and given up when the disk is full.

A file without content to which blocks were allocated (fallocate, FALLOC_FL_KEEP_SIZE): its length
is 0, so that a copy of the folder costs nothing and has none. Where there can be none, everything
goes on without: it is a help, never a condition.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from repo.storage.durable import FILE_MODE, repository_io
from repo.types import MIB

LEAST_BYTES: Final = 2 * MIB
SHARE_OF_SEGMENT: Final = 64
SHARE_OF_FREE: Final = 4
"""At most a fourth of what is free is kept, so that nobody misses it."""

_KEPT_BYTES_MAX: Final = 16 * MIB
_KEPT_SHARE: Final = 50
_EXT: Final = 0xEF53
_KEEP_SIZE: Final = 1
_BLOCK_BYTES: Final = 512
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def free_bytes(path: str | os.PathLike[str]) -> int:
    """Bytes that this process could still write to a file system. Raises RepositoryFailed."""
    with repository_io("cannot ask for free space", path):
        status = os.statvfs(path)
    free = status.f_bavail * status.f_frsize
    if os.geteuid() == 0 and _is_ext(path):
        # What only root may write, but for what ext4 counts as free and gives to nobody.
        kept = min(_KEPT_BYTES_MAX, status.f_blocks * status.f_frsize // _KEPT_SHARE)
        free = max(free, status.f_bfree * status.f_frsize - kept)
    return free


def reserve_bytes(segment_bytes: int, segments: int) -> int:
    """The reserve for so many segments of about that size.

    What garbage collection needs before the first segment goes: new pages of the index (46 bytes
    for a chunk that leaves, and copies of its pages: far below a 64th of what the chunks take),
    and what is alive of one segment, which is written anew before the old one goes: at most 70 %.
    """
    return LEAST_BYTES + min(segments * segment_bytes // SHARE_OF_SEGMENT, segment_bytes * 7 // 10)


def _is_ext(path: str | os.PathLike[str]) -> bool:
    """Whether a file system is ext2, ext3 or ext4; struct statfs begins with its type."""
    buffer = ctypes.create_string_buffer(512)
    if _libc.statfs(os.fsencode(path), buffer) != 0:
        return False
    return ctypes.c_long.from_buffer(buffer).value == _EXT


class Reserve:
    """The reserve in one folder. Never raises but for a file system that cannot be asked."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def held_bytes(self) -> int:
        """What is kept now."""
        with suppress(OSError):
            return self._path.stat().st_blocks * _BLOCK_BYTES
        return 0

    def keep(self, size: int) -> None:
        """Keep so many bytes, or as many as there is room for; more of them stay."""
        wanted = min(size, free_bytes(self._path.parent) // SHARE_OF_FREE)
        if wanted <= self.held_bytes:
            return
        with suppress(OSError):
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
            try:
                _libc.fallocate(fd, _KEEP_SIZE, 0, wanted)
            finally:
                os.close(fd)

    def give_up(self) -> int:
        """Give all of it back to the file system; how much that was."""
        held = self.held_bytes
        with suppress(OSError):
            self._path.unlink()
            fd = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                _libc.syncfs(fd)  # some file systems give space free with their next commit only
            finally:
                os.close(fd)
        return held
