"""A node: a directory as a chunk; a large directory is paged.

A node holds two runs, each sorted by name bytes: the *joined* run, made by whoever puts
the tree together (sub-directories, and files whose parts came from several workers), and
the *listed* run, made by the worker that listed the directory. Two runs let the master join
them without decoding the worker's part. A run of many entries is a list of pages, chunks
of their own, so that a look-up is a bisection and a million entries never sit in memory.

Every entry of a sub-directory carries the totals of its subtree: they number the entries of
a point in a fixed order (rank), which gives each an inode that can be resolved by descending.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from struct import Struct
from typing import Annotated, NamedTuple

import msgspec

from repo.errors import Damaged
from repo.format import limits
from repo.format.magic import EXTENTS_MAGIC, NODE_MAGIC, PAGE_MAGIC
from repo.types import CHUNK_ID_BYTES, ChunkId, Kind

_NODE = Struct("<4sBBBxIIIIQQ")
assert _NODE.size == 40  # FORMAT.md, Node
_PAGE = Struct("<4sB3xI")
assert _PAGE.size == 12  # FORMAT.md, Page
_EXTENTS = Struct("<4sB3xI")
assert _EXTENTS.size == 12  # FORMAT.md, Extent page

EXTENT_ROW = Struct("<32sQ")
assert EXTENT_ROW.size == 40  # FORMAT.md, Extent row

HOLE = bytes(CHUNK_ID_BYTES)
"""In place of a chunk id: this length of the file is a hole."""

REMOVED = "removed since the base"
"""The `absent` of a directory entry in the tree of a delta: what the base has there is gone. With a
node it is something new in its place.
"""

VERSION = 1
_NEXT = "run `repo verify`"
_NOTHING = msgspec.Raw(b"")


U32 = Annotated[int, msgspec.Meta(ge=0, le=(1 << 32) - 1)]
U64 = Annotated[int, msgspec.Meta(ge=0)]
Nanoseconds = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
"""What a kernel can report, checked by the decoder. msgpack itself holds nothing beyond 64 bits."""

UNPARSABLE = (msgspec.DecodeError, RecursionError)
"""What msgspec raises for bytes that are not what they should be."""


class Entry(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One name of a directory and everything recorded of it.

    Fields are only ever appended. Times are nanoseconds since 1970 (btime 0: unknown), mode
    holds the permission bits (0o7777), rdev is as makedev(3) gives it. `flags` are those of
    chattr(1). Never the access time, never st_dev.

    `extents` are packed rows (chunk id, bytes covered) when `extent_level` is 0, else rows
    (extent page id, bytes covered). `node`, `entries_below`, `bytes_below` and `volume` are of
    directories only; `volume` tells file systems inside one source apart (0: that of the root),
    so that equal inode numbers on two of them are not taken for hard links. `absent` says why a
    directory's content is not in the point ("" when it is). `directories_below` counts the
    directories of its subtree, so that a subtree can be taken over without reading it (0 also
    in nodes that an older version wrote).
    """

    name: bytes
    kind: int
    mode: int
    uid: U32
    gid: U32
    mtime_ns: Nanoseconds
    ctime_ns: Nanoseconds
    btime_ns: Nanoseconds
    inode: U64
    nlink: U32
    size: U64 = 0
    extents: bytes = b""
    extent_level: int = 0
    flags: U64 = 0
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    target: bytes = b""
    rdev: U64 = 0
    node: bytes = b""
    entries_below: U64 = 0
    bytes_below: U64 = 0
    volume: U64 = 0
    absent: str = ""
    directories_below: U64 = 0


class Totals(NamedTuple):
    """What lies below a directory: entries (itself not counted) and bytes of regular files."""

    entries: int = 0
    bytes: int = 0

    def plus(self, entries: int, size: int) -> Totals:
        """These totals and so many more."""
        return Totals(self.entries + entries, self.bytes + size)


