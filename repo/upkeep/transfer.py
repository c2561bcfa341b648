"""A transfer: the content of files, from an origin's frames into frames of a target.

Chunks are read, checked against their id and hashed with the target's key by several threads; the
main thread asks which of them the target has, and packs the others; threads compress and seal. So
a target holds what was chosen in the order of the trees, however the origin had mixed it. What is
under way is bounded, and results are taken in order, so that equal runs write equal frames.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, NamedTuple, Self

from repo.errors import Damaged
from repo.format.node import Entry, Extent, parse_extent_page, parse_extents
from repo.keys import ContainerKey
from repo.reader import Reader
from repo.repository import Repository
from repo.sealer import Chunk, SealedFrame, Sealer, Ticket, frame_bytes_max, weight
from repo.storage.folder import Folder
from repo.types import CHUNK_KEY_BYTES, MIB, ChunkId, SegmentId
from repo.upkeep.branches import UNREADABLE, branches, read_node
from repo.upkeep.losses import reason
from repo.upkeep.translation import Translation
from repo.writer import Writer

BATCH_BYTES: Final = 2 * MIB
BATCH_CHUNKS: Final = 512
READ_CACHE_BYTES: Final = 64 * MIB


class Read(NamedTuple):
    """A chunk that was read: its ids here and there, and its content."""

    origin: ChunkId
    target: ChunkId
    data: bytes


class Sealed(NamedTuple):
    """A frame that waits to be appended."""

    frame: SealedFrame
    data: memoryview


class Figures:
    """What a transfer has done so far: bytes covered by its walk, and bytes read and new."""

    def __init__(self) -> None:
        self.covered = 0
        self.read = 0
        self.new = 0


class Transfer:
    """Brings the content of files into a target. A context manager: ends its threads."""

    def __init__(
        self,
        origin: Repository,
        target: Repository,
        writer: Writer,
        translation: Translation,
        *,
        streams: int,
        level: int | None,
        on_step: Callable[[], None],
    ) -> None:
        """level: of compression; None stores raw. on_step: called again and again."""
        self._folder: Folder = origin.folder
        self._reader: Reader = origin.new_reader(cache_bytes=READ_CACHE_BYTES)
        self._origin_keys = origin.keys
        self._keys = target.keys
        self._same_ids = origin.keys.id_key.reveal() == target.keys.id_key.reveal()
        self._places = target.places
        self._frame_bytes = target.header.frame_bytes
        self._writer = writer
        self._translation = translation
        self._level = level
        self._on_step = on_step
        self._mine = threading.local()
        self._under_way_max = 2 * streams
        self._pool = ThreadPoolExecutor(streams, thread_name_prefix="copy")
        self._reads: deque[Future[list[Read]]] = deque()
        self._seals: deque[tuple[Ticket, Future[Sealed]]] = deque()
        self._wanted: list[ChunkId] = []
        self._wanted_bytes = 0
        self._pending: list[Chunk] = []
        self._pending_weight = 0
        self._stored: set[bytes] = set()  # keys that no checkpoint covers yet
        self._segment_keys: dict[SegmentId, ContainerKey] = {}
        self.figures = Figures()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        for ticket, _ in self._seals:  # after a failure: numbers that come to nothing
            self._writer.burn(ticket.segment_id, 1)

    # The walk

    def tree(self, root: Entry) -> None:
        """Transfer what a tree relies on and the target has not. What cannot be read is left out.

        Raises RepositoryFailed for the target.
        """
        way = [self._directory(root.node)]
        while way:
            below = next(way[-1], None)
            if below is None:
                way.pop()
            elif self._translation.get(below.node) is not None:
                self.figures.covered += below.bytes_below
            elif self._translation.visit(below.node):
                way.append(self._directory(below.node))
        self.drain()

    def file(self, entry: Entry) -> None:
        """Ask for the chunks of one file."""
        extents = parse_extents(entry.extents)
        for chunk_id, length in self._chunks(extents, entry.extent_level):
            if self._translation.ask(chunk_id):
                self._want(chunk_id, length)

    def _directory(self, node_id: bytes) -> Iterator[Entry]:
        """Ask for the files of a directory; its sub-directories, to be entered one by one."""
        if self._translation.get(node_id) is not None:
            return
        try:
            node = read_node(self._reader, node_id)
        except UNREADABLE as failure:
            reason(failure, self._folder)  # the rewriter tells it
            return
        for run in (node.listed, node.joined):
            for branch in branches(self._reader, run):
                for entry in branch.entries:
                    if entry.node:
                        yield entry
                    elif entry.extents:
                        self.file(entry)
                        self.figures.covered += entry.size

    def _chunks(self, extents: Iterable[Extent], level: int) -> Iterator[Extent]:
        for extent in extents:
            if extent.is_hole:
                continue
            if level == 0:
                yield extent
            elif self._translation.get(extent.id) is None and self._translation.visit(extent.id):
                yield from self._chunks(self._page(extent, level - 1), level - 1)

    def _page(self, page: Extent, level: int) -> list[Extent]:
        try:
            data = self._reader.chunk(page.id)
            return parse_extent_page(data, level, where=f"page {page.id.hex()[:16]}")
        except UNREADABLE as failure:
            reason(failure, self._folder)
            return []

    # Reading

    def _want(self, chunk_id: ChunkId, length: int) -> None:
        self._wanted.append(chunk_id)
        self._wanted_bytes += length
        if self._wanted_bytes >= BATCH_BYTES or len(self._wanted) >= BATCH_CHUNKS:
            self._ask()

    def _ask(self) -> None:
        """Hand what is wanted to a thread, unless the target has it."""
        wanted, self._wanted, self._wanted_bytes = self._wanted, [], 0
        if self._same_ids:
            held = self._places.known([chunk_id[:CHUNK_KEY_BYTES] for chunk_id in wanted])
            for chunk_id in wanted:
                if chunk_id[:CHUNK_KEY_BYTES] in held:
                    self._translation.put(chunk_id, chunk_id)
            wanted = [chunk_id for chunk_id in wanted if chunk_id[:CHUNK_KEY_BYTES] not in held]
        while len(self._reads) >= self._under_way_max:
            self._take_read()
        if wanted:
            self._reads.append(self._pool.submit(self._read, wanted))
        self._on_step()

    def _read(self, wanted: list[ChunkId]) -> list[Read]:
        """On a thread: the chunks that can be read, frame by frame, in the order asked for."""
        found: dict[ChunkId, Read] = {}
        places = self._reader.places.find_many([chunk_id[:CHUNK_KEY_BYTES] for chunk_id in wanted])
        known = [chunk_id for chunk_id in wanted if chunk_id[:CHUNK_KEY_BYTES] in places]
        known.sort(key=lambda chunk_id: places[chunk_id[:CHUNK_KEY_BYTES]])
        for chunk_id in known:
            try:
                view = self._reader.chunk_at(chunk_id, places[chunk_id[:CHUNK_KEY_BYTES]])
                if self._origin_keys.chunk_id(view) != chunk_id:
                    raise Damaged("a chunk has other content than its id")
            except UNREADABLE as failure:
                reason(failure, self._folder)
                continue
            # A copy: a view would keep a whole frame in memory for a small file.
            data = bytes(view)
            found[chunk_id] = Read(chunk_id, self._keys.chunk_id(data), data)
        return [found[chunk_id] for chunk_id in wanted if chunk_id in found]

    def _take_read(self) -> None:
        """Take the oldest answer, and pack what the target has not."""
        chunks = self._reads.popleft().result()
        held = self._places.known({chunk.target[:CHUNK_KEY_BYTES] for chunk in chunks})
        for chunk in chunks:
            self._translation.put(chunk.origin, chunk.target)
            self.figures.read += len(chunk.data)
            key = chunk.target[:CHUNK_KEY_BYTES]
            if key in held or key in self._stored:
                continue
            self._stored.add(key)
            self.figures.new += len(chunk.data)
            self._pending.append((chunk.target, chunk.data))
            self._pending_weight += weight(len(chunk.data))
            if self._pending_weight >= self._frame_bytes:
                self._seal()

    # Writing

    def _seal(self) -> None:
        if not self._pending:
            return
        chunks, self._pending, self._pending_weight = self._pending, [], 0
        while len(self._seals) >= self._under_way_max:
            self._append()
        if self._writer.commit_due():
            self.checkpoint()
        (ticket,) = self._writer.tickets(1)
        key = self._segment_keys.get(ticket.segment_id)
        if key is None:
            key = self._keys.container(ticket.salt, "segment", ticket.segment_id)
            self._segment_keys = {ticket.segment_id: key}  # the one before takes no more
        self._seals.append((ticket, self._pool.submit(self._sealed, key, ticket, chunks)))

    def _sealed(self, key: ContainerKey, ticket: Ticket, chunks: list[Chunk]) -> Sealed:
        """On a thread: one frame."""
        sealer: Sealer | None = getattr(self._mine, "sealer", None)
        if sealer is None:
            sealer = self._mine.sealer = Sealer(level=self._level)
        total = sum(weight(len(data)) for _, data in chunks)
        out = memoryview(bytearray(frame_bytes_max(total, 0)))
        return Sealed(sealer.seal(key, ticket.number, chunks, out), out)

    def _append(self) -> None:
        ticket, future = self._seals[0]
        sealed = future.result()
        self._seals.popleft()
        self._writer.append(ticket.segment_id, sealed.frame, sealed.data)
        self._on_step()

    def checkpoint(self) -> None:
        """Make what was appended durable and put it into the index. Raises RepositoryFailed."""
        self._append_all()
        self._writer.commit()
        self._stored = {chunk_id[:CHUNK_KEY_BYTES] for chunk_id, _ in self._pending}

    def drain(self) -> None:
        """Wait until everything that was asked for is read, sealed and appended."""
        self._ask()
        while self._reads:
            self._take_read()
        self._seal()
        self._append_all()

    def _append_all(self) -> None:
        while self._seals:
            self._append()
