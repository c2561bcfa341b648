"""A salvage: what still verifies of a damaged segment, found without its footer if need be."""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import Final

from repo.errors import Damaged, RepoError
from repo.format import limits
from repo.format.frame import HEAD_SEALED_BYTES
from repo.format.segment import HEADER_BYTES
from repo.keys import ContainerKey, Keys
from repo.scanner import Read
from repo.sealer import Frame, open_frame, open_head
from repo.types import MIB, SegmentClass, SegmentId

_RECORD: Final = Struct("<I")
_SALT: Final = slice(48, 80)
"""Where the salt lies in a segment's header (FORMAT.md, Segment header)."""

_CLASS: Final = 10
_WINDOW: Final = 4 * MIB


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
            length, frame = self._frame_at(at)
            if frame is not None and frame.number not in seen:
                seen.add(frame.number)
                yield self._hashed(frame)
            at = at + length if length else self._next_head(at + 1)

    def _hashed(self, frame: Frame) -> Frame:
        chunks = {
            row.id: row
            for row in frame.chunks.values()
            if self._keys.chunk_id(frame.content[row.offset : row.offset + row.length]) == row.id
        }
        return frame._replace(chunks=chunks)

    def _frame_at(self, offset: int) -> tuple[int, Frame | None]:
        """How long the frame there is, 0 when none begins there; and the frame, if it is good."""
        number = self._number(self._bytes(offset, HEAD_SEALED_BYTES))
        if number is None:
            return 0, None
        try:
            sealed_head = self._bytes(offset, HEAD_SEALED_BYTES)
            head = open_head(self._key, number, sealed_head, where=self._where)
        except Damaged:
            return 0, None
        sealed = self._bytes(offset, head.sealed_bytes)
        try:
            return head.sealed_bytes, open_frame(self._key, number, sealed, where=self._where)
        except Damaged:
            return head.sealed_bytes, None

    @staticmethod
    def _number(sealed_head: bytes) -> int | None:
        """The frame number that a sealed head begins with: that of its record, which is even."""
        if len(sealed_head) < HEAD_SEALED_BYTES:
            return None
        (record,) = _RECORD.unpack_from(sealed_head)
        number, odd = divmod(record, 2)
        return None if odd or number >= limits.FRAMES_PER_SEGMENT_MAX else int(number)

    def _next_head(self, offset: int) -> int | None:
        """The offset of the next head that opens, from `offset` on.

        The topmost byte of a record number is zero, as it is in one of 256 places by chance.
        """
        while offset < self._size:
            window = self._bytes(offset, _WINDOW + HEAD_SEALED_BYTES)
            if not window:
                offset += _WINDOW
                continue
            at = window.find(b"\0", 3)
            while at >= 0 and at - 3 < _WINDOW:
                head = window[at - 3 : at - 3 + HEAD_SEALED_BYTES]
                number = self._number(head)
                if number is not None and self._opens(number, head):
                    return offset + at - 3
                at = window.find(b"\0", at + 1)
            offset += _WINDOW
        return None

    def _opens(self, number: int, sealed_head: bytes) -> bool:
        try:
            open_head(self._key, number, sealed_head, where=self._where)
        except Damaged:
            return False
        return True

    def _bytes(self, offset: int, length: int) -> bytes:
        """What can be read there; nothing where the operating system fails."""
        try:
            return self._read(offset, length)
        except RepoError:
            return b""
