"""A reader: from chunk ids to plaintext, through index, segment files and frames.

Thread-safe. Opened frames are kept in a cache bounded in bytes; a frame that several
threads want at once is opened once.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence

from repo.errors import Damaged
from repo.format import limits
from repo.format.frame import TABLE_ROW
from repo.format.place import Place
from repo.format.segment import HEADER_BYTES, SegmentHeader
from repo.index.condemned import Condemned
from repo.index.places import NoSuchSegment, Places, SegmentRow
from repo.kept import KEPT_SEGMENT, Kept
from repo.keys import ContainerKey, Keys
from repo.sealer import Frame, open_frame
from repo.storage.fetcher import GAP_BYTES, RUN_BYTES_MAX, Fetcher, Request, join
from repo.types import CHUNK_KEY_BYTES, MIB, ChunkId, SegmentId

CACHE_BYTES = 64 * MIB
_NEXT = "run `repo verify`"

FrameKey = tuple[int, int]
"""(segment number, frame number)"""


class Reader:
    """Reads chunks of one repository."""

    def __init__(
        self,
        fetcher: Fetcher,
        keys: Keys,
        places: Places,
        *,
        cache_bytes: int = CACHE_BYTES,
        kept: Kept | None = None,
    ) -> None:
        self.places = places
        self._condemned = Condemned(places)
        self._fetcher = fetcher
        self._keys = keys
        self._cache = _FrameCache(cache_bytes)
        self._segment_keys: dict[SegmentId, ContainerKey] = {}
        self._lock = threading.Lock()
        self._opening: dict[FrameKey, threading.Event] = {}
        self._kept = Kept() if kept is None else kept

    def keep(self, data: bytes) -> ChunkId:
        """Take a node that is in no segment; it is read like one that is. Returns its id."""
        chunk_id = self._keys.chunk_id(data)
        self._kept.add(chunk_id, data)
        return chunk_id

    def chunk(self, chunk_id: ChunkId) -> memoryview:
        """A chunk's plaintext. Raises Damaged when it is missing or its frame does not verify."""
        return self.chunk_at(chunk_id, self.place(chunk_id))

    def chunks(self, chunk_ids: Sequence[ChunkId]) -> list[memoryview]:
        """The plaintext of several chunks, looked up together. Raises Damaged as `chunk` does."""
        places = self.places_of(chunk_ids)
        return [self.chunk_at(*pair) for pair in zip(chunk_ids, places, strict=True)]

    def place(self, chunk_id: ChunkId) -> Place:
        """Where a chunk lies. Raises Damaged when the index does not know it."""
        return self.places_of((chunk_id,))[0]

    def places_of(self, chunk_ids: Sequence[ChunkId]) -> list[Place]:
        """Where several chunks lie. Raises Damaged when one is missing."""
        found = self.find_many([chunk_id[:CHUNK_KEY_BYTES] for chunk_id in chunk_ids])
        places: list[Place] = []
        for chunk_id in chunk_ids:
            place = found.get(chunk_id[:CHUNK_KEY_BYTES]) or self._kept.place(chunk_id)
            if place is None:
                raise missing_chunk(chunk_id)
            places.append(place)
        return places

    def find_many(self, keys: Collection[bytes]) -> dict[bytes, Place]:
        """Where the bytes of chunks lie, those of condemned ones among them, as far as known.

        What is read may belong to a point that has been forgotten meanwhile.
        """
        found = self.places.find_many(keys)
        if len(found) < len(keys):
            lost = [key for key in keys if key not in found]
            if lost:
                found |= self._condemned.find_many(lost)
                found |= self.places.find_many([key for key in lost if key not in found])
        return found

    def chunk_at(self, chunk_id: ChunkId, place: Place) -> memoryview:
        """A chunk's plaintext from a place that is known already."""
        try:
            frame = self.frame(place.segment, place.frame)
        except NoSuchSegment:
            moved = self.place(chunk_id)
            if moved.segment == place.segment:
                raise
            place = moved
            frame = self.frame(place.segment, place.frame)
        data = frame.chunk(chunk_id)
        if data is None:
            raise Damaged(
                "a frame does not hold the chunk that the index places there",
                where=f"chunk {chunk_id.hex()[:16]}, {self.describe(place)}",
                next_step="run `repo rebuild-index`",
            )
        return data

    def describe(self, place: Place) -> str:
        """A place in words: the segment's id and the frame's number."""
        if place.segment == KEPT_SEGMENT:
            return "a directory of a delta point"
        return f"segment {self.segment(place).segment_id.hex()}, frame {place.frame}"

    def segment(self, place: Place) -> SegmentRow:
        """The index's row of the segment that a place names."""
        return self.places.segment(place.segment)

    def frame_cached(self, segment: int, frame: int) -> Frame | None:
        """A frame that is in the cache, without waiting."""
        return self._cache.get((segment, frame))

    def frame(self, segment: int, number: int) -> Frame:
        """An opened frame; opened once however many threads ask. Raises Damaged."""
        key = (segment, number)
        while True:
            with self._lock:
                frame = self._cache.get(key)
                if frame is not None:
                    return frame
                event = self._opening.get(key)
                if event is None:
                    event = self._opening[key] = threading.Event()
                    break
            event.wait()
        try:
            frame = self._open_frames([key])[0]
            with self._lock:
                self._cache.put(key, frame)
            return frame
        finally:
            with self._lock:
                del self._opening[key]
            event.set()

    def load(self, wanted: Iterable[FrameKey]) -> None:
        """Bring frames into the cache, neighbouring ones with one read. Raises Damaged."""
        with self._lock:
            keys = [key for key in dict.fromkeys(wanted) if self._cache.get(key) is None]
        keys.sort()
        for key, frame in zip(keys, self._open_frames(keys), strict=True):
            with self._lock:
                self._cache.put(key, frame)

    def open_frames(self, wanted: Sequence[FrameKey]) -> list[Frame]:
        """Frames read and opened now, neighbouring ones with one read, past this reader's cache.

        For whoever keeps frames himself. Raises Damaged when any of them does not verify.
        """
        return self._open_frames(wanted)

    def _open_frames(self, wanted: Sequence[FrameKey]) -> list[Frame]:
        stored = iter(self._open_stored([key for key in wanted if key[0] != KEPT_SEGMENT]))
        return [
            self._kept.frame(number) if segment == KEPT_SEGMENT else next(stored)
            for segment, number in wanted
        ]

    def _open_stored(self, wanted: Sequence[FrameKey]) -> list[Frame]:
        requests = [self._extent(*key) for key in wanted]
        sealed = self._read_views(requests)
        frames: list[Frame] = []
        for (_, number), (segment_id, _, _), data in zip(wanted, requests, sealed, strict=True):
            where = f"segment {segment_id.hex()}, frame {number}"
            frames.append(open_frame(self.segment_key(segment_id), number, data, where=where))
        return frames

    def _read_views(self, requests: Sequence[Request]) -> list[memoryview]:
        """What was asked for, as views of what was read together: nothing is copied."""
        views = [memoryview(b"")] * len(requests)
        for run in join(requests, gap=GAP_BYTES, most=RUN_BYTES_MAX):
            data = memoryview(self._fetcher.read(run.segment_id, run.offset, run.length))
            for position in run.requests:
                _, offset, length = requests[position]
                views[position] = data[offset - run.offset : offset - run.offset + length]
        return views

    def _extent(self, segment: int, number: int) -> tuple[SegmentId, int, int]:
        row = self.places.segment(segment)
        start = number * TABLE_ROW.size
        if start + TABLE_ROW.size > len(row.frames):
            row = self.places.segment(segment, fresh=True)
        where = f"segment {row.segment_id.hex()}, frame {number}"
        if start + TABLE_ROW.size > len(row.frames):
            raise Damaged(
                "the index has no such frame", where=where, next_step="run `repo rebuild-index`"
            )
        offset, length, _ = TABLE_ROW.unpack_from(row.frames, start)
        limits.check("frame length", length, limits.FRAME_PLAIN_MAX * 2, least=1, where=where)
        limits.check("frame offset", offset, 2 * limits.SEGMENT_BYTES_MAX, where=where)
        return row.segment_id, offset, length

    def segment_key(self, segment_id: SegmentId) -> ContainerKey:
        """The key of a segment, from its header. Raises Damaged when it is not ours."""
        key = self._segment_keys.get(segment_id)
        if key is None:
            where = f"segment {segment_id.hex()}"
            header = SegmentHeader.parse(
                self._fetcher.read(segment_id, 0, HEADER_BYTES), where=where
            )
            if header.segment_id != segment_id:
                raise Damaged("a segment has another's name", where=where, next_step=_NEXT)
            key = self._keys.container(header.salt, "segment", segment_id)
            key.check_commitment(header.commitment, where=where)
            self._segment_keys[segment_id] = key
        return key


def missing_chunk(chunk_id: ChunkId) -> Damaged:
    """The error for a chunk that nothing holds: never zeros in its place."""
    return Damaged(
        "a chunk is missing",
        where=f"chunk {chunk_id.hex()[:16]}",
        next_step="run `repo rebuild-index`, then `repo verify`",
    )


class _FrameCache:
    """The frames used last, up to so many bytes of content."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._frames: OrderedDict[FrameKey, Frame] = OrderedDict()

    def get(self, key: FrameKey) -> Frame | None:
        frame = self._frames.get(key)
        if frame is not None:
            self._frames.move_to_end(key)
        return frame

    def put(self, key: FrameKey, frame: Frame) -> None:
        if key in self._frames:
            return
        self._frames[key] = frame
        self._bytes += len(frame.content)
        while self._bytes > self._bytes_max and len(self._frames) > 1:
            _, old = self._frames.popitem(last=False)
            self._bytes -= len(old.content)
