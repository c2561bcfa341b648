"""A source of chunks: what the tree and the content of files are read from.

The vfs is synchronous and knows two sources: one that reads at once (restore, tests), and that
of a mount, which answers from memory and raises `Blocked` where it would have to wait. Whoever
called then has the work done elsewhere and calls again: every call begins anew and keeps no
state, so that a request is repeated as often as it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from repo.format.place import Place
from repo.reader import FrameKey, Reader
from repo.types import ChunkId


class Blocked(Exception):
    """An answer has to wait for something that must not be done on the loop."""


class FramesMissing(Blocked):
    """An answer needs frames that are not in memory."""

    def __init__(self, frames: Sequence[FrameKey]) -> None:
        super().__init__(frames)
        self.frames = frames


class WorkMissing(Blocked):
    """An answer needs `work` to be done, in a thread; it is safe to do it twice."""

    def __init__(self, work: Callable[[], None]) -> None:
        super().__init__(work)
        self.work = work


class ChunkSource(Protocol):
    """What the vfs needs of whoever holds the chunks. All raise Damaged; see `Blocked`."""

    def chunk(self, chunk_id: ChunkId) -> memoryview:
        """A chunk's plaintext."""
        ...

    def places(self, chunk_ids: Sequence[ChunkId]) -> list[Place]:
        """Where chunks lie."""
        ...

    def chunks_at(self, wanted: Sequence[tuple[ChunkId, Place]]) -> list[memoryview]:
        """The plaintexts of chunks whose places are known."""
        ...

    def work(self, work: Callable[[], None]) -> None:
        """Have something done that reads the repository at length. See `WorkMissing`."""
        ...

    def blocking(self) -> ChunkSource:
        """A source that reads at once, for such work."""
        ...


class ReaderSource:
    """The source that reads at once."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def chunk(self, chunk_id: ChunkId) -> memoryview:
        """See ChunkSource."""
        return self._reader.chunk(chunk_id)

    def places(self, chunk_ids: Sequence[ChunkId]) -> list[Place]:
        """See ChunkSource."""
        return self._reader.places_of(chunk_ids)

    def chunks_at(self, wanted: Sequence[tuple[ChunkId, Place]]) -> list[memoryview]:
        """See ChunkSource."""
        return [self._reader.chunk_at(chunk_id, place) for chunk_id, place in wanted]

    def work(self, work: Callable[[], None]) -> None:
        """See ChunkSource."""
        work()

    def blocking(self) -> ChunkSource:
        """See ChunkSource."""
        return self
