"""A likeness: what two entries of the same name have in common, and in what they differ.

Entries are alike when a restore would make the same of both. So the change time, the birth time
and the inode number do not count: no restore can bring them back.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from repo.format.node import Entry, Extent
from repo.tree import Tree
from repo.types import ChunkId, Kind

CONTENT: Final = "content"
"""The aspect of a file whose bytes differ."""


def metadata_aspects(before: Entry, after: Entry) -> tuple[str, ...]:
    """In what two entries differ, the content of files and directories left aside.

    Of a directory neither links nor size count: file systems make them up.
    """
    if before == after:
        return ()
    found = [name for name, old, new in _compared(before, after) if old != new]
    if before.kind != Kind.DIRECTORY and before.nlink != after.nlink:
        found.append("links")
    return tuple(found)


def _compared(before: Entry, after: Entry) -> Iterator[tuple[str, object, object]]:
    yield "kind", before.kind, after.kind
    yield "mode", before.mode, after.mode
    yield "owner", (before.uid, before.gid), (after.uid, after.gid)
    yield "mtime", before.mtime_ns, after.mtime_ns
    yield "flags", before.flags, after.flags
    yield "xattrs", before.xattrs, after.xattrs
    yield "target", before.target, after.target
    yield "device", before.rdev, after.rdev
    yield "absent", before.absent, after.absent


def aspects(tree: Tree, before: Entry, after: Entry) -> tuple[str, ...]:
    """In what two entries differ, `content` among it; what is in directories left aside.

    Reads extent pages where the two files keep different ones, and content only where the times
    and sizes say that it is the same though it was cut otherwise. Raises Damaged.
    """
    found = metadata_aspects(before, after)
    if before.kind == after.kind == Kind.FILE and not same_content(tree, before, after):
        return (CONTENT, *found)
    return found


def same_content(tree: Tree, before: Entry, after: Entry) -> bool:
    """Whether two files have the same bytes, as far as extents tell; see `aspects`."""
    if before.size != after.size:
        return False
    if before.extents == after.extents and before.extent_level == after.extent_level:
        return True
    if before.mtime_ns != after.mtime_ns:
        return all(
            old == new for old, new in zip(tree.extents(before), tree.extents(after), strict=False)
        )
    return _same_bytes(tree, before, after)


def _same_bytes(tree: Tree, before: Entry, after: Entry) -> bool:
    """Whether two files of one size have the same bytes, however they were cut.

    Where both have the same chunk at the same place nothing is read.
    """
    old, new = _Cursor(tree, before), _Cursor(tree, after)
    left = before.size
    while left:
        length = min(old.left, new.left)
        if not old.stands_like(new) and old.bytes(length) != new.bytes(length):
            return False
        old.skip(length)
        new.skip(length)
        left -= length
    return True


class _Cursor:
    """A place in the content of a file."""

    def __init__(self, tree: Tree, entry: Entry) -> None:
        self._tree = tree
        self._extents = tree.extents(entry)
        self._extent = Extent(ChunkId(b""), 0)
        self._at = 0
        self._next()

    @property
    def left(self) -> int:
        """Bytes of the present extent from here on."""
        return self._extent.length - self._at

    def stands_like(self, other: _Cursor) -> bool:
        """Whether both stand at the same place of the same chunk, or in holes."""
        if self._extent.is_hole:
            return other._extent.is_hole
        return self._extent.id == other._extent.id and self._at == other._at

    def bytes(self, length: int) -> bytes:
        """So many bytes of the present extent."""
        if self._extent.is_hole:
            return bytes(length)
        return bytes(self._tree.content(self._extent)[self._at : self._at + length])

    def skip(self, length: int) -> None:
        self._at += length
        if not self.left:
            self._next()

    def _next(self) -> None:
        self._at = 0
        self._extent = next((e for e in self._extents if e.length), Extent(ChunkId(b""), 0))
