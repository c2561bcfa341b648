"""A shelf: the chunk source of a mount; answers from the frames in memory, never waits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Final

from mount.cache import FrameCache
from mount.source import ChunkSource, FramesMissing, ReaderSource, WorkMissing
from repo.errors import Damaged
from repo.format.place import Place
from repo.kept import KEPT_SEGMENT
from repo.reader import FrameKey, Reader
from repo.sealer import Frame
from repo.types import ChunkId

PLACES_HELD: Final = 16_384
"""Places that are remembered (some 300 bytes each)."""

_NOTHING: Mapping[FrameKey, Frame] = MappingProxyType({})


class Shelf:
    """Chunks out of a frame cache; places out of the index, which is fast enough for the loop."""

    def __init__(self, reader: Reader, cache: FrameCache) -> None:
        self._reader = reader
        self._cache = cache
        self._handed: Mapping[FrameKey, Frame] = _NOTHING
        # Good as long as the mount lives: its lease keeps every segment in place, and one that a
        # repair sets aside can be read by whoever has its row.
        self._places: dict[ChunkId, Place] = {}

    @contextmanager
    def handed(self, frames: Mapping[FrameKey, Frame]) -> Iterator[None]:
        """Frames that were fetched for a request, so that it succeeds however small the cache is.

        No await inside: they are there for this request alone.
        """
        self._handed = frames
        try:
            yield
        finally:
            self._handed = _NOTHING

    def chunk(self, chunk_id: ChunkId) -> memoryview:
        """See ChunkSource."""
        return self.chunks_at([(chunk_id, self.places([chunk_id])[0])])[0]

    def places(self, chunk_ids: Sequence[ChunkId]) -> list[Place]:
        """See ChunkSource. Places that were asked for are remembered: many at once cost little."""
        known = self._places
        missing = [chunk_id for chunk_id in chunk_ids if chunk_id not in known]
        if missing:
            if len(known) > PLACES_HELD:
                known.clear()
                missing = list(chunk_ids)
            places = self._reader.places_of(missing)
            for place in {place.segment: place for place in places}.values():
                if place.segment != KEPT_SEGMENT:
                    self._reader.segment(place)
            known.update(zip(missing, places, strict=True))
        return [known[chunk_id] for chunk_id in chunk_ids]

    def chunks_at(self, wanted: Sequence[tuple[ChunkId, Place]]) -> list[memoryview]:
        """See ChunkSource."""
        chunks: list[memoryview] = []
        missing: dict[FrameKey, None] = {}
        for chunk_id, place in wanted:
            key = (place.segment, place.frame)
            # The cache first: it has to learn that what was fetched ahead is used.
            frame = self._cache.get(key) or self._handed.get(key)
            if frame is None:
                missing[key] = None
                continue
            chunk = frame.chunk(chunk_id)
            if chunk is None:
                raise Damaged(
                    "a frame does not hold the chunk that the index places there",
                    where=f"chunk {chunk_id.hex()[:16]}, {self._reader.describe(place)}",
                    next_step="run `repo rebuild-index`",
                )
            chunks.append(chunk)
        if missing:
            raise FramesMissing(tuple(missing))
        return chunks

    def work(self, work: Callable[[], None]) -> None:
        """See ChunkSource."""
        raise WorkMissing(work)

    def blocking(self) -> ChunkSource:
        """See ChunkSource."""
        return ReaderSource(self._reader)
