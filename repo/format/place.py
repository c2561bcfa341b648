"""A place: where a chunk lies: segment number, frame number, offset and length in the frame."""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from repo.errors import Damaged

_PLACE = Struct("<IIII")
PLACE_BYTES = _PLACE.size
assert PLACE_BYTES == 16  # FORMAT.md, Index value

pack_place = _PLACE.pack
"""The 16 bytes of (segment, frame, offset, length), for where hundreds of thousands are made."""


class Place(NamedTuple):
    """Where a chunk lies. `offset` and `length` are bytes of the frame's plain content."""

    segment: int
    frame: int
    offset: int
    length: int

    def pack(self) -> bytes:
        """The 16 bytes that the index holds."""
        return _PLACE.pack(*self)

    @classmethod
    def parse(cls, data: bytes) -> Place:
        """The place in 16 bytes of the index. Raises Damaged when they are not 16."""
        if len(data) != PLACE_BYTES:
            raise Damaged(
                "an index value has the wrong length", where="index", next_step="repo rebuild-index"
            )
        return cls._make(_PLACE.unpack(data))
