"""Nodes, pages, entries and extents: laws of their bytes, and what they refuse."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repo.errors import Damaged
from repo.format import limits
from repo.format.node import (
    EMPTY_RUN,
    EXTENT_ROW,
    HOLE,
    Entry,
    Extent,
    Node,
    PageRow,
    Run,
    Totals,
    pack_entries,
    pack_extent_page,
    pack_extents,
    pack_page,
    packed_runs,
    parse_entries,
    parse_extent_page,
    parse_extents,
    parse_page,
    parse_references,
)
from repo.types import GIB, ChunkId, Kind

U32 = st.integers(0, (1 << 32) - 1)
U64 = st.integers(0, (1 << 64) - 1)
TIME = st.integers(-(1 << 63), (1 << 63) - 1)
ID = st.binary(min_size=32, max_size=32)
NAME = st.binary(min_size=1, max_size=255).filter(
    lambda name: b"/" not in name and b"\0" not in name and name not in {b".", b".."}
)
extents = st.lists(st.tuples(ID, U64), max_size=5)

PLAIN = Entry(b"name", Kind.FILE, 0o644, 1000, 1000, 1, 2, 3, 4, 1)


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    kind = draw(st.sampled_from(Kind))
    node = draw(ID) if kind is Kind.DIRECTORY else b""
    absent = draw(st.sampled_from(["", "mount point"])) if node else ""
    return Entry(
        name=draw(NAME),
        kind=kind,
        mode=draw(st.integers(0, 0o7777)),
        uid=draw(U32),
        gid=draw(U32),
        mtime_ns=draw(TIME),
        ctime_ns=draw(TIME),
        btime_ns=draw(TIME),
        inode=draw(U64),
        nlink=draw(U32),
        size=draw(U64),
        extents=pack_extents(draw(extents)),
        extent_level=draw(st.integers(0, limits.EXTENT_LEVELS_MAX)),
        flags=draw(U32),
        xattrs=tuple(draw(st.lists(st.tuples(NAME, st.binary(max_size=50)), max_size=3))),
        target=draw(st.binary(max_size=100)),
        rdev=draw(U64),
        node=node,
        entries_below=draw(U64),
        bytes_below=draw(U64),
        volume=draw(U32),
        absent=absent,
    )


runs_of_entries = st.lists(entries(), max_size=5, unique_by=lambda entry: entry.name).map(
    lambda found: sorted(found, key=lambda entry: entry.name)
)


@st.composite
def runs(draw: st.DrawFn) -> Run:
    if draw(st.booleans()):
        found = draw(runs_of_entries)
        return Run(len(found), pack_entries(found))
    names = sorted(draw(st.sets(NAME, min_size=1, max_size=5)))
    counts = [draw(st.integers(0, limits.PAGE_ENTRIES_MAX)) for _ in names]
    pages = [
        PageRow(name, draw(ID), count, draw(U64), draw(U64))
        for name, count in zip(names, counts, strict=True)
    ]
    return Run(sum(counts), pages=tuple(pages))


nodes = st.builds(Node, runs(), runs(), st.builds(Totals, U64, U64))


@contextmanager
def little_memory(more_bytes: int) -> Iterator[None]:
    """Refuse this process more than so much address space beyond what it has."""
    with open("/proc/self/statm", encoding="ascii") as file:
        has = int(file.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (has + more_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


# Entries


@given(runs_of_entries)
def test_entries_are_read_as_they_were_written(found: list[Entry]) -> None:
    assert parse_entries(pack_entries(found), where="here") == found


@pytest.mark.parametrize(
    "name", [b"", b".", b"..", b"a/b", b"/", b"a\0", b"x" * (limits.NAME_BYTES_MAX + 1)]
)
def test_names_that_would_lead_elsewhere_are_damage(name: bytes) -> None:
    data = pack_entries([msgspec.structs.replace(PLAIN, name=name)])
    with pytest.raises(Damaged):
        parse_entries(data, where="here")


@pytest.mark.parametrize(("first", "second"), [(b"b", b"a"), (b"a", b"a")])
def test_names_out_of_order_are_damage(first: bytes, second: bytes) -> None:
    both = [msgspec.structs.replace(PLAIN, name=name) for name in (first, second)]
    with pytest.raises(Damaged, match="holds the name"):
        parse_entries(pack_entries(both), where="here")


@pytest.mark.parametrize(
    "change",
    [
        {"kind": 0},
        {"kind": 8},
        {"mode": 0o10000},
        {"mode": -1},
        {"uid": -1},
        {"uid": 1 << 32},
        {"gid": 1 << 32},
        {"nlink": 1 << 32},
        {"inode": -1},
        {"size": -1},
        {"mtime_ns": (1 << 64) - 1},
        {"rdev": -1},
        {"extents": bytes(EXTENT_ROW.size - 1)},
        {"extents": bytes(EXTENT_ROW.size * (limits.EXTENT_ROWS_MAX + 1))},
        {"extent_level": -1},
        {"extent_level": limits.EXTENT_LEVELS_MAX + 1},
        {"target": b"x" * (limits.TARGET_BYTES_MAX + 1)},
        {"node": bytes(31)},
        {"node": bytes(32)},  # a file with a node
        {"kind": Kind.DIRECTORY},  # a directory without one
        {"absent": "a file is never absent"},
        {"entries_below": -1},
    ],
)
def test_fields_beyond_their_limits_are_damage(change: dict[str, object]) -> None:
    data = pack_entries([msgspec.structs.replace(PLAIN, **change)])
    with pytest.raises(Damaged):
        parse_entries(data, where="here")


def test_more_entries_than_a_page_holds_are_damage() -> None:
    # In 16 MiB a million of them fit, which would take most of a GiB.
    many = [msgspec.structs.replace(PLAIN, name=b"%04d" % number) for number in range(4097)]
    assert len(parse_entries(pack_entries(many[1:]), where="here")) == 4096
    for parse in (parse_entries, parse_references):
        with pytest.raises(Damaged):
            parse(pack_entries(many), where="here")
    node = Node(Run(4097, pack_entries(many)), EMPTY_RUN, Totals(4097, 0))
    with pytest.raises(Damaged):
        Node.parse(node.pack(), where="here")


def test_fields_that_a_newer_version_appended_are_passed_over() -> None:
    row = [*msgspec.structs.astuple(PLAIN), "new field", {"another": [1, 2]}]
    assert parse_entries(msgspec.msgpack.encode([row]), where="here") == [PLAIN]


def test_nesting_without_end_is_damage() -> None:
    row = bytearray(pack_entries([PLAIN]))
    fields = len(Entry.__struct_fields__)
    assert row[1:4] == bytes((0xDC, 0, fields))
    row[3] = fields + 1  # a field appended, of arrays in arrays
    for depth in (1_000, 1_000_000):
        data = bytes(row) + b"\x91" * depth + b"\xc0"
        try:
            parse_entries(data, where="here")
        except Damaged:
            continue
        assert depth == 1_000


@pytest.mark.parametrize(
    "data",
    [
        b"\xdd\xff\xff\xff\xff",  # an array of four thousand million entries
        b"\xdd\x10\x00\x00\x00" + b"\xc0" * 100,
        b"\x91\xdc\xff\xff" + b"\xc6\xff\xff\xff\xff",  # a name of four GiB
        b"\xc6\xff\xff\xff\xff",
    ],
)
@pytest.mark.parametrize("parse", [parse_entries, parse_page])
def test_lengths_that_lie_take_no_memory(data: bytes, parse: Callable[..., list[Entry]]) -> None:
    if parse is parse_page:
        data = pack_page(data, 1)
    with little_memory(GIB), pytest.raises(Damaged):
        parse(data, where="here")


@given(st.binary(max_size=200))
def test_any_bytes_are_entries_or_damage(data: bytes) -> None:
    try:
        found = parse_entries(data, where="here")
    except Damaged:
        return
    assert [entry.name for entry in found] == sorted({entry.name for entry in found})


@given(runs_of_entries.filter(bool), st.data())
def test_truncated_entries_are_damage(found: list[Entry], data: st.DataObject) -> None:
    packed = pack_entries(found)
    cut = data.draw(st.integers(0, len(packed) - 1))
    for other in (packed[:cut], packed + b"\xc0"):
        with pytest.raises(Damaged):
            parse_entries(other, where="here")


# Nodes and pages


@given(nodes)
def test_a_node_is_read_as_it_was_written(node: Node) -> None:
    assert Node.parse(node.pack(), where="here") == node
    assert Node.parse(memoryview(node.pack()), where="here") == node


@given(nodes)
def test_the_packed_runs_of_a_node_are_those_that_it_has(node: Node) -> None:
    runs, pages = packed_runs(memoryview(node.pack()), where="here")
    both = (node.joined, node.listed)
    assert pages == [page for run in both for page in run.pages]
    assert runs == [run.entries for run in both if run.total and not run.pages]


@given(nodes, st.data())
def test_a_truncated_node_is_damage(node: Node, data: st.DataObject) -> None:
    packed = node.pack()
    cut = data.draw(st.integers(0, len(packed) - 1))
    for other in (packed[:cut], packed + b"\0"):
        with pytest.raises(Damaged):
            Node.parse(other, where="here")
        with pytest.raises(Damaged):
            packed_runs(memoryview(other), where="here")


@given(st.binary(max_size=120), st.booleans())
def test_any_bytes_are_a_node_or_damage(data: bytes, begins_well: bool) -> None:
    if begins_well:
        data = EMPTY_NODE[:8] + data
    try:
        Node.parse(data, where="here")
    except Damaged:
        return
    assert data.startswith(b"NODE")


EMPTY_NODE = Node(EMPTY_RUN, EMPTY_RUN, Totals()).pack()


def test_a_node_beyond_the_limit_is_damage() -> None:
    with pytest.raises(Damaged, match="node length"):
        Node.parse(bytes(limits.NODE_BYTES_MAX + 1), where="here")


@pytest.mark.parametrize(
    "pages",
    [
        (PageRow(b"b", bytes(32), 1, 1, 0), PageRow(b"a", bytes(32), 1, 1, 0)),
        (PageRow(b"a", bytes(32), 1, 1, 0), PageRow(b"a", bytes(32), 1, 1, 0)),
        (PageRow(b"a", bytes(31), 2, 2, 0),),
        (PageRow(b"a", bytes(32), 3, 3, 0),),
        (PageRow(b"a", bytes(32), -2, 2, 0), PageRow(b"b", bytes(32), 4, 1, 0)),
    ],
)
def test_pages_that_do_not_add_up_are_damage(pages: tuple[PageRow, ...]) -> None:
    data = Node(Run(2, pages=pages), EMPTY_RUN, Totals(2)).pack()
    with pytest.raises(Damaged):
        Node.parse(data, where="here")


@given(runs_of_entries)
def test_a_page_is_read_as_it_was_written(found: list[Entry]) -> None:
    data = pack_page(pack_entries(found), len(found))
    assert parse_page(memoryview(data), where="here") == found


@given(runs_of_entries, U32)
def test_a_page_with_another_count_is_damage(found: list[Entry], count: int) -> None:
    if count != len(found):
        with pytest.raises(Damaged):
            parse_page(pack_page(pack_entries(found), count), where="here")


@given(st.binary(max_size=60))
def test_any_bytes_are_a_page_or_damage(data: bytes) -> None:
    try:
        parse_page(data, where="here")
    except Damaged:
        return
    assert data.startswith(b"PAGE")


# Extents


@given(extents)
def test_extents_are_read_as_they_were_written(rows: list[tuple[bytes, int]]) -> None:
    packed = pack_extents(rows)
    assert list(parse_extents(packed)) == rows
    for level in range(limits.EXTENT_LEVELS_MAX + 1):
        page = pack_extent_page(packed, level)
        assert parse_extent_page(memoryview(page), level, where="here") == rows


def test_a_hole_is_told_from_a_chunk() -> None:
    hole, chunk = Extent(ChunkId(HOLE), 5), Extent(ChunkId(b"\1" * 32), 5)
    assert hole.is_hole
    assert not chunk.is_hole


@given(extents, st.integers(0, 4), st.integers(0, 4))
def test_an_extent_page_of_another_level_is_damage(
    rows: list[tuple[bytes, int]], level: int, other: int
) -> None:
    if level != other:
        with pytest.raises(Damaged, match="not an extent page"):
            parse_extent_page(pack_extent_page(pack_extents(rows), level), other, where="here")


@given(extents, st.data())
def test_a_truncated_extent_page_is_damage(
    rows: list[tuple[bytes, int]], data: st.DataObject
) -> None:
    packed = pack_extent_page(pack_extents(rows), 0)
    cut = data.draw(st.integers(0, len(packed) - 1))
    for other in (packed[:cut], packed + b"\0", packed + bytes(EXTENT_ROW.size)):
        with pytest.raises(Damaged):
            parse_extent_page(other, 0, where="here")


def test_an_extent_page_beyond_the_limit_is_damage() -> None:
    rows = bytes(EXTENT_ROW.size * (limits.EXTENT_ROWS_MAX + 1))
    with pytest.raises(Damaged, match="extent rows"):
        parse_extent_page(pack_extent_page(rows, 0), 0, where="here")
