"""A mountpoint: where a subvolume can be found among what is mounted."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from ingest.btrfs import ioctl, lookup

_ESCAPED = re.compile(rb"\\([0-7]{3})")


def live_path(fd: int, file_system: bytes, uuid: bytes) -> str | None:
    """Where the subvolume of that UUID is mounted or lies below a mount; None when nowhere.

    `fd` is any open file of its file system. Raises OSError, BtrfsError.
    """
    found = lookup.by_uuid(fd, uuid)
    path = lookup.path_of_tree(fd, found.tree) if found is not None else None
    if path is None:
        return None
    for root, mountpoint in _mounts():
        inner = _below(path, root.strip(b"/"))
        if inner is not None:
            candidate = os.fsdecode(os.path.join(mountpoint, inner).rstrip(b"/") or b"/")
            if _is(candidate, file_system, uuid):
                return candidate
    return None


def _below(path: bytes, root: bytes) -> bytes | None:
    """`path` as seen from `root`, both from the top level; None when it lies elsewhere."""
    if not root:
        return path
    if path == root:
        return b""
    return path[len(root) + 1 :] if path.startswith(root + b"/") else None


def _mounts() -> Iterator[tuple[bytes, bytes]]:
    """(path from the top level, mountpoint) of each btrfs mount, the shortest mountpoint first."""
    found = []
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        mount, _, rest = line.partition(b" - ")
        if rest.startswith(b"btrfs "):
            _, _, _, root, mountpoint, *_ = mount.split(b" ")
            found.append((_plain(root), _plain(mountpoint)))
    yield from sorted(found, key=lambda row: (len(row[1]), row))


def _plain(text: bytes) -> bytes:
    return _ESCAPED.sub(lambda match: bytes([int(match[1], 8)]), text)


def _is(path: str, file_system: bytes, uuid: bytes) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        same = ioctl.file_system_uuid(fd) == file_system
        return same and ioctl.subvolume(fd).uuid == uuid
    except OSError:
        return False
    finally:
        os.close(fd)
