"""A look-up: which subvolume has a UUID, which names an inode has, what a file is made of.

Everything goes through one open descriptor on the file system, needs CAP_SYS_ADMIN and no path.
Raises OSError and BtrfsError.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from ingest.btrfs import item
from ingest.btrfs.ioctl import (
    MAXIMUM,
    NO_UUID,
    ROOT_DIRECTORY,
    ROOT_TREE,
    TOP_LEVEL,
    UUID_TREE,
    BtrfsError,
    Subvolume,
    search,
)
from ingest.extents import Extent

_HALVES = Struct("<QQ")
_ID = Struct("<Q")
_BACKREF = Struct("<QQH")
_DEEPEST: Final = 4096


def by_uuid(fd: int, uuid: bytes) -> Subvolume | None:
    """The subvolume of that UUID; None when there is none (any more)."""
    if uuid == NO_UUID:
        return None
    low, high = _HALVES.unpack(uuid)
    key = (low, item.UUID_SUBVOLUME, high)
    for found in search(fd, UUID_TREE, key, key):
        if len(found.data) % _ID.size:
            raise BtrfsError("a UUID item of an odd length")
        for (tree,) in _ID.iter_unpack(found.data):
            subvolume = by_tree(fd, tree)
            if subvolume is not None and subvolume.uuid == uuid:
                return subvolume
    return None


def by_tree(fd: int, tree: int) -> Subvolume | None:
    """The subvolume of that tree; None when there is none (any more)."""
    newest = None
    first, last = (tree, item.ROOT_ITEM, 0), (tree, item.ROOT_ITEM, MAXIMUM)
    for found in search(fd, ROOT_TREE, first, last):
        newest = item.root(tree, found.data)
    return newest


def path_of_tree(fd: int, tree: int) -> bytes | None:
    """The path of a subvolume from the top level of its file system; None when it has none."""
    parts: list[bytes] = []
    while tree != TOP_LEVEL and len(parts) < _DEEPEST:
        first, last = (tree, item.ROOT_BACKREF, 0), (tree, item.ROOT_BACKREF, MAXIMUM)
        found = next(iter(search(fd, ROOT_TREE, first, last)), None)
        if found is None:
            return None
        directory, _, length = _BACKREF.unpack_from(found.data)
        parts.append(bytes(found.data[_BACKREF.size : _BACKREF.size + length]))
        tree = found.offset
        parts += _names_above(fd, tree, directory)
    return b"/".join(reversed(parts))


def nested(fd: int, tree: int) -> list[tuple[int, bytes]]:
    """The subvolumes directly inside one: their trees and their paths from its root."""
    inside: list[tuple[int, bytes]] = []
    first, last = (tree, item.ROOT_REF, 0), (tree, item.ROOT_REF, MAXIMUM)
    for found in search(fd, ROOT_TREE, first, last):
        directory, _, length = _BACKREF.unpack_from(found.data)
        name = bytes(found.data[_BACKREF.size : _BACKREF.size + length])
        path = b"/".join([*reversed(_names_above(fd, tree, directory)), name])
        inside.append((found.offset, path))
    return sorted(inside)


def _names_above(fd: int, tree: int, directory: int) -> list[bytes]:
    """The names that lead to a directory of a tree, its own first."""
    names: list[bytes] = []
    while directory != ROOT_DIRECTORY:
        above = links_of(fd, tree, directory)
        if len(above) != 1 or len(names) >= _DEEPEST:
            raise BtrfsError("a directory that is nowhere, or in several places")
        names.append(above[0].name)
        directory = above[0].directory
    return names


def links_of(fd: int, tree: int, inode: int) -> list[item.Link]:
    """All names of an inode."""
    first, last = (inode, item.INODE_REF, 0), (inode, item.INODE_EXTREF, MAXIMUM)
    return [
        link
        for found in search(fd, tree, first, last)
        for link in item.links(found.type, found.offset, found.data)
    ]


def size_of(fd: int, tree: int, inode: int) -> int | None:
    """The size of a file; None when the tree has no such inode."""
    key = (inode, item.INODE_ITEM, 0)
    for found in search(fd, tree, key, key):
        size: int = item.INODE.unpack(found.data)[1]
        return size
    return None


def extents_of(fd: int, tree: int, inode: int) -> list[Extent]:
    """What a file is made of, in order."""
    first, last = (inode, item.EXTENT_DATA, 0), (inode, item.EXTENT_DATA, MAXIMUM)
    return [item.extent(found.offset, found.data) for found in search(fd, tree, first, last)]
