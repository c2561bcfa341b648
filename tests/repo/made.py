"""A repository made for a test of the parts below it, and content to put into it."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from repo import keyfile
from repo.format.header import Header
from repo.format.manifest import Point
from repo.format.node import EMPTY_RUN, Entry, Node, Run, Totals, pack_entries, pack_extents
from repo.keys import KeyFile, Keys, derive
from repo.repository import Repository
from repo.sealer import Sealer, frame_bytes_max
from repo.types import KIB, ChunkId, Kind, RepositoryId, Secret, SegmentId
from repo.writer import Writer

HEADER = Header(
    repository_id=RepositoryId(b"repository for t"),
    created_ns=1,
    chunk_minimum=256,
    chunk_average=1024,
    chunk_maximum=4096,
    frame_bytes=4096,
    data_segment_bytes=64 * KIB,
    meta_segment_bytes=64 * KIB,
)


def keys() -> Keys:
    """The keys of a root that is no secret."""
    return derive(Secret(bytes(range(32))), HEADER.repository_id)


def make(folder: Path, header: Header = HEADER) -> Repository:
    """Make a repository below `folder`; its index lies beside it."""
    key_file = folder / "key"
    keyfile.create(key_file)
    return Repository.create(
        folder / "repository", KeyFile(key_file), header=header, index_dir=folder / "indexes"
    )


def reopen(folder: Path) -> Repository:
    """Open the repository that `make` made."""
    return Repository.open(
        folder / "repository", KeyFile(folder / "key"), index_dir=folder / "indexes"
    )


def contents(count: int, *, seed: int = 1, most: int = 900) -> list[bytes]:
    """So many different chunks' contents, compressible and not."""
    rng = random.Random(seed)
    found = [rng.randbytes(rng.randrange(1, most)) for _ in range(count // 2)]
    return found + [rng.randbytes(8) * rng.randrange(1, 90) for _ in range(count - count // 2)]


def store(repository: Repository, writer: Writer, chunks: Sequence[bytes]) -> list[ChunkId]:
    """Seal chunks, three to a frame, and append them; their ids."""
    ids = [repository.keys.chunk_id(chunk) for chunk in chunks]
    sealer = Sealer(level=3)
    for at in range(0, len(chunks), 3):
        part = list(zip(ids[at : at + 3], chunks[at : at + 3], strict=True))
        (ticket,) = writer.tickets(1)
        out = memoryview(bytearray(frame_bytes_max(sum(len(data) for _, data in part), 0)))
        key = repository.keys.container(ticket.salt, "segment", ticket.segment_id)
        writer.append(ticket.segment_id, sealer.seal(key, ticket.number, part, out), out)
    return ids


def put(repository: Repository, writer: Writer, data: bytes) -> ChunkId:
    """Store a node or page; its id."""
    chunk_id = repository.keys.chunk_id(data)
    writer.put_meta(chunk_id, data)
    return chunk_id


def file_entry(name: bytes, extents: Sequence[tuple[bytes, int]]) -> Entry:
    """The entry of a file with these extents."""
    size = sum(length for _, length in extents)
    return Entry(
        name, Kind.FILE, 0o644, 0, 0, 0, 0, 0, 1, 1, size=size, extents=pack_extents(extents)
    )


def directory_entry(
    repository: Repository, writer: Writer, name: bytes, entries: Sequence[Entry]
) -> Entry:
    """Store a directory of these entries, sorted by name; its entry."""
    below = Totals(
        sum(1 + entry.entries_below for entry in entries),
        sum(entry.bytes_below if entry.node else entry.size for entry in entries),
    )
    run = Run(len(entries), pack_entries(entries))
    return node_entry(repository, writer, name, Node(EMPTY_RUN, run, below))


def node_entry(repository: Repository, writer: Writer, name: bytes, node: Node) -> Entry:
    """Store a node; the entry of its directory."""
    return Entry(
        name, Kind.DIRECTORY, 0o755, 0, 0, 0, 0, 0, 1, 2,
        node=put(repository, writer, node.pack()),
        entries_below=node.totals.entries,
        bytes_below=node.totals.bytes,
    )  # fmt: skip


def point_of(root: Entry, number: int = 0) -> Point:
    """A point with that root."""
    return Point(
        id=bytes(15) + bytes((number,)),
        source_id="source",
        source_path="/source",
        host="host",
        created_ns=number,
        received_ns=number,
        root=root,
    )


def open_segment_paths(repository: Repository) -> Mapping[SegmentId, Path]:
    """The files of the segments that are open."""
    folder = repository.folder
    return {i: folder.segment_path(i, open=True) for i, is_open in folder.segments() if is_open}
