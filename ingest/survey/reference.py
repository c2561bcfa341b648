"""A look at directories: whether they are what the base has of them. The specification.

`look` is told of a directory where it lies, its entry in the base and runs of its node, and
compares them with what the kernel says now. Its names are not listed: a name that comes or goes
moves the times of its directory.

The same in C, with one call for many directories, is `native/look.c`; a test holds the two
together.
"""

from __future__ import annotations

import os
from contextlib import suppress
from struct import Struct
from typing import TYPE_CHECKING, Final

import msgspec

from ingest.known import same_attributes
from ingest.statx import open_directory, stat_at, stat_fd
from repo.format.limits import NAME_BYTES_MAX
from repo.format.node import UNPARSABLE, Entry
from repo.types import CHUNK_ID_BYTES, Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Buffer

Item = tuple["bytes | Buffer", ...]
"""(path below the root, the directory's packed entry, packed runs of its node ...)"""

Child = tuple[bytes, bytes, bytes, int, int]
"""A sub-directory: its name, its packed entry, the id of its node; how many entries and how many
directories are said to lie below it.
"""

Found = tuple[bool, int, int, list[Child]]
"""Whether the directory, and all in these runs that is no directory, is as it was; then how many
entries those are and the bytes of the files among them; the sub-directories in the runs. There are
none when the directory cannot be opened or a run does not parse.
"""

INODE: Final = Struct("=Q")
"""One inode of `excluded`."""

_decode_entry = msgspec.msgpack.Decoder(Entry).decode
_decode_run = msgspec.msgpack.Decoder(list[Entry]).decode
_NOTHING: Final[Found] = (False, 0, 0, [])


def look(
    root_fd: int, items: Sequence[Item], limit_ns: int, device: int, excluded: Buffer
) -> list[Found]:
    """Look at directories below `root_fd`, without following symlinks; never raises OSError.

    A directory or another entry is as it was when kind, mode, owner, inode, mtime and ctime are
    those of its entry and the ctime is below `limit_ns`, and of a file the size. A directory must
    also lie on `device` (st_dev), and not be one of `excluded`, packed inodes. With a sub-directory
    that is not wholly in the base, or lies on another file system there, it is not as it was.
    """
    inodes = {inode for (inode,) in INODE.iter_unpack(excluded)}
    return [_look(root_fd, item, limit_ns, device, inodes) for item in items]


def _look(root_fd: int, item: Item, limit_ns: int, device: int, excluded: set[int]) -> Found:
    path, packed, *runs = item
    try:
        fd = open_directory(root_fd, [part for part in bytes(path).split(b"/") if part != b"."])
    except OSError:
        return _NOTHING
    try:
        own = _decode_entry(packed)
        entries = [entry for run in runs for entry in _decode_run(run)]
        if not all(_is_name(entry.name) for entry in entries):
            return _NOTHING
        same = _is_directory(fd, own, limit_ns, device, excluded)
        return _compared(fd, entries, limit_ns, same=same)
    except UNPARSABLE:
        return _NOTHING
    finally:
        os.close(fd)


def _is_directory(fd: int, own: Entry, limit_ns: int, device: int, excluded: set[int]) -> bool:
    with suppress(OSError):
        stat = stat_fd(fd)
        return (
            stat.device == device
            and stat.inode not in excluded
            and same_attributes(stat, own, limit_ns, stable=True)
        )
    return False


def _compared(fd: int, entries: Sequence[Entry], limit_ns: int, *, same: bool) -> Found:
    count = size = 0
    children: list[Child] = []
    for entry in entries:
        if entry.kind == Kind.DIRECTORY:
            if entry.absent or entry.volume or len(entry.node) != CHUNK_ID_BYTES:
                same = False
            else:
                whole = msgspec.msgpack.encode(entry)
                below = entry.entries_below, entry.directories_below
                children.append((entry.name, whole, entry.node, *below))
            continue
        same = same and _is_same(fd, entry, limit_ns)
        count += 1
        size += entry.size if entry.kind == Kind.FILE else 0
    return (True, count, size, children) if same else (False, 0, 0, children)


def _is_same(fd: int, entry: Entry, limit_ns: int) -> bool:
    with suppress(OSError):
        stat = stat_at(fd, entry.name)
        return same_attributes(stat, entry, limit_ns, stable=True) and (
            entry.kind != Kind.FILE or stat.size == entry.size
        )
    return False


def _is_name(name: bytes) -> bool:
    fits = 0 < len(name) <= NAME_BYTES_MAX and b"/" not in name and b"\0" not in name
    return fits and name not in (b".", b"..")