class PageRow(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One page of a large directory: its first name, its chunk and what it holds."""

    first_name: bytes
    id: bytes
    count: U32
    entries_below: U64
    bytes_below: U64


_entries_encoder = msgspec.msgpack.Encoder()
_entries_decoder: msgspec.msgpack.Decoder[list[Entry]] = msgspec.msgpack.Decoder(
    Annotated[list[Entry], msgspec.Meta(max_length=limits.PAGE_ENTRIES_MAX)]
)
_pages_decoder = msgspec.msgpack.Decoder(list[PageRow])


def pack_entries(entries: Sequence[Entry]) -> bytes:
    """A run or page of entries. They must be sorted by name."""
    return _entries_encoder.encode(entries)


def parse_entries(data: bytes | memoryview, *, where: str) -> list[Entry]:
    """The entries of a run or page, each checked; Damaged when anything is out of order."""
    try:
        entries = _entries_decoder.decode(data)
    except UNPARSABLE as error:
        raise Damaged(f"a node does not parse: {error}", where=where, next_step=_NEXT) from error
    before = b""
    for entry in entries:
        name = entry.name
        if name <= before or b"/" in name or b"\0" in name or name in (b".", b".."):
            raise Damaged(f"a node holds the name {name!r}", where=where, next_step=_NEXT)
        _check_entry(entry, where)
        before = name
    return entries


class References(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The fields of an entry by which it relies on chunks; the others are not decoded."""

    name: msgspec.Raw
    kind: msgspec.Raw
    mode: msgspec.Raw
    uid: msgspec.Raw
    gid: msgspec.Raw
    mtime_ns: msgspec.Raw
    ctime_ns: msgspec.Raw
    btime_ns: msgspec.Raw
    inode: msgspec.Raw
    nlink: msgspec.Raw
    size: msgspec.Raw
    extents: bytes = b""
    extent_level: int = 0
    flags: msgspec.Raw = _NOTHING
    xattrs: msgspec.Raw = _NOTHING
    target: msgspec.Raw = _NOTHING
    rdev: msgspec.Raw = _NOTHING
    node: bytes = b""


_references_decoder: msgspec.msgpack.Decoder[list[References]] = msgspec.msgpack.Decoder(
    Annotated[list[References], msgspec.Meta(max_length=limits.PAGE_ENTRIES_MAX)]
)


def parse_references(data: bytes | memoryview, *, where: str) -> list[References]:
    """What the entries of a run rely on, four times as fast as the entries themselves.

    Raises Damaged when it does not parse, or names what cannot be chunks.
    """
    try:
        found = _references_decoder.decode(data)
    except UNPARSABLE as error:
        raise Damaged(f"a node does not parse: {error}", where=where, next_step=_NEXT) from error
    for entry in found:
        if (
            len(entry.extents) % EXTENT_ROW.size
            or len(entry.node) not in (0, CHUNK_ID_BYTES)
            or not 0 <= entry.extent_level <= limits.EXTENT_LEVELS_MAX
        ):
            raise Damaged("an entry is damaged", where=where, next_step=_NEXT)
    return found


def page_entries(data: bytes | memoryview, *, where: str) -> memoryview:
    """The packed entries of a page chunk."""
    if len(data) < _PAGE.size or _PAGE.unpack_from(data)[:2] != (PAGE_MAGIC, VERSION):
        raise Damaged("a chunk is not a page", where=where, next_step=_NEXT)
    return memoryview(data)[_PAGE.size :]


_KINDS = frozenset(Kind)
_ID_MAX = (1 << 32) - 2
"""One more means "none" to the kernel."""


def _check_entry(entry: Entry, where: str) -> None:
    rows, rest = divmod(len(entry.extents), EXTENT_ROW.size)
    wrong = (
        entry.kind not in _KINDS
        or rest
        or rows > limits.EXTENT_ROWS_MAX
        or not 0 <= entry.extent_level <= limits.EXTENT_LEVELS_MAX
        or not 0 <= entry.mode <= 0o7777
        or len(entry.name) > limits.NAME_BYTES_MAX
        or len(entry.target) > limits.TARGET_BYTES_MAX
        or len(entry.node) not in (0, CHUNK_ID_BYTES)
        or (entry.kind == Kind.DIRECTORY) is not bool(entry.node or entry.absent)
    )
    if wrong:
        raise Damaged(f"the entry {entry.name!r} is damaged", where=where, next_step=_NEXT)


def check_root(root: Entry, *, where: str) -> None:
    """Raises Damaged unless an entry can be the root of a point."""
    _check_entry(root, where)
    wrong = (
        root.name
        or root.kind != Kind.DIRECTORY
        or not root.node
        or max(root.uid, root.gid) > _ID_MAX
        or any(b"\0" in name for name, _ in root.xattrs)
    )
    if wrong:
        raise Damaged("a point's root is damaged", where=where, next_step=_NEXT)


class Run(NamedTuple):
    """One run of a node: either its entries, packed, or its pages."""

    total: int
    entries: bytes = b""
    pages: tuple[PageRow, ...] = ()


EMPTY_RUN = Run(0, pack_entries(()))


class Node(NamedTuple):
    """A directory: the joined run, the listed run and the totals of its subtree."""

    joined: Run
    listed: Run
    totals: Totals

    def pack(self) -> bytes:
        """The chunk that holds this node."""
        joined, listed = _pack_run(self.joined), _pack_run(self.listed)
        head = _NODE.pack(
            NODE_MAGIC,
            VERSION,
            bool(self.joined.pages),
            bool(self.listed.pages),
            len(joined),
            len(listed),
            self.joined.total,
            self.listed.total,
            self.totals.entries,
            self.totals.bytes,
        )
        return b"".join((head, joined, listed))

    @classmethod
    def parse(cls, data: bytes | memoryview, *, where: str) -> Node:
        """The node in a chunk. Entries inside are parsed (and checked) by `parse_entries`."""
        middle, paged_j, paged_l, count_j, count_l, entries, size = _parse_head(data, where)
        joined = _parse_run(data[_NODE.size : middle], bool(paged_j), count_j, where)
        listed = _parse_run(data[middle:], bool(paged_l), count_l, where)
        return cls(joined, listed, Totals(entries, size))


def check_total(counted: int, claimed: int, *, where: str) -> None:
    """Raises Damaged unless as many entries lie below a directory as is said of it."""
    if counted != claimed:
        raise Damaged(
            f"a tree's totals do not add up: {counted} entries, not {claimed}",
            where=where,
            next_step=_NEXT,
        )


def _parse_head(data: bytes | memoryview, where: str) -> tuple[int, int, int, int, int, int, int]:
    """Where the listed run begins; whether the runs are paged, what they count; the totals."""
    limits.check("node length", len(data), limits.NODE_BYTES_MAX, least=_NODE.size, where=where)
    magic, version, paged_j, paged_l, bytes_j, bytes_l, *rest = _NODE.unpack_from(data)
    if magic != NODE_MAGIC or version != VERSION:
        raise Damaged("a chunk is not a node", where=where, next_step=_NEXT)
    middle = _NODE.size + bytes_j
    if middle + bytes_l != len(data):
        raise Damaged("a node's lengths do not add up", where=where, next_step=_NEXT)
    return (middle, paged_j, paged_l, *rest)


def packed_runs(data: memoryview, *, where: str) -> tuple[list[memoryview], list[PageRow]]:
    """The runs of the node in a chunk, as they lie there, and the pages of those that have some.

    Raises Damaged.
    """
    middle, paged_j, paged_l, count_j, count_l, *_ = _parse_head(data, where)
    if not (paged_j or paged_l):
        runs = [data[_NODE.size : middle]] if count_j else []
        return ([*runs, data[middle:]] if count_l else runs), []
    node = Node.parse(data, where=where)
    both = [(node.joined, data[_NODE.size : middle]), (node.listed, data[middle:])]
    packed = [run for parsed, run in both if parsed.total and not parsed.pages]
    return packed, [*node.joined.pages, *node.listed.pages]


def _pack_run(run: Run) -> bytes:
    return _entries_encoder.encode(run.pages) if run.pages else run.entries


def _parse_run(data: bytes | memoryview, paged: bool, count: int, where: str) -> Run:
    if not paged:
        limits.check("entry count", count, limits.PAGE_ENTRIES_MAX, where=where)
        return Run(count, bytes(data))
    try:
        pages = tuple(_pages_decoder.decode(data))
    except UNPARSABLE as error:
        raise Damaged(f"a node does not parse: {error}", where=where, next_step=_NEXT) from error
    ordered = all(a.first_name < b.first_name for a, b in pairwise(pages))
    if not ordered or sum(page.count for page in pages) != count:
        raise Damaged("a node's pages do not add up", where=where, next_step=_NEXT)
    if any(len(page.id) != CHUNK_ID_BYTES for page in pages):
        raise Damaged("a node's page has no id", where=where, next_step=_NEXT)
    return Run(count, pages=pages)


def pack_page(entries: bytes, count: int) -> bytes:
    """The chunk that holds one page: `entries` as `pack_entries` made them."""
    return _PAGE.pack(PAGE_MAGIC, VERSION, count) + entries


def page_run(data: bytes | memoryview, *, where: str) -> tuple[int, bytes]:
    """How many entries a page chunk says that it holds, and these, packed."""
    if len(data) < _PAGE.size:
        raise Damaged("a chunk is not a page", where=where, next_step=_NEXT)
    magic, version, count = _PAGE.unpack_from(data)
    if magic != PAGE_MAGIC or version != VERSION:
        raise Damaged("a chunk is not a page", where=where, next_step=_NEXT)
    return count, bytes(data[_PAGE.size :])


def parse_page(data: bytes | memoryview, *, where: str) -> list[Entry]:
    """The entries of a page chunk, each checked."""
    count, packed = page_run(data, where=where)
    entries = parse_entries(packed, where=where)
    if len(entries) != count:
        raise Damaged("a page's count is wrong", where=where, next_step=_NEXT)
    return entries


class Extent(NamedTuple):
    """`length` bytes of a file: a chunk, an extent page, or (id == HOLE) nothing."""

    id: ChunkId
    length: int

    @property
    def is_hole(self) -> bool:
        """Whether these bytes were never written: they read as zeros and take no space."""
        return self.id == HOLE


def pack_extents(extents: Sequence[tuple[bytes, int]]) -> bytes:
    """Packed rows (id, bytes covered)."""
    return b"".join([EXTENT_ROW.pack(*extent) for extent in extents])


def parse_extents(rows: bytes | memoryview) -> Iterator[Extent]:
    """The extents in packed rows; the caller has checked that they are whole rows."""
    for chunk_id, length in EXTENT_ROW.iter_unpack(rows):
        yield Extent(ChunkId(chunk_id), length)


def pack_extent_page(rows: bytes, level: int) -> bytes:
    """The chunk that holds one extent page. At `level` 0 the rows are chunks, above pages."""
    return _EXTENTS.pack(EXTENTS_MAGIC, level, len(rows) // EXTENT_ROW.size) + rows


def parse_extent_page(data: bytes | memoryview, level: int, *, where: str) -> list[Extent]:
    """The rows of an extent page, which must be of `level`."""
    if len(data) < _EXTENTS.size:
        raise Damaged("a chunk is not an extent page", where=where, next_step=_NEXT)
    magic, found, count = _EXTENTS.unpack_from(data)
    rows = data[_EXTENTS.size :]
    if magic != EXTENTS_MAGIC or found != level or count * EXTENT_ROW.size != len(rows):
        raise Damaged("a chunk is not an extent page", where=where, next_step=_NEXT)
    limits.check("extent rows", count, limits.EXTENT_ROWS_MAX, where=where)
    return list(parse_extents(rows))
