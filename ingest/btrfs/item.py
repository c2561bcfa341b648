"""An item: the records of btrfs trees that tell what changed, parsed from their bytes.

The layouts are those of linux/btrfs_tree.h; all numbers are little-endian. What does not parse
to its last byte raises `BtrfsError`.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct, error
from typing import Final, NamedTuple

from ingest.btrfs.ioctl import MAXIMUM, BtrfsError, Subvolume
from ingest.extents import Extent

INODE_ITEM: Final = 1
INODE_REF: Final = 12
INODE_EXTREF: Final = 13
XATTR_ITEM: Final = 24
VERITY_DESC_ITEM: Final = 36
VERITY_MERKLE_ITEM: Final = 37
ORPHAN_ITEM: Final = 48
DIR_ITEM: Final = 84
DIR_INDEX: Final = 96
EXTENT_DATA: Final = 108
ROOT_ITEM: Final = 132
ROOT_BACKREF: Final = 144
ROOT_REF: Final = 156
UUID_SUBVOLUME: Final = 251

OF_FILES: Final = frozenset(
    [
        INODE_ITEM,
        INODE_REF,
        INODE_EXTREF,
        XATTR_ITEM,
        VERITY_DESC_ITEM,
        VERITY_MERKLE_ITEM,
        ORPHAN_ITEM,
        DIR_ITEM,
        DIR_INDEX,
        EXTENT_DATA,
    ]
)
"""All types of items that the tree of a subvolume is known to hold."""

INODE = Struct("<8xQQ16xI8xI104x")
"""Of an inode: transid, size, link count, mode."""
assert INODE.size == 160
_REF = Struct("<QH")
assert _REF.size == 10
_EXTREF = Struct("<QQH")
assert _EXTREF.size == 18
# A directory item: the key of what it names, transid, lengths of value and name, type.
ENTRY = Struct("<QBQQHHB")
assert ENTRY.size == 30
_EXTENT_HEAD = Struct("<QQBBHB")
assert _EXTENT_HEAD.size == 21
_EXTENT_PLACE = Struct("<4Q")
assert _EXTENT_PLACE.size == 32
GENERATION = Struct("<Q")
_ROOT = Struct("<160xQ40xQI27x16s16s16s4Q12xQI88x")
assert _ROOT.size == 439

INLINE: Final = 0
PREALLOCATED: Final = 2


class Link(NamedTuple):
    """A name of an inode: the inode of the directory that has it."""

    directory: int
    name: bytes


def links(kind: int, offset: int, data: memoryview) -> Iterator[Link]:
    """The names in an INODE_REF or INODE_EXTREF item. Raises BtrfsError."""
    at = 0
    while at < len(data):
        try:
            if kind == INODE_REF:
                directory = offset
                _, length = _REF.unpack_from(data, at)
                at += _REF.size
            else:
                directory, _, length = _EXTREF.unpack_from(data, at)
                at += _EXTREF.size
        except error as wrong:
            raise BtrfsError("a link that is no link") from wrong
        name = bytes(data[at : at + length])
        at += length
        if len(name) != length or not name or b"/" in name:
            raise BtrfsError("a link without a name")
        yield Link(directory, name)


def entry_transids(data: memoryview) -> Iterator[int]:
    """The transids of the entries in a DIR_ITEM, DIR_INDEX or XATTR_ITEM. Raises BtrfsError."""
    at = 0
    while at < len(data):
        try:
            _, _, _, transid, value, name, _ = ENTRY.unpack_from(data, at)
        except error as wrong:
            raise BtrfsError("an entry that is no entry") from wrong
        at += ENTRY.size + name + value
        if at > len(data):
            raise BtrfsError("an entry longer than its item")
        yield transid


def extent(offset: int, data: memoryview) -> Extent:
    """The extent in an EXTENT_DATA item. Raises BtrfsError."""
    try:
        _, length, compression, encryption, other, kind = _EXTENT_HEAD.unpack_from(data)
        if kind == INLINE:
            content = bytes((compression, encryption)) + bytes(data[_EXTENT_HEAD.size :])
            return Extent(offset, offset + length, content)
        place, stored, inner, length = _EXTENT_PLACE.unpack(data[_EXTENT_HEAD.size :])
    except error as wrong:
        raise BtrfsError("an extent that is no extent") from wrong
    if offset + length > MAXIMUM or kind > PREALLOCATED or encryption or other:
        raise BtrfsError("an extent of an unknown kind")
    if not place or kind == PREALLOCATED:
        return Extent(offset, offset + length, ())  # a hole, or as good as one
    # What an extent's bytes are decides together with where in it this stretch begins.
    return Extent(offset, offset + length, (place, stored, inner - offset, compression))


def root(tree: int, data: memoryview) -> Subvolume | None:
    """The subvolume in a ROOT_ITEM; None when it is being deleted. Raises BtrfsError."""
    try:
        (
            generation, flags, references, uuid, parent_uuid, received_uuid,
            ctransid, otransid, _stransid, _rtransid, seconds, nanoseconds,
        ) = _ROOT.unpack(data)  # fmt: skip
    except error as wrong:
        raise BtrfsError("a root that is no root") from wrong
    if not references:
        return None
    otime_ns = seconds * 1_000_000_000 + nanoseconds
    return Subvolume(
        tree, b"", 0, generation, bool(flags & 1), uuid, parent_uuid, received_uuid,
        ctransid, otransid, otime_ns,
    )  # fmt: skip
