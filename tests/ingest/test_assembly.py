"""An assembly: whatever the order in which parts arrive, the same tree comes of them."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.assembly import (
    PROBLEMS_PER_CHUNK,
    PendingDirectory,
    SourceAssembly,
    entries_of,
    names_of,
)
from ingest.channel import Large, RangeSaved, Run
from ingest.largefile import EXTENT_PAGE_ROWS, LargeFile
from repo.format import limits
from repo.format.manifest import Problem, parse_problems
from repo.format.node import (
    HOLE,
    Entry,
    Node,
    pack_entries,
    pack_extents,
    parse_entries,
    parse_extent_page,
    parse_extents,
    parse_page,
)
from repo.types import MIB, ChunkId, Kind

VERSION = (1, 2, 3, 4, 5)


class Chunks(dict[bytes, bytes]):
    """Keeps what an assembly stores."""

    def put(self, data: bytes) -> ChunkId:
        chunk_id = ChunkId(b"id" + len(self).to_bytes(30, "big"))
        self[chunk_id] = bytes(data)
        return chunk_id


def entry(name: bytes, kind: Kind = Kind.FILE, size: int = 0) -> Entry:
    return Entry(name, kind, 0o755, 0, 0, 0, 0, 0, 1, 1, size=size)


def run(*names: bytes, size: int = 10) -> Run:
    entries = [entry(name, size=size) for name in sorted(names)]
    return Run(entries[0].name, len(entries), pack_entries(entries), size * len(entries))


def listed(directory: PendingDirectory, name: bytes = b"") -> None:
    directory.entry = entry(name, Kind.DIRECTORY)


def names_in(chunks: Chunks, directory: Entry) -> list[bytes]:
    """All names of a node, by its runs and pages."""
    node = Node.parse(chunks[directory.node], where="")
    found: list[bytes] = []
    for part in (node.joined, node.listed):
        entries = parse_entries(part.entries, where="") if part.entries else []
        for page in part.pages:
            below = parse_page(chunks[page.id], where="")
            assert (page.count, page.first_name) == (len(below), below[0].name)
            assert page.bytes_below == sum(e.bytes_below if e.node else e.size for e in below)
            entries += below
        names = [each.name for each in entries]
        assert names == sorted(set(names)), "each run is sorted"
        assert len(names) == part.total
        found += names
    return sorted(found)


# -- directories ----------------------------------------------------------------------------------


def test_a_directory_is_finished_when_nothing_is_outstanding() -> None:
    chunks = Chunks()
    assembly = SourceAssembly(0, chunks.put)
    top = assembly.top
    listed(top)
    top.add_runs([run(b"a", b"c")], paged=False)
    below = PendingDirectory(assembly, (b"b",), top)
    top.waiting += 1
    assembly.arrived(top)
    done_too_early = assembly.done
    assert not done_too_early
    listed(below, b"b")
    below.add_runs([run(b"x", size=7)], paged=False)
    assembly.arrived(below)
    assert assembly.done
    assert assembly.root is not None
    assert names_in(chunks, assembly.root) == [b"a", b"b", b"c"]
    assert (assembly.root.entries_below, assembly.root.bytes_below) == (4, 27)
    assert assembly.directories == 2


def test_a_very_deep_tree_is_finished_without_recursion() -> None:
    chunks = Chunks()
    assembly = SourceAssembly(0, chunks.put)
    directory = assembly.top
    for depth in range(5000):
        listed(directory, b"%d" % depth)
        directory.waiting += 1
        below = PendingDirectory(assembly, (*directory.path[-1:], b"d"), directory)
        assembly.arrived(directory)
        directory = below
    listed(directory, b"last")
    assembly.arrived(directory)
    assert assembly.root is not None
    assert assembly.root.entries_below == 5000


def test_a_directory_that_is_left_out_or_gone() -> None:
    chunks = Chunks()
    assembly = SourceAssembly(0, chunks.put)
    top = assembly.top
    listed(top)
    absent, gone = (PendingDirectory(assembly, (name,), top) for name in (b"absent", b"gone"))
    top.waiting += 2
    assembly.arrived(top)
    reason = Entry(b"absent", Kind.DIRECTORY, 0o755, 0, 0, 0, 0, 0, 1, 1, absent="why")
    assembly.left_out(absent, reason)
    assembly.left_out(gone, None)
    assert assembly.root is not None
    assert names_in(chunks, assembly.root) == [b"absent"]


@given(st.data())
def test_parts_in_any_order_make_the_same_node(data: st.DataObject) -> None:
    """A directory in pages, of which some were lost and come once more."""
    count = data.draw(st.integers(1, 40))
    size = data.draw(st.integers(1, 8))
    names = [b"%03d" % number for number in range(count)]
    runs = [run(*names[at : at + size]) for at in range(0, count, size)]
    late = data.draw(st.integers(0, 5))
    joined = [entry(b"%03d-joined" % number, size=5) for number in range(late)]
    parts: list[Any] = data.draw(st.permutations([*runs, *joined]))

    chunks = Chunks()
    assembly = SourceAssembly(0, chunks.put)
    top = assembly.top
    listed(top)
    for part in parts:
        top.waiting += 1
        if isinstance(part, Run):
            top.add_runs([part], paged=data.draw(st.booleans()))
        else:
            top.add(part)
        assembly.arrived(top)
    assembly.arrived(top)
    assert assembly.root is not None
    assert names_in(chunks, assembly.root) == sorted([*names, *(each.name for each in joined)])
    assert assembly.root.entries_below == count + len(joined)
    assert assembly.root.bytes_below == 10 * count + 5 * len(joined)


def test_many_subdirectories_become_pages() -> None:
    chunks = Chunks()
    assembly = SourceAssembly(0, chunks.put)
    top = assembly.top
    listed(top)
    count = limits.PAGE_ENTRIES_MAX * 2 + 10
    numbers = list(range(count))
    random.Random(1).shuffle(numbers)
    for number in numbers:
        top.add(entry(b"%06d" % number, size=1))
    assembly.arrived(top)
    assert assembly.root is not None
    assert names_in(chunks, assembly.root) == [b"%06d" % number for number in range(count)]
    node = Node.parse(chunks[assembly.root.node], where="")
    assert 3 <= len(node.joined.pages) < 9


def test_entries_with_large_attributes_become_pages_that_can_be_read() -> None:
    chunks = Chunks()
    assembly = SourceAssembly(0, chunks.put)
    listed(assembly.top)
    for number in range(8):
        large = entry(b"%d" % number)
        attributes = ((b"user.a", bytes(limits.ENTRY_BYTES_MAX - 6)),)
        assembly.top.add(msgspec.structs.replace(large, xattrs=attributes))
    assembly.arrived(assembly.top)
    assert assembly.root is not None
    assert len(names_in(chunks, assembly.root)) == 8
    assert max(map(len, chunks.values())) <= limits.NODE_BYTES_MAX


def test_what_a_task_does_again_is_told_by_its_entries() -> None:
    entries = [entry(b"a"), entry(b"b", Kind.FIFO)]
    packed = Run(b"a", 2, pack_entries(entries), 0)
    assert names_of(packed) == [(b"a", True, 1), (b"b", False, 1)]
    assert list(entries_of([packed, packed])) == entries * 2


# -- large files ----------------------------------------------------------------------------------


def chunk_id(number: int) -> bytes:
    return b"c" + number.to_bytes(31, "big")


def extents_in(chunks: Chunks, file: Entry) -> list[tuple[bytes, int]]:
    """All extents of an entry, read through its pages; each page covers what is said of it."""

    def below(rows: list[Any], level: int) -> list[tuple[bytes, int]]:
        if level == 0:
            return [(bytes(row.id), row.length) for row in rows]
        found: list[tuple[bytes, int]] = []
        for row in rows:
            page = below(parse_extent_page(chunks[row.id], level - 1, where=""), level - 1)
            assert sum(length for _, length in page) == row.length
            found += page
        return found

    return below(list(parse_extents(file.extents)), file.extent_level)


def large_file(chunks: Chunks) -> LargeFile:
    return LargeFile(Large(entry(b"large"), VERSION), chunks.put, last_try=False)


@given(st.data())
def test_ranges_in_any_order_make_the_same_file(data: st.DataObject) -> None:
    ranges = data.draw(st.integers(1, 20))
    rows = [
        [(chunk_id(part * 10 + number), MIB) for number in range(data.draw(st.integers(1, 4)))]
        for part in range(ranges)
    ]
    chunks = Chunks()
    large = large_file(chunks)
    borders = [0]
    for extents in rows:
        borders.append(borders[-1] + len(extents) * MIB)
    for part in data.draw(st.permutations(range(ranges))):
        covered = borders[part + 1] - borders[part]
        saved = RangeSaved(1, 0, pack_extents(rows[part]), covered, covered)
        large.add(borders[part], borders[part + 1], saved)
    file = large.finish()
    assert file.size == borders[-1]
    assert extents_in(chunks, file) == [row for extents in rows for row in extents]


def test_very_many_extents_make_pages_of_pages() -> None:
    chunks = Chunks()
    large = large_file(chunks)
    ranges, each = limits.EXTENT_ROWS_INLINE + 40, EXTENT_PAGE_ROWS + 1
    for part in range(ranges):
        rows = pack_extents([(chunk_id(part * each + number), 1) for number in range(each)])
        large.add(part * each, (part + 1) * each, RangeSaved(1, 0, rows, each, each))
    file = large.finish()
    assert file.extent_level == 2
    assert len(file.extents) // 40 <= limits.EXTENT_ROWS_INLINE
    assert len(extents_in(chunks, file)) == ranges * each


def test_a_file_that_shrank_ends_where_the_first_range_came_up_short() -> None:
    chunks = Chunks()
    large = large_file(chunks)
    full = RangeSaved(1, 0, pack_extents([(chunk_id(1), 100)]), 100, 100)
    short = RangeSaved(1, 0, pack_extents([(chunk_id(2), 30)]), 30, 30, "shrank")
    nothing = RangeSaved(1, 0, b"", 0, 0, "shrank")
    large.add(200, 300, full)
    large.add(300, 400, nothing)
    large.add(0, 100, full)
    large.add(100, 200, short)
    file = large.finish()
    assert file.size == 130
    assert extents_in(chunks, file) == [(chunk_id(1), 100), (chunk_id(2), 30)]
    assert large.changed == "shrank"


def test_a_file_that_shrank_to_nothing() -> None:
    chunks = Chunks()
    large = large_file(chunks)
    large.add(0, 100, RangeSaved(1, 0, b"", 0, 0, "shrank"))
    file = large.finish()
    assert (file.size, extents_in(chunks, file)) == (0, [])


def test_holes_stay_holes() -> None:
    chunks = Chunks()
    large = large_file(chunks)
    large.add(0, 1 << 40, RangeSaved(1, 0, pack_extents([(HOLE, 1 << 40)]), 1 << 40, 0))
    file = large.finish()
    assert extents_in(chunks, file) == [(HOLE, 1 << 40)]


# -- problems -------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, PROBLEMS_PER_CHUNK, 2 * PROBLEMS_PER_CHUNK + 1])
def test_problems_are_kept_in_order_however_many(count: int) -> None:
    chunks = Chunks()
    assembly = SourceAssembly(0, chunks.put)
    problems = [Problem(b"%d" % number, "read", 5, "why") for number in range(count)]
    for problem in problems:
        assembly.problem(problem)
    assembly.close_problems()
    assembly.close_problems()
    found = [p for i in assembly.problem_chunks for p in parse_problems(chunks[i], where="")]
    assert found == problems
    assert assembly.problems_total == count
