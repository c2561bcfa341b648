"""A re-layout: the chunks of chosen points, rewritten in restore order into segments of their own.

With every generation the chunks of the newest point lie in more places, each frame holding less
of it. Here they are read in windows, as a restore wants them, packed anew and given new places
in the index. Old places stay valid for whoever has them: garbage collection removes the segments
in which nothing counts any more. A window whose frames hold little else is left as it is, so that
a re-layout that was stopped goes on where it was, and one of a fresh repository does nothing.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from typing import Final, NamedTuple

from repo.errors import Damaged, Interrupted
from repo.format.frame import TABLE_ROW
from repo.format.node import Entry
from repo.format.place import Place, pack_place
from repo.format.segment import CHUNK_ROW
from repo.index.places import NoSuchSegment
from repo.index.scratch import Scratch
from repo.keys import ContainerKey
from repo.reader import FrameKey, Reader, missing_chunk
from repo.repository import Repository
from repo.sealer import Chunk, SealedFrame, Sealer, frame_bytes_max, weight
from repo.tree import Tree
from repo.types import CHUNK_KEY_BYTES, MIB, ChunkId, SegmentClass, SegmentId
from repo.upkeep.restoreorder import Wanted, restore_order
from repo.writer import Writer

WINDOW_BYTES: Final = 48 * MIB
"""Chunks that are in memory at a time."""

LOOKED_UP: Final = 4096
"""Chunks whose places are looked up together."""

FRAMES_AT_ONCE: Final = 4
"""Frames that one thread reads and opens together."""

GOOD_SHARE: Final = 0.7
"""A window stays as it is when so much of the frames that it lies in is its own."""

SLACK_BYTES: Final = 2 * MIB
"""The first and the last frame of a window hold chunks of its neighbours."""

MOVED_AT_ONCE: Final = 16_384
LEVEL: Final = 3


class RelayoutProgress(NamedTuple):
    """Bytes of chunks looked at, and of those rewritten; of how many about."""

    bytes_seen: int
    bytes_rewritten: int
    bytes_expected: int


class RelayoutFigures(NamedTuple):
    """What was found and done, in bytes of plain chunks.

    `frames` and `frames_bytes`: what had to be opened to read `bytes` of chunks in restore order,
    window by window. `chunks_rewritten` and `bytes_rewritten`: what got new places; with a
    rehearsal what would. `chunks_lost`: what marked points lack, as far as it was met.
    """

    bytes: int = 0
    frames: int = 0
    frames_bytes: int = 0
    chunks_rewritten: int = 0
    bytes_rewritten: int = 0
    chunks_lost: int = 0


class _Placed(NamedTuple):
    """A chunk of a window and where it lies."""

    chunk_id: ChunkId
    place: Place
    segment_class: SegmentClass


class _Appended(NamedTuple):
    """A frame that was appended, whose chunks are to get their new places."""

    segment_id: SegmentId
    frame: SealedFrame


class Relayout:
    """Rewrites chunks of one repository through a writer. For one thread; it has others."""

    def __init__(
        self,
        repository: Repository,
        writer: Writer | None,
        *,
        streams: int,
        on_progress: Callable[[RelayoutProgress], None] = lambda _state: None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        """A writer of None: nothing is rewritten, only counted. stopped: asked at each window."""
        self._repository = repository
        self._writer = writer
        self._streams = streams
        self._on_progress = on_progress
        self._stopped = stopped
        self._reader: Reader = repository.new_reader()
        self._tree = Tree(self._reader)
        self._places = repository.places
        self._appended: list[_Appended] = []
        self._local = threading.local()
        self._expected = 0
        self._marked = False
        self.figures = RelayoutFigures()

    def run(self, roots: Sequence[Entry], *, marked: bool = False) -> None:
        """Lay out the chunks of trees, one after the other. All is durable and has its new places
        afterwards, also when it was stopped, which raises Interrupted. Raises Damaged when a
        chunk cannot be read: those before the last checkpoint have theirs.

        marked: the trees are known to lack content: what is not there is counted and left out.
        """
        self._marked = marked
        self._expected = sum({root.node: root.bytes_below for root in roots}.values())
        scratch = Scratch.make(self._repository.index_path.parent)
        with closing(scratch), ThreadPoolExecutor(self._streams) as pool:
            for window in self._windows(roots, scratch):
                if self._stopped():
                    break
                self._lay_out(window, pool)
            self._move(close=True)
        if self._stopped():
            raise Interrupted(
                "interrupted", next_step="run the same command again: what lies well stays"
            )

    # Windows

    def _windows(self, roots: Iterable[Entry], seen: Scratch) -> Iterator[list[_Placed]]:
        """The chunks of trees, each once, in portions of about WINDOW_BYTES."""
        window: list[_Placed] = []
        size = 0
        for placed in self._placed(self._once(roots, seen)):
            window.append(placed)
            size += placed.place.length
            if size >= WINDOW_BYTES:
                yield window
                window, size = [], 0
        if window:
            yield window

    def _once(self, roots: Iterable[Entry], seen: Scratch) -> Iterator[Wanted]:
        nodes: set[bytes] = set()  # roots that are the same tree
        for root in roots:
            if root.node in nodes:
                continue
            nodes.add(root.node)
            for wanted in restore_order(self._tree, root, self._there):
                key = wanted.chunk_id[:CHUNK_KEY_BYTES]
                if key not in seen:
                    seen.add(key)
                    yield wanted

    def _there(self, chunk_id: bytes) -> bool:
        """Whether a node or page is there; only asked of points that are known to lack some."""
        key = chunk_id[:CHUNK_KEY_BYTES]
        if not self._marked or self._reader.find_many((key,)):
            return True
        self._lost()
        return False

    def _lost(self) -> None:
        self.figures = self.figures._replace(chunks_lost=self.figures.chunks_lost + 1)

    def _placed(self, chunks: Iterable[Wanted]) -> Iterator[_Placed]:
        batch: list[Wanted] = []
        for wanted in chunks:
            batch.append(wanted)
            if len(batch) == LOOKED_UP:
                yield from self._look_up(batch)
                batch = []
        yield from self._look_up(batch)

    def _look_up(self, batch: Sequence[Wanted]) -> Iterator[_Placed]:
        found = self._places.find_many([one.chunk_id[:CHUNK_KEY_BYTES] for one in batch])
        for chunk_id, segment_class in batch:
            place = found.get(chunk_id[:CHUNK_KEY_BYTES])
            if place is not None:
                yield _Placed(chunk_id, place, segment_class)
            elif self._marked:
                self._lost()
            else:
                raise missing_chunk(chunk_id)

    # Rewriting

    def _lay_out(self, window: Sequence[_Placed], pool: ThreadPoolExecutor) -> None:
        """Rewrite a window, unless it lies well."""
        size = sum(placed.place.length for placed in window)
        frames = _frames(window)
        try:
            opened = sum(map(self._plain_bytes, frames))
        except NoSuchSegment:  # a repair has moved what lay there since it was looked up
            again = [Wanted(placed.chunk_id, placed.segment_class) for placed in window]
            window = list(self._look_up(again))
            frames = _frames(window)
            opened = sum(map(self._plain_bytes, frames))
        done = self.figures
        self.figures = done._replace(
            bytes=done.bytes + size,
            frames=done.frames + len(frames),
            frames_bytes=done.frames_bytes + opened,
        )
        if size < GOOD_SHARE * opened - SLACK_BYTES:
            self._rewrite(window, frames, size, pool)
        figures = self.figures
        self._on_progress(RelayoutProgress(figures.bytes, figures.bytes_rewritten, self._expected))

    def _plain_bytes(self, frame: FrameKey) -> int:
        start, end = frame[1] * TABLE_ROW.size, (frame[1] + 1) * TABLE_ROW.size
        row = self._places.segment(frame[0])
        if len(row.frames) < end:  # of a segment that is still written, we may know an older table
            row = self._places.segment(frame[0], fresh=True)
        if len(row.frames) < end:
            raise Damaged(
                "the index has no such frame",
                where=f"segment {row.segment_id.hex()}, frame {frame[1]}",
                next_step="run `repo rebuild-index`",
            )
        return int(TABLE_ROW.unpack_from(row.frames, start)[2])

    def _rewrite(
        self,
        window: Sequence[_Placed],
        frames: dict[FrameKey, list[ChunkId]],
        size: int,
        pool: ThreadPoolExecutor,
    ) -> None:
        done = self.figures
        self.figures = done._replace(
            chunks_rewritten=done.chunks_rewritten + len(window),
            bytes_rewritten=done.bytes_rewritten + size,
        )
        if self._writer is None:
            return
        contents = self._contents(frames, pool)
        frame_bytes = self._repository.header.class_frame_bytes
        sealing: deque[tuple[SegmentId, Future[tuple[SealedFrame, memoryview]]]] = deque()
        for segment_class in (SegmentClass.META, SegmentClass.DATA):
            chunks = (
                (bytes(placed.chunk_id), contents.pop(placed.chunk_id))
                for placed in window
                if placed.segment_class == segment_class
            )
            for portion in _portions(chunks, frame_bytes(segment_class)):
                (ticket,) = self._writer.tickets(1, segment_class)
                key = self._repository.keys.container(ticket.salt, "segment", ticket.segment_id)
                work = pool.submit(self._seal, key, ticket.number, portion)
                sealing.append((ticket.segment_id, work))
                if len(sealing) > 2 * self._streams:
                    self._append(*sealing.popleft())
        while sealing:
            self._append(*sealing.popleft())
        if self._writer.commit_due():
            self._move(close=False)

    def _append(
        self, segment_id: SegmentId, sealing: Future[tuple[SealedFrame, memoryview]]
    ) -> None:
        assert self._writer is not None
        frame, data = sealing.result()
        self._writer.append(segment_id, frame, data)
        self._appended.append(_Appended(segment_id, frame))

    def _contents(
        self, frames: dict[FrameKey, list[ChunkId]], pool: ThreadPoolExecutor
    ) -> dict[ChunkId, bytes]:
        """The chunks of a window, from frames that are read in the order in which they lie."""
        keys = sorted(frames)
        readings = [
            pool.submit(self._read, keys[at : at + FRAMES_AT_ONCE], frames)
            for at in range(0, len(keys), FRAMES_AT_ONCE)
        ]
        contents: dict[ChunkId, bytes] = {}
        for reading in readings:
            contents |= reading.result()
        return contents

    def _read(
        self, keys: Sequence[FrameKey], wanted: dict[FrameKey, list[ChunkId]]
    ) -> dict[ChunkId, bytes]:
        """Chunks from frames, copied out of them so that these can be let go. In a thread."""
        found: dict[ChunkId, bytes] = {}
        for key, frame in zip(keys, self._reader.open_frames(keys), strict=True):
            for chunk_id in wanted[key]:
                data = frame.chunk(chunk_id)
                if data is None:
                    raise missing_chunk(chunk_id)
                found[chunk_id] = bytes(data)
        return found

    def _seal(
        self, key: ContainerKey, number: int, chunks: Sequence[Chunk]
    ) -> tuple[SealedFrame, memoryview]:
        """Compress and seal a frame. In a thread, each of which has a compressor of its own."""
        sealer = getattr(self._local, "sealer", None)
        if sealer is None:
            sealer = self._local.sealer = Sealer(level=LEVEL)
        room = sum(weight(len(data)) for _, data in chunks)
        out = memoryview(bytearray(frame_bytes_max(room, 0)))
        return sealer.seal(key, number, chunks, out), out

    # New places

    def _move(self, *, close: bool) -> None:
        """Make what was appended durable, then give its chunks their new places.

        The lease keeps garbage collection from the new segments until that is done. A crash
        before leaves segments in which nothing counts.
        """
        if self._writer is None:
            return
        self._writer.commit(close=close)
        rows: list[tuple[bytes, bytes]] = []
        for segment_id, frame in self._appended:
            number = self._places.by_id(segment_id)
            if number is None:
                continue  # an index made anew meanwhile: publishing will say so
            offset = 0
            for key, length in CHUNK_ROW.iter_unpack(frame.chunks):
                rows.append((key, pack_place(number, frame.number, offset, length)))
                offset += length
        self._appended.clear()
        rows.sort()
        for at in range(0, len(rows), MOVED_AT_ONCE):
            part = rows[at : at + MOVED_AT_ONCE]
            self._repository.environment.write(partial(self._places.move_places, rows=part))


def _frames(window: Iterable[_Placed]) -> dict[FrameKey, list[ChunkId]]:
    """The chunks of a window by the frames that they lie in."""
    frames: dict[FrameKey, list[ChunkId]] = {}
    for placed in window:
        frames.setdefault(placed.place[:2], []).append(placed.chunk_id)
    return frames


def _portions(chunks: Iterable[Chunk], frame_bytes: int) -> Iterator[list[Chunk]]:
    """Chunks as frames take them: closed as soon as content and table reach `frame_bytes`."""
    portion: list[Chunk] = []
    room = 0
    for chunk in chunks:
        portion.append(chunk)
        room += weight(len(chunk[1]))
        if room >= frame_bytes:
            yield portion
            portion, room = [], 0
    if portion:
        yield portion
