"""A frame: new chunks of one stream, compressed and sealed together.

On disk a frame is a sealed head of fixed size and a sealed body (FORMAT.md, Frame). The
body is a chunk table and one payload: the chunks' contents one after the other, as a zstd
stream or as they are. Every length lies inside the encryption.
"""

from __future__ import annotations

import enum
from struct import Struct
from typing import NamedTuple

from repo.errors import Damaged
from repo.format import limits

SEAL_BYTES = 28
"""What sealing adds to a record: a nonce of 12 bytes before it and a tag of 16 behind it."""

_HEAD = Struct("<IIIIB15x")
assert _HEAD.size == 32  # FORMAT.md, Frame head
HEAD_SEALED_BYTES = _HEAD.size + SEAL_BYTES

CHUNK_ROW = Struct("<32sI")
assert CHUNK_ROW.size == 36  # FORMAT.md, Frame body

TABLE_ROW = Struct("<QII")
assert TABLE_ROW.size == 16  # FORMAT.md, Frame table


class Record(enum.IntEnum):
    """What a sealed record is: bound into its authentication, so that none passes for another."""

    FRAME_HEAD = 1
    FRAME_BODY = 2
    FOOTER = 3
    MANIFEST = 4
    PIN = 5


class Codec(enum.IntEnum):
    """How a frame's payload is stored."""

    RAW = 0
    ZSTD = 1


class FrameHead(NamedTuple):
    """The lengths of a frame. `body_bytes` is the plain body: chunk table and payload."""

    number: int
    chunks: int
    plain_bytes: int
    body_bytes: int
    codec: int

    @property
    def sealed_bytes(self) -> int:
        """Bytes of the whole frame on disk."""
        return HEAD_SEALED_BYTES + self.body_bytes + SEAL_BYTES

    def pack(self) -> bytes:
        """The 32 plain bytes of the head."""
        return _HEAD.pack(*self)

    @classmethod
    def parse(cls, data: bytes, *, where: str) -> FrameHead:
        """The head in 32 bytes. Raises Damaged when a length is beyond its limit."""
        if len(data) != _HEAD.size:
            raise Damaged("a frame head has the wrong length", where=where, next_step=_NEXT)
        head = cls._make(_HEAD.unpack(data))
        limits.check("chunk count", head.chunks, limits.FRAME_CHUNKS_MAX, least=1, where=where)
        limits.check("plain length", head.plain_bytes, limits.FRAME_PLAIN_MAX, where=where)
        most = head.plain_bytes + head.chunks * CHUNK_ROW.size
        least = head.chunks * CHUNK_ROW.size
        limits.check("body length", head.body_bytes, most, least=least, where=where)
        limits.check("codec", head.codec, max(Codec), where=where)
        return head


_NEXT = "run `repo verify`"


def body_record(number: int) -> int:
    """The record number of a frame's body; its head has the one before."""
    return 2 * number + 1


def head_record(number: int) -> int:
    """The record number of a frame's head."""
    return 2 * number


def parse_chunk_table(head: FrameHead, body: bytes | memoryview, *, where: str) -> list[FrameChunk]:
    """The chunks of a frame: ids, offsets and lengths in its plain content.

    Raises Damaged when the lengths do not add up to the plain content.
    """
    if len(body) != head.body_bytes:
        raise Damaged("a frame body has the wrong length", where=where, next_step=_NEXT)
    rows: list[FrameChunk] = []
    offset = 0
    for chunk_id, length in CHUNK_ROW.iter_unpack(body[: head.chunks * CHUNK_ROW.size]):
        rows.append(FrameChunk(chunk_id, offset, length))
        offset += length
    if offset != head.plain_bytes:
        raise Damaged("a frame's chunk table does not add up", where=where, next_step=_NEXT)
    return rows


class FrameChunk(NamedTuple):
    """One chunk of a frame: `offset` and `length` are bytes of the plain content."""

    id: bytes
    offset: int
    length: int
