"""File flags as chattr sets them: read, change, and release a tree from those that protect it."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

FLAGS: Final = {"nodump": 0x40, "noatime": 0x80, "append": 0x20, "immutable": 0x10}
PROTECTING: Final = FLAGS["append"] | FLAGS["immutable"]

_GETFLAGS: Final = 0x80086601
_SETFLAGS: Final = 0x40086602


def get(fd: int) -> int:
    """The FS_*_FL flags of an open file or directory. Raises OSError."""
    buffer = bytearray(8)
    fcntl.ioctl(fd, _GETFLAGS, buffer)
    return int.from_bytes(buffer[:4], "little")


def change(fd: int, *, add: int = 0, remove: int = 0) -> None:
    """Set and clear flags of an open file or directory. Raises OSError."""
    fcntl.ioctl(fd, _SETFLAGS, (get(fd) & ~remove | add).to_bytes(8, "little"))


def release(root: Path) -> None:
    """Clear the append-only and immutable flags of everything below `root`, so it can go."""
    for fd in _walk(os.open(root, os.O_RDONLY | os.O_DIRECTORY)):
        with suppress(OSError):
            if get(fd) & PROTECTING:
                change(fd, remove=PROTECTING)


def _walk(fd: int) -> Iterator[int]:
    """Descriptors of a directory and of the files and directories below; closes them all."""
    try:
        yield fd
        for name in os.listdir(fd):
            mode = os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode
            if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                continue
            with suppress(PermissionError):
                below = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=fd)
                if stat.S_ISDIR(mode):
                    yield from _walk(below)
                else:
                    yield below
                    os.close(below)
    finally:
        os.close(fd)
