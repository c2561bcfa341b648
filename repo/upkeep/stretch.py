"""A stretch: neighbouring blocks of one segment, read with one read and checked at once.

Each block belongs to exactly one stretch, and so does each frame: to the one in which it begins.
Stretches stand alone, so that threads can share the work of one segment.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from operator import attrgetter
from typing import Final, NamedTuple, Self

from xxhash import xxh3_64_intdigest

from repo.errors import Damaged, RepositoryFailed
from repo.format.segment import BLOCK_BYTES, CHUNK_ROW, FooterFrame
from repo.keys import ContainerKey, Keys
from repo.sealer import Frame, open_frame
from repo.storage.fetcher import Fetcher
from repo.types import CHUNK_KEY_BYTES, MIB, SegmentId

STRETCH_BLOCKS: Final = 4 * MIB // BLOCK_BYTES


class Stretch(NamedTuple):
    """Bytes [start, end) of a segment; `end` is behind the last block or the last frame.

    own_bytes: of its blocks; what a last frame takes beyond is the next stretch's.
    checksums: of its blocks, () when the segment has none that can be trusted.
    frames: those that begin here, by offset; () without a key.
    """

    segment_id: SegmentId
    start: int
    end: int
    own_bytes: int
    checksums: Sequence[int]
    frames: Sequence[FooterFrame]


class BadFrame(NamedTuple):
    """A frame that did not verify, and why."""

    frame: FooterFrame
    what: str


class Checked(NamedTuple):
    """What came of a stretch. `bad_blocks`: offsets of blocks; `failure`: why it was not read."""

    bytes_read: int
    frames: int
    chunks: int
    bad_blocks: Sequence[int]
    bad_frames: Sequence[BadFrame]
    failure: RepositoryFailed | Damaged | None = None


def stretches(
    segment_id: SegmentId,
    content_bytes: int,
    checksums: Sequence[int],
    frames: Sequence[FooterFrame],
) -> Iterator[Stretch]:
    """The stretches of a segment whose header and frames take `content_bytes` bytes.

    frames: sorted by offset.
    """
    size = STRETCH_BLOCKS * BLOCK_BYTES
    for start in range(0, content_bytes, size):
        stop = min(start + size, content_bytes)
        first = bisect_left(frames, start, key=attrgetter("offset"))
        last = bisect_left(frames, stop, key=attrgetter("offset"))
        mine = frames[first:last]
        end = max(stop, mine[-1].offset + mine[-1].sealed_bytes) if mine else stop
        sums = checksums[start // BLOCK_BYTES :][:STRETCH_BLOCKS]
        if sums or mine:
            yield Stretch(segment_id, start, end, stop - start, sums, mine)


def check_blocks(fetcher: Fetcher, stretch: Stretch) -> Checked:
    """Check the blocks of a stretch against their checksums: needs no key.

    When the stretch cannot be read as a whole, each block is tried by itself.
    """
    try:
        data = fetcher.read(stretch.segment_id, stretch.start, stretch.own_bytes)
    except (RepositoryFailed, Damaged) as failure:
        if len(stretch.checksums) <= 1:
            return Checked(0, 0, 0, (stretch.start,), (), failure)
        parts = [check_blocks(fetcher, part) for part in _single_blocks(stretch)]
        bytes_read = sum(part.bytes_read for part in parts)
        bad = [offset for part in parts for offset in part.bad_blocks]
        return Checked(bytes_read, 0, 0, bad, (), failure)
    return Checked(len(data), 0, 0, _bad_blocks(stretch, memoryview(data)), ())


def _single_blocks(stretch: Stretch) -> Iterator[Stretch]:
    for position, checksum in enumerate(stretch.checksums):
        at = position * BLOCK_BYTES
        size = min(BLOCK_BYTES, stretch.own_bytes - at)
        start = stretch.start + at
        yield Stretch(stretch.segment_id, start, start + size, size, (checksum,), ())


def check_frames(fetcher: Fetcher, keys: Keys, key: ContainerKey, stretch: Stretch) -> Checked:
    """Check the blocks, and open every frame: authentic, whole, each chunk of its own id.

    When the stretch cannot be read as a whole, each frame is tried by itself.
    """
    try:
        data = memoryview(
            fetcher.read(stretch.segment_id, stretch.start, stretch.end - stretch.start)
        )
    except (RepositoryFailed, Damaged) as failure:
        return _check_one_by_one(fetcher, keys, key, stretch)._replace(failure=failure)
    bad: list[BadFrame] = []
    chunks = 0
    for frame in stretch.frames:
        at = frame.offset - stretch.start
        try:
            chunks += _check_frame(keys, key, frame, data[at : at + frame.sealed_bytes])
        except Damaged as damage:
            bad.append(BadFrame(frame, damage.what))
    blocks = _bad_blocks(stretch, data)
    return Checked(stretch.own_bytes, len(stretch.frames) - len(bad), chunks, blocks, bad)


def _check_one_by_one(fetcher: Fetcher, keys: Keys, key: ContainerKey, stretch: Stretch) -> Checked:
    bad: list[BadFrame] = []
    bytes_read = chunks = 0
    for frame in stretch.frames:
        try:
            data = fetcher.read(stretch.segment_id, frame.offset, frame.sealed_bytes)
            bytes_read += len(data)
            chunks += _check_frame(keys, key, frame, memoryview(data))
        except (RepositoryFailed, Damaged) as error:
            bad.append(BadFrame(frame, error.what))
    return Checked(bytes_read, len(stretch.frames) - len(bad), chunks, (), bad)


def _check_frame(keys: Keys, key: ContainerKey, listed: FooterFrame, sealed: memoryview) -> int:
    """Open one frame and hash its chunks; how many there are. Raises Damaged."""
    where = f"frame {listed.number}"
    frame = open_frame(key, listed.number, sealed, where=where)
    if listed.chunks and _rows(frame) != listed.chunks:
        raise Damaged("a frame holds other chunks than the footer lists", where=where)
    for row in frame.chunks.values():
        if keys.chunk_id(frame.content[row.offset : row.offset + row.length]) != row.id:
            raise Damaged(f"chunk {row.id.hex()[:16]} has other content than its id", where=where)
    return len(frame.chunks)


def _rows(frame: Frame) -> bytes:
    rows = frame.chunks.values()
    return b"".join([CHUNK_ROW.pack(row.id[:CHUNK_KEY_BYTES], row.length) for row in rows])


def _bad_blocks(stretch: Stretch, data: memoryview) -> list[int]:
    bad: list[int] = []
    for position, checksum in enumerate(stretch.checksums):
        at = position * BLOCK_BYTES
        end = min(at + BLOCK_BYTES, stretch.own_bytes)
        if xxh3_64_intdigest(data[at:end]) != checksum:
            bad.append(stretch.start + at)
    return bad


class Pool:
    """Threads that check stretches; results come back in order, on the thread that submits.

    What is under way is bounded, so that memory is: a stretch for each thread and one ahead.
    """

    def __init__(self, threads: int) -> None:
        self._under_way_max = 2 * threads
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="verify")
        self._under_way: deque[tuple[Future[Checked], Callable[[Checked], None]]] = deque()

    def submit(self, work: Callable[[], Checked], done: Callable[[Checked], None]) -> None:
        """Do `work` on some thread; `done` gets its result here, before or in `drain`."""
        while len(self._under_way) >= self._under_way_max:
            self._take()
        self._under_way.append((self._executor.submit(work), done))

    def drain(self) -> None:
        """Wait for everything that is under way."""
        while self._under_way:
            self._take()

    def _take(self) -> None:
        future, done = self._under_way.popleft()
        done(future.result())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._executor.shutdown(cancel_futures=True)
