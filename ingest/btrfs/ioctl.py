"""The ioctls of btrfs, as linux/btrfs.h defines them: one function each, no program needed.

Most of them need CAP_SYS_ADMIN. What the kernel refuses is raised as OSError, as it came; an
answer that is no answer (too short, a size that cannot be) as `BtrfsError`.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from struct import Struct
from typing import Final, NamedTuple

ROOT_TREE: Final = 1
TOP_LEVEL: Final = 5
UUID_TREE: Final = 9
ROOT_DIRECTORY: Final = 256
"""The inode number of the root directory of every subvolume."""
PLACEHOLDER: Final = 2
"""The inode number of the empty directory that a snapshot has in place of a nested subvolume."""

NO_UUID: Final = bytes(16)

_WRITE, _READ = 1, 2


def _number(direction: int, number: int, size: int) -> int:
    return direction << 30 | size << 16 | 0x94 << 8 | number


class BtrfsError(Exception):
    """btrfs answered what cannot be."""


# struct btrfs_ioctl_vol_args_v2: fd, transid, flags, four unused, name.
_VOLUME_V2 = Struct("<qQQ32x4040s")
assert _VOLUME_V2.size == 4096
# struct btrfs_ioctl_get_subvol_info_args: times are (u64 seconds, u32 nanoseconds, 4 of padding).
_SUBVOLUME_INFO = Struct("<Q256s4Q16s16s16s4Q16xQI4x32x64x")
assert _SUBVOLUME_INFO.size == 504
_INO_LOOKUP = Struct("<QQ4080s")
assert _INO_LOOKUP.size == 4096
# struct btrfs_ioctl_fs_info_args: max_id, num_devices, fsid; the rest is of no use here.
_FS_INFO = Struct("<QQ16s992x")
assert _FS_INFO.size == 1024
# struct btrfs_ioctl_search_args_v2: the key, and the length of the buffer behind it.
_SEARCH = Struct("<7Q4I32xQ")
assert _SEARCH.size == 112
ANSWER_START: Final = _SEARCH.size
HEADER = Struct("<3Q2I")
"""What stands before each item of an answer: transid, objectid, offset, type, length."""
assert HEADER.size == 32
_FLAGS = Struct("<Q")
assert _FLAGS.size == 8

_SNAP_CREATE_V2: Final = _number(_WRITE, 23, _VOLUME_V2.size)
_SUBVOL_CREATE_V2: Final = _number(_WRITE, 24, _VOLUME_V2.size)
_SNAP_DESTROY_V2: Final = _number(_WRITE, 63, _VOLUME_V2.size)
_TREE_SEARCH_V2: Final = _number(_READ | _WRITE, 17, _SEARCH.size)
_INO_LOOKUP_NUMBER: Final = _number(_READ | _WRITE, 18, _INO_LOOKUP.size)
_SUBVOL_GETFLAGS: Final = _number(_READ, 25, _FLAGS.size)
_SUBVOL_SETFLAGS: Final = _number(_WRITE, 26, _FLAGS.size)
_FS_INFO_NUMBER: Final = _number(_READ, 31, _FS_INFO.size)
_GET_SUBVOL_INFO: Final = _number(_READ, 60, _SUBVOLUME_INFO.size)

READ_ONLY: Final = 1 << 1
"""The flag of a subvolume to which nobody writes (BTRFS_SUBVOL_RDONLY)."""
_ROOT_READ_ONLY: Final = 1 << 0  # the same in a root item, which GET_SUBVOL_INFO answers with

NAME_BYTES_MAX: Final = 255
MAXIMUM: Final = (1 << 64) - 1


class Subvolume(NamedTuple):
    """What a subvolume's root item says of it.

    `ctransid` is the transaction of its last change, `otransid` that in which it was made; a
    snapshot nobody ever wrote to has ctransid <= otransid. `otime_ns`: when it was made.
    """

    tree: int
    name: bytes
    parent_tree: int
    generation: int
    read_only: bool
    uuid: bytes
    parent_uuid: bytes
    received_uuid: bytes
    ctransid: int
    otransid: int
    otime_ns: int = 0

    @property
    def untouched(self) -> bool:
        """Whether it is what it was when it was made, and stays so."""
        return self.read_only and self.ctransid <= self.otransid


class Item(NamedTuple):
    """An item of a tree: its key and its bytes."""

    objectid: int
    type: int
    offset: int
    data: memoryview


def file_system_uuid(fd: int) -> bytes:
    """The UUID of the file system of an open file. Raises OSError: ENOTTY when it is no btrfs."""
    buffer = bytearray(_FS_INFO.size)
    fcntl.ioctl(fd, _FS_INFO_NUMBER, buffer)
    uuid: bytes = _FS_INFO.unpack(buffer)[2]
    return uuid


def subvolume(fd: int) -> Subvolume:
    """The subvolume that holds an open file. Raises OSError: ENOENT when it is deleted."""
    buffer = bytearray(_SUBVOLUME_INFO.size)
    fcntl.ioctl(fd, _GET_SUBVOL_INFO, buffer)
    (
        tree, name, parent_tree, _directory, generation, flags,
        uuid, parent_uuid, received_uuid,
        ctransid, otransid, _stransid, _rtransid, seconds, nanoseconds,
    ) = _SUBVOLUME_INFO.unpack(buffer)  # fmt: skip
    return Subvolume(
        tree,
        name.rstrip(b"\0"),
        parent_tree,
        generation,
        bool(flags & _ROOT_READ_ONLY),
        uuid,
        parent_uuid,
        received_uuid,
        ctransid,
        otransid,
        seconds * 1_000_000_000 + nanoseconds,
    )


def create_subvolume(folder_fd: int, name: bytes) -> None:
    """Make an empty subvolume in a directory; durable on return. Raises OSError."""
    fcntl.ioctl(folder_fd, _SUBVOL_CREATE_V2, _arguments(name))


def create_snapshot(folder_fd: int, name: bytes, source_fd: int) -> None:
    """Make a read-only snapshot of the subvolume whose root is open as `source_fd`, in a
    directory of the same file system; durable on return. Raises OSError.
    """
    fcntl.ioctl(folder_fd, _SNAP_CREATE_V2, _arguments(name, fd=source_fd, flags=READ_ONLY))


def destroy_subvolume(folder_fd: int, name: bytes) -> None:
    """Delete the subvolume of that name in a directory. Raises OSError."""
    fcntl.ioctl(folder_fd, _SNAP_DESTROY_V2, _arguments(name))


def _arguments(name: bytes, *, fd: int = 0, flags: int = 0) -> bytearray:
    if not 0 < len(name) <= NAME_BYTES_MAX or b"/" in name or b"\0" in name:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), name)
    # Not bytes: fcntl takes no more than 1,024 of them.
    return bytearray(_VOLUME_V2.pack(fd, 0, flags, name))


def is_read_only(fd: int) -> bool:
    """Whether the subvolume whose root is open is read-only. Raises OSError."""
    buffer = bytearray(_FLAGS.size)
    fcntl.ioctl(fd, _SUBVOL_GETFLAGS, buffer)
    return bool(_FLAGS.unpack(buffer)[0] & READ_ONLY)


def set_read_only(fd: int, *, to: bool) -> None:
    """Make the subvolume whose root is open read-only, or writable. Raises OSError."""
    fcntl.ioctl(fd, _SUBVOL_SETFLAGS, _FLAGS.pack(READ_ONLY if to else 0))


def path_in_subvolume(fd: int, inode: int) -> bytes:
    """A path of a directory from the root of the subvolume that holds `fd`; b"" for the root.

    Raises OSError.
    """
    buffer = bytearray(_INO_LOOKUP.pack(0, inode, b""))
    fcntl.ioctl(fd, _INO_LOOKUP_NUMBER, buffer)
    path: bytes = _INO_LOOKUP.unpack(buffer)[2]
    return path[: path.index(0)].rstrip(b"/")


Key = tuple[int, int, int]
"""(objectid, type, offset), as the trees are sorted."""

FIRST: Final[Key] = (0, 0, 0)
LAST: Final[Key] = (MAXIMUM, 255, MAXIMUM)

ITEM_BYTES_MAX: Final = 1 << 16
"""An item lies in one node of a tree, and no node is larger."""

_SMALL: Final = 96 << 10
_LARGE: Final = 1 << 19


def search(fd: int, tree: int, first: Key = FIRST, last: Key = LAST) -> Iterator[Item]:
    """The items of a tree from one key to another, both included, in order.

    `tree` 0 is the subvolume that holds `fd`. Raises OSError, BtrfsError.
    """
    for buffer, count in answers(fd, tree, first, last):
        view = memoryview(buffer)
        at = ANSWER_START
        for _ in range(count):
            _, objectid, offset, kind, length = HEADER.unpack_from(buffer, at)
            at += HEADER.size
            yield Item(objectid, kind, offset, view[at : at + length])
            at += length


def answers(
    fd: int,
    tree: int,
    first: Key = FIRST,
    last: Key = LAST,
    *,
    min_transid: int = 0,
) -> Iterator[tuple[bytearray, int]]:
    """The same as the kernel answers: a buffer of so many items, each behind its `HEADER`
    (transid of its leaf, objectid, offset, type, length), from `ANSWER_START` on, all within it.

    With `min_transid` only leaves written in that transaction or later are looked at, all of
    their items. Raises OSError, BtrfsError.
    """
    objectid, kind, offset = first
    buffer_bytes = _SMALL
    while True:
        buffer = bytearray(ANSWER_START + buffer_bytes)
        _SEARCH.pack_into(
            buffer, 0, tree, objectid, last[0], offset, last[2], min_transid, MAXIMUM,
            kind, last[1], 0xFFFFFFFF, 0, buffer_bytes,
        )  # fmt: skip
        fcntl.ioctl(fd, _TREE_SEARCH_V2, buffer)
        count: int = _SEARCH.unpack_from(buffer)[9]
        if not count:
            return
        (objectid, kind, offset), end = _last_item(buffer, count)
        yield buffer, count
        # Where the largest item would have had room, there was none left.
        if (objectid, kind, offset) >= last or end + HEADER.size + ITEM_BYTES_MAX <= len(buffer):
            return
        objectid, kind, offset = _after(objectid, kind, offset)
        buffer_bytes = _LARGE


def _last_item(buffer: bytearray, count: int) -> tuple[Key, int]:
    """The key of the last item, and where it ends; all of them lie within the answer."""
    at, end = ANSWER_START, len(buffer)
    objectid = kind = offset = 0
    unpack, size = HEADER.unpack_from, HEADER.size
    for _ in range(count):
        if at + size > end:
            raise BtrfsError("an answer ends before its items do")
        _, objectid, offset, kind, length = unpack(buffer, at)
        at += size + length
    if at > end:
        raise BtrfsError("an item ends behind the answer")
    return (objectid, kind, offset), at


def _after(objectid: int, kind: int, offset: int) -> Key:
    if offset < MAXIMUM:
        return objectid, kind, offset + 1
    if kind < 255:
        return objectid, kind + 1, 0
    return objectid + 1, 0, 0
