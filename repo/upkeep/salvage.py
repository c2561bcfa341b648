"""A salvage: what still verifies of a damaged segment, found without its footer if need be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from repo.errors import Damaged, RepoError
from repo.format.segment import HEADER_BYTES
from repo.keys import ContainerKey, Keys
from repo.scanner import Read, head_at, next_head
from repo.sealer import Frame, open_frame
from repo.types import SegmentClass, SegmentId

_SALT: Final = slice(48, 80)
"""Where the salt lies in a segment's header (FORMAT.md, Segment header)."""

_CLASS: Final = 10


class Salvage:
    """Opens the good frames of one segment, whatever else of it is damaged but the salt."""

    def __init__(self, read: Read, size: int, keys: Keys, segment_id: SegmentId) -> None:
        """read: as for a scan. Raises Damaged or RepositoryFailed when there is no header."""
        self._read = read
        self._size = size
        self._keys = keys
        self._where = f"segment {segment_id.hex()}"
        data = read(0, HEADER_BYTES)
        if len(data) < HEADER_BYTES:
            raise Damaged("a segment is shorter than its header", where=self._where)
        self.segment_class = SegmentClass.DATA
        salt = data[_SALT]
        if data[_CLASS] in set(SegmentClass):
            self.segment_class = SegmentClass(data[_CLASS])
        # Frames are authenticated by themselves: of the header, the salt is all that is needed.
        self._key: ContainerKey = keys.container(salt, "segment", segment_id)
        self._key.check_commitment(self._key.commitment)

    def frames(self) -> Iterator[Frame]:
        """The frames that verify, in the order in which they lie, each number once.

        Chunks in it whose content is not that of their id are taken out.
        """
        seen: set[int] = set()
        at: int | None = HEADER_BYTES
        while at is not None and at < self._size:
            head = head_at(self._bytes, at, self._key)
            if head is None:
                at = next_head(self._bytes, at + 1, self._size, self._key)
                continue
            if head.number not in seen:
                with suppress(Damaged):
                    sealed = self._bytes(at, head.sealed_bytes)
                    frame = open_frame(self._key, head.number, sealed, where=self._where)
                    seen.add(head.number)
                    yield self._hashed(frame)
            at += head.sealed_bytes

    def _hashed(self, frame: Frame) -> Frame:
        chunks = {
            row.id: row
            for row in frame.chunks.values()
            if self._keys.chunk_id(frame.content[row.offset : row.offset + row.length]) == row.id
        }
        return frame._replace(chunks=chunks)

    def _bytes(self, offset: int, length: int) -> bytes:
        """What can be read there; nothing where the operating system fails."""
        try:
            return self._read(offset, length)
        except RepoError:
            return b""
