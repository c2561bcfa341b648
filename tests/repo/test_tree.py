"""Trees: plain, paged and joined directories, extents of all levels, and what damage does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from repo.errors import Damaged, UsageError
from repo.format import limits
from repo.format.node import (
    EMPTY_RUN,
    HOLE,
    Entry,
    Node,
    PageRow,
    Run,
    Totals,
    pack_entries,
    pack_extent_page,
    pack_extents,
    pack_page,
)
from repo.repository import Repository
from repo.tree import Tree
from repo.types import ChunkId, Kind
from repo.writer import Writer
from tests.repo import made


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    with made.make(tmp_path) as repository:
        yield repository


@pytest.fixture
def writer(repository: Repository) -> Iterator[Writer]:
    writer = repository.writer()
    yield writer
    writer.abandon()


Put = Callable[[bytes], ChunkId]


@pytest.fixture
def put(repository: Repository, writer: Writer) -> Put:
    return lambda data: made.put(repository, writer, data)


def files(names: Sequence[bytes]) -> list[Entry]:
    return [made.file_entry(name, [(b"i" * 32, 5)]) for name in names]


def names(count: int, start: int = 0, step: int = 1) -> list[bytes]:
    return [b"%05d" % number for number in range(start, start + step * count, step)]


def paged(entries: Sequence[Entry], size: int, put: Put) -> Run:
    """A run of entries, in pages of so many."""
    pages = []
    for at in range(0, len(entries), size):
        part = entries[at : at + size]
        page_id = put(pack_page(pack_entries(part), len(part)))
        size_below = sum(entry.size for entry in part)
        pages.append(PageRow(part[0].name, page_id, len(part), len(part), size_below))
    return Run(len(entries), pages=tuple(pages))


def plain(entries: Sequence[Entry]) -> Run:
    return Run(len(entries), pack_entries(entries))


def committed(repository: Repository, writer: Writer, joined: Run, listed: Run) -> Entry:
    """A directory of two runs, committed; its entry."""
    totals = Totals(joined.total + listed.total, 5 * (joined.total + listed.total))
    entry = made.node_entry(repository, writer, b"", Node(joined, listed, totals))
    writer.commit()
    return entry


@pytest.mark.parametrize("joined_paged", [False, True])
@pytest.mark.parametrize("listed_paged", [False, True])
def test_both_runs_are_read_as_one_directory(
    repository: Repository, writer: Writer, put: Put, joined_paged: bool, listed_paged: bool
) -> None:
    even, odd = files(names(40, 0, 2)), files(names(30, 1, 2))
    joined = paged(even, 7, put) if joined_paged else plain(even)
    listed = paged(odd, 7, put) if listed_paged else plain(odd)
    root = committed(repository, writer, joined, listed)
    tree = repository.tree
    everything = sorted(even + odd, key=lambda entry: entry.name)
    assert list(tree.entries(root)) == everything
    for entry in everything:
        assert tree.lookup(root, entry.name) == entry
        after = [other for other in everything if other.name > entry.name]
        assert list(tree.entries(root, after=entry.name)) == after
    for name in (b"", b"0", b"00000x", b"00079", b"zzz"):
        assert tree.lookup(root, name) is None
        after = [entry for entry in everything if entry.name > name]
        assert list(tree.entries(root, after=name)) == after


def test_a_look_up_in_a_large_directory_reads_two_chunks(
    repository: Repository, writer: Writer, put: Put
) -> None:
    root = committed(repository, writer, EMPTY_RUN, paged(files(names(600)), 10, put))
    reader = repository.new_reader()
    read: list[ChunkId] = []
    original = reader.chunk

    def count(chunk_id: ChunkId) -> memoryview:
        read.append(chunk_id)
        return original(chunk_id)

    reader.chunk = count  # type: ignore[method-assign]
    assert Tree(reader).lookup(root, b"00321") is not None
    assert len(read) == 2


def test_an_empty_directory_and_one_that_is_not_in_the_point(
    repository: Repository, writer: Writer
) -> None:
    root = committed(repository, writer, EMPTY_RUN, EMPTY_RUN)
    absent = msgspec.structs.replace(root, node=b"", absent="another file system")
    tree = repository.tree
    for directory in (root, absent):
        assert list(tree.entries(directory)) == []
        assert tree.lookup(directory, b"name") is None


def test_paths_are_resolved_and_never_lead_out(repository: Repository, writer: Writer) -> None:
    (file,) = files([b"file"])
    inner = made.directory_entry(repository, writer, b"inner", [file])
    link = Entry(b"link", Kind.SYMLINK, 0o777, 0, 0, 0, 0, 0, 1, 1, target=b"inner")
    root = made.directory_entry(repository, writer, b"", [inner, link])
    writer.commit()
    tree = repository.tree
    assert tree.resolve(root, b"") == root
    assert tree.resolve(root, b"/inner//./file/") == file
    for path in (b"..", b"inner/..", b"none", b"inner/none", b"inner/file/below", b"link/file"):
        with pytest.raises(UsageError, match="no such path"):
            tree.resolve(root, path)


# Extents


def leveled(rows: Sequence[tuple[bytes, int]], level: int, size: int, put: Put) -> Entry:
    """A file of these extents, put below so many levels of pages of `size` rows."""
    for made_level in range(level):
        rows = [
            (
                put(pack_extent_page(pack_extents(rows[at : at + size]), made_level)),
                sum(length for _, length in rows[at : at + size]),
            )
            for at in range(0, len(rows), size)
        ]
    entry = made.file_entry(b"file", rows)
    return msgspec.structs.replace(entry, extent_level=level)


@pytest.mark.parametrize("level", range(limits.EXTENT_LEVELS_MAX + 1))
def test_extents_of_every_level_come_in_order(
    repository: Repository, writer: Writer, put: Put, level: int
) -> None:
    rows = [(bytes((n % 251 + 1,)) * 32, n + 1) for n in range(60)]
    rows[7] = rows[33] = (HOLE, 1000)
    entry = leveled(rows, level, 3, put)
    writer.commit()
    assert list(repository.tree.extents(entry)) == rows
    assert entry.size == sum(length for _, length in rows)


def test_a_hole_may_stand_for_pages(repository: Repository, writer: Writer, put: Put) -> None:
    page = put(pack_extent_page(pack_extents([(b"x" * 32, 5)]), 0))
    entry = made.file_entry(b"sparse", [(HOLE, 1 << 40), (page, 5)])
    writer.commit()
    extents = list(repository.tree.extents(msgspec.structs.replace(entry, extent_level=1)))
    assert extents == [(HOLE, 1 << 40), (b"x" * 32, 5)]


def test_extents_that_do_not_cover_the_file_are_damage(repository: Repository) -> None:
    entry = made.file_entry(b"file", [(b"x" * 32, 5)])
    for size in (4, 6):
        with pytest.raises(Damaged, match="do not cover"):
            list(repository.tree.extents(msgspec.structs.replace(entry, size=size)))


def test_a_page_that_does_not_cover_its_length_is_damage(
    repository: Repository, writer: Writer, put: Put
) -> None:
    page = put(pack_extent_page(pack_extents([(b"x" * 32, 5)]), 0))
    entry = msgspec.structs.replace(made.file_entry(b"file", [(page, 6)]), extent_level=1)
    writer.commit()
    with pytest.raises(Damaged, match="does not cover"):
        list(repository.tree.extents(entry))


def test_pages_of_the_wrong_level_are_damage(
    repository: Repository, writer: Writer, put: Put
) -> None:
    # A page that named itself could not exist, and one above another of its level is refused.
    low = put(pack_extent_page(pack_extents([(b"x" * 32, 5)]), 0))
    entry = msgspec.structs.replace(made.file_entry(b"file", [(low, 5)]), extent_level=2)
    writer.commit()
    with pytest.raises(Damaged, match="not an extent page"):
        list(repository.tree.extents(entry))


# Damage


def test_chunks_that_are_something_else_are_damage(
    repository: Repository, writer: Writer, put: Put
) -> None:
    data = put(b"content of a file, of which somebody says it was a node")
    page = PageRow(b"a", data, 1, 1, 5)
    root = committed(repository, writer, EMPTY_RUN, Run(1, pages=(page,)))
    wrong = msgspec.structs.replace(root, node=bytes(data))
    tree = repository.tree
    with pytest.raises(Damaged, match="not a node"):
        tree.entries(wrong)
    with pytest.raises(Damaged, match="not a page"):
        list(tree.entries(root))
    with pytest.raises(Damaged, match="not a page"):
        tree.lookup(root, b"b")
    assert tree.lookup(root, b"A") is None  # before the first page: nothing to read


def test_a_missing_node_is_damage(repository: Repository, writer: Writer) -> None:
    root = made.directory_entry(repository, writer, b"", [])
    writer.abandon()
    with pytest.raises(Damaged, match="missing"):
        repository.tree.node(root)
