"""A small repository, made by the real ingest, that tests may break and put together again.

Segments of 64 KiB and frames of 4 KiB, so that a few hundred KiB of content make several of
each kind. Its index lies beside it, so that a folder holds nothing but the repository.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from ingest.session import IngestRequest, ingest
from repo import keyfile
from repo.errors import RepoError
from repo.format.header import Header
from repo.format.node import Entry
from repo.keys import KeyFile
from repo.reader import Reader
from repo.repository import Repository
from repo.tree import Tree
from repo.types import KIB, ChunkId, Kind, PointId, RepositoryId, SegmentId

SEED = 20_220_113
HEADER = Header(
    repository_id=RepositoryId(bytes(range(16))),
    created_ns=1_600_000_000_000_000_000,
    chunk_minimum=256,
    chunk_average=1024,
    chunk_maximum=4096,
    frame_bytes=4096,
    data_segment_bytes=64 * KIB,
    meta_segment_bytes=64 * KIB,
)


class Lost(NamedTuple):
    """In place of content that could not be read: why."""

    error: RepoError


Contents = dict[str, dict[str, bytes | Lost]]
"""Point -> path -> content of a file, target of a link, b"" of a directory, or why it is lost."""


def make_source(folder: Path) -> None:
    """A few dozen files of all sizes: compressible, random, empty, sparse, linked, alike."""
    rng = random.Random(SEED)
    words = [rng.randbytes(rng.randrange(2, 9)).hex().encode() for _ in range(200)]
    for number in range(6):
        directory = folder / f"d{number}" / "deep" / "er"
        directory.mkdir(parents=True)
        for size in (1, 300, 5000 + number):
            (directory / f"text{size}").write_bytes(b" ".join(rng.choices(words, k=size))[:size])
        (directory.parent / "random").write_bytes(rng.randbytes(9000 * number))
    (folder / "large").write_bytes(rng.randbytes(90_000))
    (folder / "large again").write_bytes((folder / "large").read_bytes())
    (folder / "empty").touch()
    with open(folder / "sparse", "wb") as file:
        file.write(b"begin")
        file.truncate(300_000)
        file.seek(200_000)
        file.write(b"middle")
    os.link(folder / "large", folder / "d0" / "hard link")
    (folder / "link").symlink_to("d0/deep")
    (folder / b"\xff\xfe not UTF-8".decode(errors="surrogateescape")).write_bytes(b"name")


class Small:
    """A repository below `home`, with its key file, its index beside it and a source."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.path = home / "repository"
        self.key_file = home / "key"
        self.index_dir = home / "indexes"
        self.source = home / "source"

    @classmethod
    def make(cls, home: Path) -> Small:
        """Make one with two points, of which the second differs in a few files."""
        small = cls(home)
        small.make_empty()
        make_source(small.source)
        small.ingest()
        (small.source / "d1" / "deep" / "random").write_bytes(b"changed" * 500)
        (small.source / "new").write_bytes(random.Random(1).randbytes(20_000))
        small.ingest()
        return small

    def make_empty(self) -> None:
        """Make the repository, without a point, and an empty source."""
        self.source.mkdir(parents=True)
        keyfile.create(self.key_file)
        key = KeyFile(self.key_file)
        with Repository.create(self.path, key, header=HEADER, index_dir=self.index_dir):
            pass

    def ingest(self) -> PointId:
        """Back up the source as it is now."""
        with self.open() as repository:
            request = IngestRequest(paths=[str(self.source)], streams=1)
            return PointId(ingest(repository, request).points[0].id)

    def open(self, on_notice: Callable[[str], None] = lambda _text: None) -> Repository:
        """Open it."""
        key = KeyFile(self.key_file)
        return Repository.open(self.path, key, index_dir=self.index_dir, on_notice=on_notice)

    @property
    def index_file(self) -> Path:
        """The data file of the index."""
        return self.index_dir / HEADER.repository_id.hex() / "data.mdb"

    def segments(self) -> list[Path]:
        """The files of all segments."""
        return sorted(path for path in self.path.glob("segments/*/*"))


