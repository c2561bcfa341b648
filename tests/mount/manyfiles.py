"""Help for tests of scale: points of very many files, and very many points, made by hand."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator

from msgspec.structs import replace

from repo.format import limits
from repo.format.manifest import Point
from repo.format.node import (
    EMPTY_RUN,
    Entry,
    Node,
    PageRow,
    Run,
    Totals,
    pack_entries,
    pack_extents,
    pack_page,
)
from repo.points import write_point
from repo.repository import Repository
from repo.types import ChunkId, Kind
from repo.writer import Writer


def make_point(repository: Repository, folders: int, files: int) -> Point:
    """Publish a point of so many folders of so many small files each."""
    writer = repository.writer()
    shared = b"the content of every file\n"
    content = repository.keys.chunk_id(shared)
    writer.put_meta(content, shared)
    entries = [
        _directory(repository, writer, b"folder-%06d" % number, _files(content, number, files))
        for number in range(folders)
    ]
    root = _directory(repository, writer, b"", entries)
    writer.commit(close=True)
    point = _point(root)
    writer.publish(point)
    writer.abandon()
    return point


def repeat_point(repository: Repository, point: Point, count: int) -> None:
    """Publish a point so many times more, each a second later and of one of 50 sources."""
    for number in range(count):
        again = replace(
            point,
            id=secrets.token_bytes(16),
            source_id=f"host:/source/{number % 50}",
            received_ns=point.received_ns + number * 1_000_000_000,
        )
        write_point(repository.folder, repository.keys, repository.header, again)


def _files(content: ChunkId, folder: int, count: int) -> list[Entry]:
    extents = pack_extents([(content, 26)])
    return [
        Entry(
            b"file-%06d" % number, Kind.FILE, 0o644, 1000, 1000, 10**18 + number, 10**18, 0,
            folder * count + number + 100, 1, size=26, extents=extents,
        )
        for number in range(count)
    ]  # fmt: skip


def _directory(repository: Repository, writer: Writer, name: bytes, entries: list[Entry]) -> Entry:
    totals = Totals(
        sum(1 + entry.entries_below for entry in entries),
        sum(entry.bytes_below if entry.node else entry.size for entry in entries),
    )
    joined = entries if entries and entries[0].kind == Kind.DIRECTORY else []
    listed = [] if joined else entries
    node = Node(_run(repository, writer, joined), _run(repository, writer, listed), totals)
    return Entry(
        name, Kind.DIRECTORY, 0o755, 0, 0, 10**18, 10**18, 0, 2, 2,
        node=_put(repository, writer, node.pack()),
        entries_below=totals.entries,
        bytes_below=totals.bytes,
    )  # fmt: skip


def _run(repository: Repository, writer: Writer, entries: list[Entry]) -> Run:
    if not entries:
        return EMPTY_RUN
    if len(entries) <= limits.PAGE_ENTRIES_MAX:
        return Run(len(entries), pack_entries(entries))
    return Run(len(entries), pages=tuple(_pages(repository, writer, entries)))


def _pages(repository: Repository, writer: Writer, entries: list[Entry]) -> Iterator[PageRow]:
    most = limits.PAGE_ENTRIES_MAX
    for part in (entries[at : at + most] for at in range(0, len(entries), most)):
        page = _put(repository, writer, pack_page(pack_entries(part), len(part)))
        below = sum(1 + entry.entries_below for entry in part)
        size = sum(entry.bytes_below if entry.node else entry.size for entry in part)
        yield PageRow(part[0].name, page, len(part), below, size)


def _put(repository: Repository, writer: Writer, data: bytes) -> ChunkId:
    chunk_id = repository.keys.chunk_id(data)
    writer.put_meta(chunk_id, data)
    return chunk_id


def _point(root: Entry) -> Point:
    now = time.time_ns()
    return Point(
        id=secrets.token_bytes(16),
        source_id="host:/many",
        source_path="/many",
        host="host",
        created_ns=now,
        received_ns=now,
        root=root,
        has_xattrs=False,
    )
