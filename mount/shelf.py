"""A shelf: the chunk source of a mount; answers from the frames in memory, never waits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType

from mount.cache import FrameCache
from mount.source import ChunkSource, FramesMissing, ReaderSource, WorkMissing
from repo.errors import Damaged
from repo.format.place import Place
from repo.reader import FrameKey, Reader
from repo.sealer import Frame
from repo.types import ChunkId

_NOTHING: Mapping[FrameKey, Frame] = MappingProxyType({})


class Shelf:
    """Chunks out of a frame cache; places out of the index, which is fast enough for the loop."""

    def __init__(self, reader: Reader, cache: FrameCache) -> None:
        self._reader = reader
        self._cache = cache
        self._handed: Mapping[FrameKey, Frame] = _NOTHING

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
        return self.chunks_at([(chunk_id, self._reader.place(chunk_id))])[0]

    def places(self, chunk_ids: Sequence[ChunkId]) -> list[Place]:
        """See ChunkSource."""
        return self._reader.places_of(chunk_ids)

    def chunks_at(self, wanted: Sequence[tuple[ChunkId, Place]]) -> list[memoryview]:
        """See ChunkSource."""
        chunks: list[memoryview] = []
        missing: dict[FrameKey, None] = {}
        for chunk_id, place in wanted:
            key = (place.segment, place.frame)
            frame = self._handed.get(key) or self._cache.get(key)
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
