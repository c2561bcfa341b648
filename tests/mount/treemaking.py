"""Help for tests of the vfs: trees made of nodes in a dictionary, without a repository."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from blake3 import blake3

from mount.source import ChunkSource, FramesMissing, WorkMissing
from repo.errors import Damaged
from repo.format.node import (
    EMPTY_RUN,
    EXTENT_ROW,
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
from repo.format.place import Place
from repo.types import ChunkId, Kind

Tree = Mapping[bytes, "Tree | bytes"]
"""Names of a directory: a directory, or the content of a file."""


class Store:
    """Chunks in memory; each is in a frame of its own. As a source it reads at once."""

    def __init__(self) -> None:
        self.chunks: dict[bytes, bytes] = {}
        self.order: list[bytes] = []
        self.reads = 0

    def put(self, data: bytes) -> ChunkId:
        """Keep a chunk."""
        chunk_id = blake3(data).digest()
        if chunk_id not in self.chunks:
            self.chunks[chunk_id] = data
            self.order.append(chunk_id)
        return ChunkId(chunk_id)

    def chunk(self, chunk_id: ChunkId) -> memoryview:
        self.reads += 1
        if chunk_id not in self.chunks:
            raise Damaged("a chunk is missing")
        return memoryview(self.chunks[chunk_id])

    def places(self, chunk_ids: Sequence[ChunkId]) -> list[Place]:
        return [Place(0, self.order.index(one), 0, len(self.chunks[one])) for one in chunk_ids]

    def chunks_at(self, wanted: Sequence[tuple[ChunkId, Place]]) -> list[memoryview]:
        return [self.chunk(chunk_id) for chunk_id, _ in wanted]

    def work(self, work: Callable[[], None]) -> None:
        work()

    def blocking(self) -> ChunkSource:
        return self


class Shelved(Store):
    """A source that has to be asked twice for everything, as a mount with a cold cache."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.chunks, self.order = store.chunks, store.order
        self.there: set[int] = set()

    def chunks_at(self, wanted: Sequence[tuple[ChunkId, Place]]) -> list[memoryview]:
        missing = [place.frame for _, place in wanted if place.frame not in self.there]
        if missing:
            raise FramesMissing([(0, frame) for frame in missing])
        return super().chunks_at(wanted)

    def chunk(self, chunk_id: ChunkId) -> memoryview:
        frame = self.order.index(chunk_id)
        if frame not in self.there:
            raise FramesMissing([(0, frame)])
        return super().chunk(chunk_id)

    def work(self, work: Callable[[], None]) -> None:
        raise WorkMissing(work)


def patiently(source: Shelved, ask: Callable[[], object]) -> object:
    """Ask until everything that was lacking is there."""
    while True:
        try:
            return ask()
        except FramesMissing as missing:
            source.there.update(frame for _, frame in missing.frames)
        except WorkMissing as missing:
            missing.work()


def file_entry(store: Store, name: bytes, content: bytes, **more: object) -> Entry:
    """A file whose content is cut into chunks of 7 bytes; zeros become holes."""
    parts = [content[at : at + 7] for at in range(0, len(content), 7)]
    rows = [(store.put(part) if any(part) else HOLE, len(part)) for part in parts]
    fields = {"size": len(content), "extents": pack_extents(rows), "nlink": 1, "inode": 1}
    return _entry(name, Kind.FILE, fields | more)


def large_entry(store: Store, name: bytes, content: bytes, *, fanout: int, levels: int) -> Entry:
    """A file whose extents lie in pages of `fanout` rows, `levels` deep."""
    entry = file_entry(store, name, content)
    rows = [(bytes(a), b) for a, b in EXTENT_ROW.iter_unpack(entry.extents)]
    for level in range(levels):
        rows = [
            (store.put(pack_extent_page(pack_extents(part), level)), sum(n for _, n in part))
            for part in (rows[at : at + fanout] for at in range(0, len(rows), fanout))
        ]
    fields = {"size": len(content), "extents": pack_extents(rows), "extent_level": levels}
    return _entry(name, Kind.FILE, fields | {"nlink": 1, "inode": 1})


def _entry(name: bytes, kind: Kind, fields: Mapping[str, object]) -> Entry:
    base = {"mode": 0o644, "uid": 0, "gid": 0, "mtime_ns": 1, "ctime_ns": 1, "btime_ns": 0}
    return Entry(name=name, kind=kind, **(base | dict(fields)))  # type: ignore[arg-type]


def directory_entry(
    store: Store, name: bytes, entries: Sequence[Entry], *, page: int = 4, volume: int = 0
) -> Entry:
    """A directory; runs of more than `page` entries are pages of so many."""
    ordered = sorted(entries, key=lambda entry: entry.name)
    joined = [entry for entry in ordered if entry.kind == Kind.DIRECTORY]
    listed = [entry for entry in ordered if entry.kind != Kind.DIRECTORY]
    totals = Totals(sum(1 + entry.entries_below for entry in ordered), 0)
    node = Node(_run(store, joined, page), _run(store, listed, page), totals)
    return _entry(
        name,
        Kind.DIRECTORY,
        {
            "node": store.put(node.pack()),
            "entries_below": totals.entries,
            "volume": volume,
            "nlink": 2,
            "inode": 1,
        },
    )


def _run(store: Store, entries: list[Entry], page: int) -> Run:
    if not entries:
        return EMPTY_RUN
    if len(entries) <= page:
        return Run(len(entries), pack_entries(entries))
    pages = []
    for at in range(0, len(entries), page):
        part = entries[at : at + page]
        page_id = store.put(pack_page(pack_entries(part), len(part)))
        below = sum(1 + entry.entries_below for entry in part)
        pages.append(PageRow(part[0].name, page_id, len(part), below, 0))
    return Run(len(entries), pages=tuple(pages))


def tree_entry(store: Store, tree: Tree, name: bytes = b"", *, page: int = 4) -> Entry:
    """A whole tree."""
    entries = [
        file_entry(store, below, content)
        if isinstance(content, bytes)
        else tree_entry(store, content, below, page=page)
        for below, content in tree.items()
    ]
    return directory_entry(store, name, entries, page=page)
