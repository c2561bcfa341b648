"""A sealer: packs new chunks into frames, compresses and seals them; the parallel half of writing.

Every stream has its own. The opposite, `open_frame`, is here as well, so that the two sides
of a frame stand next to each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import zstandard

from repo.errors import Damaged
from repo.format import limits
from repo.format.frame import (
    CHUNK_ROW,
    HEAD_SEALED_BYTES,
    SEAL_BYTES,
    Codec,
    FrameChunk,
    FrameHead,
    Record,
    body_record,
    head_record,
    parse_chunk_table,
)
from repo.format.segment import CHUNK_ROW as FOOTER_CHUNK_ROW
from repo.keys import ContainerKey
from repo.types import CHUNK_KEY_BYTES, KIB, SegmentId

RAW_ABOVE = 0.98
"""A frame is stored raw when compression leaves more than this part of it."""

Chunk = tuple[bytes, bytes | memoryview]
"""(chunk id, plaintext)"""


class Ticket(NamedTuple):
    """The right to seal one frame: a segment, the salt of its key and the frame's number."""

    segment_id: SegmentId
    salt: bytes
    number: int


class SealedFrame(NamedTuple):
    """A frame ready to be appended: its number, its sizes and its chunks as the footer lists them.

    `chunks` is packed rows (chunk key, length); `sealed_bytes` is its length on disk.
    """

    number: int
    sealed_bytes: int
    plain_bytes: int
    chunks: bytes

    @property
    def chunk_count(self) -> int:
        """How many chunks it holds."""
        return len(self.chunks) // FOOTER_CHUNK_ROW.size


def frame_bytes_max(frame_bytes: int, chunk_bytes_max: int) -> int:
    """The most that a frame can take on disk: what a slot must hold.

    A frame is closed as soon as content and table reach `frame_bytes`, so that its last
    chunk may go beyond by `chunk_bytes_max`.
    """
    return frame_bytes + chunk_bytes_max + CHUNK_ROW.size + HEAD_SEALED_BYTES + SEAL_BYTES + 4 * KIB


def weight(length: int) -> int:
    """What a chunk of `length` bytes counts towards a frame's target: content and table row."""
    return length + CHUNK_ROW.size


class Sealer:
    """Compresses and seals frames of one stream."""

    def __init__(self, *, level: int | None) -> None:
        """`level` is zstd's; None stores everything raw."""
        self._compressors: dict[int, zstandard.ZstdCompressor] = {}
        self.level = level

    def seal(
        self, key: ContainerKey, number: int, chunks: Sequence[Chunk], out: memoryview
    ) -> SealedFrame:
        """Write frame `number` of `key`'s segment into `out`; returns what was written.

        `out` must hold `frame_bytes_max`. The number must never have been used with this key.
        """
        table = b"".join([CHUNK_ROW.pack(chunk_id, len(data)) for chunk_id, data in chunks])
        plain = b"".join([data for _, data in chunks]) if len(chunks) > 1 else chunks[0][1]
        codec, payload = self._compress(plain)
        head = FrameHead(number, len(chunks), len(plain), len(table) + len(payload), codec)
        end = key.seal_into(head_record(number), Record.FRAME_HEAD, head.pack(), out)
        body = b"".join((table, payload))
        end += key.seal_into(body_record(number), Record.FRAME_BODY, body, out[end:])
        rows = b"".join(
            [
                FOOTER_CHUNK_ROW.pack(chunk_id[:CHUNK_KEY_BYTES], len(data))
                for chunk_id, data in chunks
            ]
        )
        return SealedFrame(number, end, len(plain), rows)

    def _compress(self, plain: bytes | memoryview) -> tuple[Codec, bytes | memoryview]:
        if self.level is None or not plain:
            return Codec.RAW, plain
        compressor = self._compressors.get(self.level)
        if compressor is None:
            compressor = zstandard.ZstdCompressor(level=self.level, write_content_size=True)
            self._compressors[self.level] = compressor
        packed = compressor.compress(plain)
        if len(packed) > RAW_ABOVE * len(plain):
            return Codec.RAW, plain
        return Codec.ZSTD, packed


class Frame(NamedTuple):
    """An opened frame: its chunks by id, and the plain content that they lie in."""

    number: int
    chunks: dict[bytes, FrameChunk]
    content: memoryview

    def chunk(self, chunk_id: bytes) -> memoryview | None:
        """The chunk's plaintext, or None when this frame does not hold it."""
        row = self.chunks.get(chunk_id)
        return None if row is None else self.content[row.offset : row.offset + row.length]


def open_head(
    key: ContainerKey, number: int, sealed: bytes | memoryview, *, where: str
) -> FrameHead:
    """Unseal and parse a frame's head. Raises Damaged."""
    data = key.open(head_record(number), Record.FRAME_HEAD, sealed[:HEAD_SEALED_BYTES])
    head = FrameHead.parse(data, where=where)
    if head.number != number:
        raise Damaged("a frame has another's number", where=where, next_step="run `repo verify`")
    return head


def open_frame(key: ContainerKey, number: int, sealed: bytes | memoryview, *, where: str) -> Frame:
    """Unseal, check and decompress a whole frame. Raises Damaged: wholly good or not at all."""
    head = open_head(key, number, sealed, where=where)
    if len(sealed) != head.sealed_bytes:
        raise Damaged("a frame's length is wrong", where=where, next_step="run `repo verify`")
    body = key.open(body_record(number), Record.FRAME_BODY, sealed[HEAD_SEALED_BYTES:])
    rows = parse_chunk_table(head, body, where=where)
    payload = memoryview(body)[len(rows) * CHUNK_ROW.size :]
    content = _decompress(head, payload, where)
    return Frame(number, {row.id: row for row in rows}, memoryview(content))


def _decompress(head: FrameHead, payload: memoryview, where: str) -> bytes | memoryview:
    if head.codec == Codec.RAW:
        content: bytes | memoryview = payload
    else:
        content = _zstd_content(head, payload, where)
    if len(content) != head.plain_bytes:
        raise Damaged(
            "a frame's content has the wrong length", where=where, next_step="run `repo verify`"
        )
    return content


def _zstd_content(head: FrameHead, payload: memoryview, where: str) -> bytes:
    # zstandard ignores max_output_size when the stream states its size: compare that first.
    try:
        stated = zstandard.get_frame_parameters(payload).content_size
        limits.check("stated content size", stated, limits.FRAME_PLAIN_MAX, where=where)
        if stated != head.plain_bytes:
            raise Damaged("a frame states another size", where=where, next_step="run `repo verify`")
        return zstandard.ZstdDecompressor().decompress(payload)
    except zstandard.ZstdError as error:
        raise Damaged(
            f"a frame does not decompress: {error}", where=where, next_step="run `repo verify`"
        ) from error
