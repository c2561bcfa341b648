"""File flags: those that chattr sets, as the kernel gives and takes them by ioctl.

Only for regular files and directories: on a device the same request would reach the driver.
"""

from __future__ import annotations

import errno
import fcntl
from struct import Struct
from typing import Final

# _IOR('f', 1, long) and _IOW('f', 2, long). Whatever the numbers say of a long, file systems
# read and write 32 bits.
_GETFLAGS: Final = 0x80006601 | Struct("@l").size << 16
_SETFLAGS: Final = 0x40006602 | Struct("@l").size << 16
_FLAGS = Struct("=I4x")

APPEND: Final = 0x00000020
IMMUTABLE: Final = 0x00000010
PROTECTING: Final = APPEND | IMMUTABLE
"""With one of these, nothing of the file (or no name in the directory) can be changed."""

COMPRESS: Final = 0x00000004
NO_COMPRESS: Final = 0x00000400
NO_COPY_ON_WRITE: Final = 0x00800000
CASE_FOLD: Final = 0x40000000
BEFORE_CONTENT: Final = COMPRESS | NO_COMPRESS | NO_COPY_ON_WRITE | CASE_FOLD
"""Set on an empty file or directory, or they have no effect (or are refused)."""

RESTORABLE: Final = (
    PROTECTING
    | BEFORE_CONTENT
    | 0x00000001  # secure deletion
    | 0x00000002  # undelete
    | 0x00000008  # synchronous
    | 0x00000040  # no dump
    | 0x00000080  # no access time
    | 0x00004000  # journal data
    | 0x00008000  # no tail merging
    | 0x00010000  # synchronous directory
    | 0x00020000  # top of a hierarchy
    | 0x02000000  # direct access
    | 0x20000000  # project id inherited
)
"""The FS_*_FL flags that chattr can set again; the others say how a file system stores a file."""

_NONE_HERE: Final = frozenset({errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})


def get_flags(fd: int) -> int:
    """All flags of an open file or directory; 0 on a file system without. Raises OSError."""
    buffer = bytearray(_FLAGS.size)
    try:
        fcntl.ioctl(fd, _GETFLAGS, buffer)
    except OSError as error:
        if error.errno in _NONE_HERE:
            return 0
        raise
    flags: int = _FLAGS.unpack(buffer)[0]
    return flags


def set_flags(fd: int, flags: int) -> None:
    """Set the flags to exactly these. Raises OSError."""
    fcntl.ioctl(fd, _SETFLAGS, _FLAGS.pack(flags))