def read_back(repository: Repository) -> Contents:
    """Everything that can be read: point -> path -> content, or why it is lost."""
    lost_points: list[RepoError] = []
    reader = repository.new_reader()
    found: Contents = {}
    for point in repository.points(on_damage=lost_points.append):
        found[point.id.hex()] = dict(_directory(reader, Tree(reader), point.root, b""))
    return found


def _contents(
    reader: Reader, tree: Tree, directory: Entry, path: bytes
) -> Iterator[tuple[str, bytes | Lost]]:
    entries = tree.entries(directory)
    while True:
        try:
            entry = next(entries, None)
        except RepoError as error:
            yield os.fsdecode(path) + "/", Lost(error)
            return
        if entry is None:
            return
        full = path + b"/" + entry.name if path else entry.name
        name = os.fsdecode(full)
        if entry.kind == Kind.DIRECTORY:
            yield name, b""
            yield from _directory(reader, tree, entry, full)
        elif entry.kind == Kind.SYMLINK:
            yield name, entry.target
        else:
            yield name, content(reader, tree, entry)


def _directory(
    reader: Reader, tree: Tree, entry: Entry, path: bytes
) -> Iterator[tuple[str, bytes | Lost]]:
    try:
        tree.node(entry)
    except RepoError as error:
        yield os.fsdecode(path) + "/", Lost(error)
        return
    yield from _contents(reader, tree, entry, path)


def content(reader: Reader, tree: Tree, entry: Entry) -> bytes | Lost:
    """The content of a file, or why it is lost."""
    parts: list[bytes] = []
    try:
        for extent in tree.extents(entry):
            if extent.is_hole:
                parts.append(bytes(extent.length))
            else:
                parts.append(bytes(reader.chunk(ChunkId(extent.id))))
    except RepoError as error:
        return Lost(error)
    return b"".join(parts)


def wrongly_served(found: Contents, truth: Contents) -> list[str]:
    """The paths of files that were read as something else than was written."""
    wrong: list[str] = []
    for point, contents in found.items():
        for path, data in contents.items():
            if not isinstance(data, Lost) and truth[point].get(path) != data:
                wrong.append(f"{point}: {path}")
    return wrong


def lost_paths(found: Contents) -> set[tuple[str, str]]:
    """(point, path) of everything that could not be read."""
    return {
        (point, path.rstrip("/") or ".")
        for point, contents in found.items()
        for path, data in contents.items()
        if isinstance(data, Lost)
    }


@contextmanager
def moved(*pairs: tuple[Path, Path]) -> Iterator[None]:
    """Files under other names, for as long as the block runs; all at once, so that names may be
    swapped.
    """
    waiting = [(old.with_name(f"{old.name}-waiting"), old, new) for old, new in pairs]
    for wait, old, _ in waiting:
        old.rename(wait)
    for wait, _, new in waiting:
        wait.rename(new)
    try:
        yield
    finally:
        for wait, _, new in waiting:
            new.rename(wait)
        for wait, old, _ in waiting:
            wait.rename(old)


@contextmanager
def changed(path: Path, change: Callable[[bytes], bytes]) -> Iterator[bytes]:
    """The file with other content, in place, for as long as the block runs."""
    before = path.read_bytes()
    mode = path.stat().st_mode
    path.chmod(0o600)
    try:
        path.write_bytes(change(before))
        yield before
    finally:
        path.write_bytes(before)
        path.chmod(mode)


def flipped(data: bytes, bit: int) -> bytes:
    """The data with one bit turned over."""
    other = bytearray(data)
    other[bit // 8] ^= 1 << bit % 8
    return bytes(other)


def truncated(data: bytes, length: int) -> bytes:
    """The first bytes of the data."""
    return data[:length]


def segment_of(path: Path) -> SegmentId:
    """The segment that a file is, by its name."""
    return SegmentId(bytes.fromhex(path.name.removesuffix(".open")))
