"""A generation: what in a subvolume's tree is newer than one of its transactions.

Three signals are united: the transid of inode items, of directory entries, and the generation of
file extents. Transids of leaves say nothing: a leaf is written for any of its items.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from struct import Struct
from typing import Final

from ingest.btrfs import item
from ingest.btrfs.ioctl import (
    ANSWER_START,
    HEADER,
    MAXIMUM,
    ROOT_DIRECTORY,
    BtrfsError,
    Item,
    answers,
    search,
)
from ingest.btrfs.lookup import links_of
from ingest.changes.changesource import Changes

CHANGED_MAX: Final = 200_000
"""More changed inodes than this are not gathered: comparing every file costs no more by then."""

_FREE_INODES: Final = (1 << 64) - 12
"""From this objectid on a tree keeps house: orphans (-5), free inode numbers (-12)."""

_COMPARED_MAX: Final = 10_000
"""An inode of more items counts as changed rather than being compared."""

_TELLING: Final = frozenset(
    [item.INODE_ITEM, item.EXTENT_DATA, item.DIR_ITEM, item.DIR_INDEX, item.XATTR_ITEM]
)
_DIRECTORY_MODE: Final = 0o040000
_FORMAT: Final = 0o170000
_INODE = Struct("<8xQ24xI8xI")  # transid, link count, mode: the beginning of item.INODE


class _Found:
    """The changed inodes: link count (-1: not known) by inode, and which are directories."""

    def __init__(self, since: int) -> None:
        self.links: dict[int, int] = {}
        self.listed: set[int] = set()
        self._since = since

    def take(self, inode: int, kind: int, buffer: bytearray, at: int, length: int) -> None:
        """Look at one item, which begins at `at`."""
        if kind == item.INODE_ITEM:
            transid, links, mode = _inode(buffer, at, length)
            if transid > self._since:
                self.links[inode] = links
                if mode & _FORMAT == _DIRECTORY_MODE:
                    self.listed.add(inode)
        elif kind == item.EXTENT_DATA:
            if item.GENERATION.unpack_from(buffer, at)[0] > self._since:
                self.links.setdefault(inode, -1)
        else:
            entries = item.entry_transids(memoryview(buffer)[at : at + length])
            if any(transid > self._since for transid in entries):
                self.links.setdefault(inode, -1)
                if kind != item.XATTR_ITEM:
                    self.listed.add(inode)


def changes_since(
    fd: int, tree: int, since: int, held: int | None = None
) -> dict[int, Changes] | str:
    """What changed in a subvolume's tree after transaction `since`, by the inode of each
    directory in or below which something did; or why that cannot be said.

    `held` is the tree as it was then, if there is a snapshot of it: an inode of which nothing but
    the time of the last access differs does not count. The caller makes sure afterwards that the
    snapshot is still there. Raises OSError, BtrfsError.
    """
    found = _scan(fd, tree, since)
    if found is None:
        return f"more than {CHANGED_MAX:,} files changed"
    if held is not None:
        for inode in [*found.links]:
            if _only_read(fd, held, tree, inode):
                del found.links[inode]
                found.listed.discard(inode)
    return _Places(fd, tree).of(found)


def _scan(fd: int, tree: int, since: int) -> _Found | None:
    found = _Found(since)
    unpack, size = HEADER.unpack_from, HEADER.size
    take, house = found.take, _FREE_INODES
    for buffer, count in answers(fd, tree, min_transid=since + 1):
        at = ANSWER_START
        for _ in range(count):
            _, objectid, _, kind, length = unpack(buffer, at)
            at += size
            if kind in _TELLING and objectid < house:
                take(objectid, kind, buffer, at, length)
            elif kind not in item.OF_FILES and objectid < house:
                raise BtrfsError(f"an item of the unknown type {kind}")
            at += length
        if len(found.links) > CHANGED_MAX:
            return None
    return found


def _inode(buffer: bytearray, at: int, length: int) -> tuple[int, int, int]:
    if length != item.INODE.size:
        raise BtrfsError(f"an inode of {length} bytes")
    found: tuple[int, int, int] = _INODE.unpack_from(buffer, at)
    return found


def _only_read(fd: int, before: int, now: int, inode: int) -> bool:
    """Whether all that two trees say of an inode is the same but for its access time: its
    attributes, names, xattrs, entries, and the places of its content, which both hold.
    """
    key = (inode, item.INODE_ITEM, 0)
    first, second = (_without_access(search(fd, tree, key, key)) for tree in (before, now))
    if first is None or first != second:
        return False
    first = _without_access(_items(fd, before, inode))
    return (
        first is not None
        and first == _without_access(_items(fd, now, inode))
        # Balance moves extents: where they still are what they were, they meant the same.
        and first == _without_access(_items(fd, before, inode))
    )


def _items(fd: int, tree: int, inode: int) -> Iterator[Item]:
    return search(fd, tree, (inode, 0, 0), (inode, 255, MAXIMUM))


def _without_access(items: Iterable[Item]) -> list[tuple[int, int, bytes]] | None:
    """Items as they are compared; None when there are none, or too many."""
    found: list[tuple[int, int, bytes]] = []
    for each in items:
        data = bytes(each.data)
        if each.type == item.INODE_ITEM:
            data = data[:8] + data[16:112] + data[124:]  # without transid and atime
        found.append((each.type, each.offset, data))
        if len(found) > _COMPARED_MAX:
            return None
    return found or None


class _Places:
    """Where changed inodes lie: the names that lead to them from the root."""

    def __init__(self, fd: int, tree: int) -> None:
        self._fd = fd
        self._tree = tree
        self._names: dict[int, set[bytes]] = {}

    def of(self, found: _Found) -> dict[int, Changes] | str:
        """The changes by directory; a reason when the names of an inode are not what they
        should be.
        """
        for inode, counted in found.links.items():
            if inode == ROOT_DIRECTORY:
                continue
            links = links_of(self._fd, self._tree, inode)
            # A directory has one name, and none when it is removed and still open.
            expected = min(counted, 1) if inode in found.listed else counted
            if expected not in (-1, len(links)):
                return f"inode {inode} has {len(links)} names and counts {expected}"
            for link in links:
                self._name(link)
        directories = self._names.keys() | found.listed
        return {
            inode: Changes(frozenset(self._names.get(inode, ())), inode in found.listed)
            for inode in directories
        }

    def _name(self, link: item.Link) -> None:
        """Note a name in its directory, and that directory in those above."""
        while True:
            names = self._names.get(link.directory)
            if names is not None:
                names.add(link.name)
                return
            self._names[link.directory] = {link.name}
            if link.directory == ROOT_DIRECTORY:
                return
            above = links_of(self._fd, self._tree, link.directory)
            if len(above) != 1:
                raise BtrfsError("a directory that is nowhere, or in several places")
            link = above[0]
