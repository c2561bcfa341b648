"""A chunk loader: gives the chunks of files that are written one after the other.

It is told in advance what will be wanted. Files that lay beside each other in the source lie in
the same frames, so a chunk is first sought in the frames at hand, without the index; when it is
not there, the frames wanted next are found from a sample of what follows and loaded together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from repo.errors import Damaged
from repo.format.place import Place
from repo.reader import FrameKey, Reader, missing_chunk
from repo.sealer import Frame
from repo.types import CHUNK_KEY_BYTES, ChunkId

FRAMES_AHEAD: Final = 8
"""Frames (about 1 MiB each) that are read and opened together."""

SMALL_FILES_STRIDE: Final = 8
"""Of small files, of which a frame holds dozens, one of every so many is looked up in advance."""

_SAMPLE: Final = 48
_DAMAGED_MAX: Final = 1024


class ChunkLoader:
    """Reads the chunks of files through a reader. For one thread."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._expected: Sequence[bytes] = ()
        self._stride = 1
        self._frame: Frame | None = None
        self._near: list[Frame] = []
        self._damaged: dict[FrameKey, Damaged] = {}

    @contextmanager
    def expecting(self, chunk_ids: Sequence[bytes], stride: int = 1) -> Iterator[None]:
        """Within the block these chunks are asked for, in this order as a rule."""
        before = self._expected, self._stride
        self._expected, self._stride = chunk_ids, stride
        try:
            yield
        finally:
            self._expected, self._stride = before

    def chunk(self, chunk_id: bytes, length: int) -> memoryview:
        """The content of a chunk, which must have that length. Raises Damaged."""
        frame = self._frame
        row = None if frame is None else frame.chunks.get(chunk_id)
        if frame is None or row is None:
            frame = self._frame_with(chunk_id)
            row = frame.chunks[chunk_id]
        if row.length != length:
            raise Damaged(
                f"a chunk has {row.length} bytes where a file has {length}",
                where=f"chunk {chunk_id.hex()[:16]}",
                next_step="run `repo verify`",
            )
        return frame.content[row.offset : row.offset + length]

    def _frame_with(self, chunk_id: bytes) -> Frame:
        """The frame that holds a chunk. Raises Damaged."""
        for frame in self._near:
            if chunk_id in frame.chunks:
                self._frame = frame
                return frame
        places = self._sample(chunk_id)
        place = places.get(chunk_id[:CHUNK_KEY_BYTES])
        if place is None:
            raise missing_chunk(ChunkId(chunk_id))
        wanted = list(dict.fromkeys([place[:2], *(other[:2] for other in places.values())]))
        self._load(wanted[:FRAMES_AHEAD])
        self._reader.chunk_at(ChunkId(chunk_id), place)  # raises, unless the index is right
        self._frame = self._reader.frame(*place[:2])
        return self._frame

    def _sample(self, chunk_id: bytes) -> dict[bytes, Place]:
        """The places of a chunk and of some that are wanted after it, in that order."""
        wanted: Sequence[bytes] = (chunk_id,)
        with suppress(ValueError):
            at = self._expected.index(chunk_id)
            wanted = self._expected[at : at + _SAMPLE * self._stride : self._stride]
        keys = [wanted_id[:CHUNK_KEY_BYTES] for wanted_id in wanted]
        found = self._reader.places.find_many(keys)
        return {key: found[key] for key in keys if key in found}

    def _load(self, frames: Sequence[FrameKey]) -> None:
        """Load frames. Raises Damaged for the first of them only."""
        if frames[0] in self._damaged:
            raise self._damaged[frames[0]].with_traceback(None)
        try:
            self._reader.load(frame for frame in frames if frame not in self._damaged)
        except Damaged:
            self._load_singly(frames)
            if frames[0] in self._damaged:
                raise self._damaged[frames[0]].with_traceback(None) from None
        held = [self._reader.frame_cached(*frame) for frame in frames]
        self._near = [frame for frame in held if frame is not None]

    def _load_singly(self, frames: Sequence[FrameKey]) -> None:
        for frame in frames:
            try:
                self._reader.frame(*frame)
            except Damaged as damage:
                if len(self._damaged) >= _DAMAGED_MAX:
                    self._damaged.pop(next(iter(self._damaged)))
                self._damaged[frame] = damage
