"""A segment: an append-only file of frames from many streams, closed by a footer.

The header opens the file, frames follow in the order in which they arrived, the footer
closes it (FORMAT.md, Segment). The footer has three parts: the sealed table of all frames
with their chunks, the plain xxh3-64 checksums of every 64 KiB block, and a trailer of fixed
size at the end of the file. Without a key one can thus check every block; without a footer
the frames can still be walked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from struct import Struct
from typing import NamedTuple

from blake3 import blake3
from xxhash import xxh3_64_intdigest

from repo.errors import Damaged
from repo.format import limits
from repo.format.frame import SEAL_BYTES
from repo.format.magic import FOOTER_MAGIC, FORMAT_VERSION, SEGMENT_MAGIC
from repo.types import RepositoryId, SegmentClass, SegmentId

BLOCK_BYTES = 64 * 1024
"""The unit of the keyless checksums."""

_HEADER = Struct("<8sHB5x16s16s32s32s8x")
_CHECKSUM = Struct("<Q")
HEADER_BYTES = _HEADER.size + _CHECKSUM.size
assert HEADER_BYTES == 128  # FORMAT.md, Segment header

_TRAILER = Struct("<8sQQI4x32s")
TRAILER_BYTES = _TRAILER.size + _CHECKSUM.size
assert TRAILER_BYTES == 72  # FORMAT.md, Segment trailer

_COUNT = Struct("<I")
_FRAME = Struct("<IIQII")
assert _FRAME.size == 24  # FORMAT.md, Footer table, frame row
CHUNK_ROW = Struct("<16sI")
assert CHUNK_ROW.size == 20  # FORMAT.md, Footer table, chunk row

TABLE_PADDING_BYTES = 16 * 1024
"""The footer table is padded with zeros to a multiple of this."""

KEYS_BYTES = 64
"""Salt and commitment at the start of the footer's sealed part."""

_NEXT = "run `repo verify`"


class SegmentHeader(NamedTuple):
    """The first 128 bytes of a segment: whose it is and how its key is derived."""

    segment_class: SegmentClass
    repository_id: RepositoryId
    segment_id: SegmentId
    salt: bytes
    commitment: bytes

    def pack(self) -> bytes:
        """The 128 bytes, checksum included."""
        head = _HEADER.pack(
            SEGMENT_MAGIC,
            FORMAT_VERSION,
            self.segment_class,
            self.repository_id,
            self.segment_id,
            self.salt,
            self.commitment,
        )
        return head + _CHECKSUM.pack(xxh3_64_intdigest(head))

    @classmethod
    def parse(cls, data: bytes, *, where: str) -> SegmentHeader:
        """The header in the first 128 bytes of a segment; Damaged when it is not one."""
        if len(data) < HEADER_BYTES:
            raise Damaged("a segment is shorter than its header", where=where, next_step=_NEXT)
        magic, version, segment_class, *rest = _HEADER.unpack_from(data)
        (checksum,) = _CHECKSUM.unpack_from(data, _HEADER.size)
        if magic != SEGMENT_MAGIC or checksum != xxh3_64_intdigest(data[: _HEADER.size]):
            raise Damaged("a segment header is damaged", where=where, next_step=_NEXT)
        if version != FORMAT_VERSION:
            raise Damaged(
                f"a segment has format {version}", where=where, next_step="use a newer repo"
            )
        if segment_class not in SegmentClass.__members__.values():
            raise Damaged("a segment has an unknown class", where=where, next_step=_NEXT)
        return cls(SegmentClass(segment_class), *rest)


class FooterFrame(NamedTuple):
    """One frame in a footer's table. `chunks` is packed: rows of CHUNK_ROW (key, length)."""

    number: int
    offset: int
    sealed_bytes: int
    plain_bytes: int
    chunks: bytes

    @property
    def chunk_count(self) -> int:
        """How many chunks it holds."""
        return len(self.chunks) // CHUNK_ROW.size

    def places(self) -> Iterator[tuple[bytes, int, int]]:
        """(chunk key, offset in the frame's plain content, length) of each chunk."""
        offset = 0
        for key, length in CHUNK_ROW.iter_unpack(self.chunks):
            yield key, offset, length
            offset += length


def pack_table(frames: Sequence[FooterFrame]) -> bytes:
    """The plain footer table, before it is sealed: padded, so that its length tells no count."""
    parts: list[bytes] = [_COUNT.pack(len(frames))]
    for frame in frames:
        count = len(frame.chunks) // CHUNK_ROW.size
        parts.append(
            _FRAME.pack(frame.number, count, frame.offset, frame.sealed_bytes, frame.plain_bytes)
        )
        parts.append(frame.chunks)
    table = b"".join(parts)
    return table + bytes(-len(table) % TABLE_PADDING_BYTES)


def parse_table(data: bytes, *, where: str) -> list[FooterFrame]:
    """The frames of a footer table. Raises Damaged when it does not parse to its last byte."""
    if len(data) < _COUNT.size:
        raise Damaged("a footer table is cut short", where=where, next_step=_NEXT)
    frames: list[FooterFrame] = []
    position = _COUNT.size
    for _ in range(_COUNT.unpack_from(data)[0]):
        frame, position = _parse_frame(data, position, where)
        frames.append(frame)
    if any(data[position:]) or len(data) - position >= TABLE_PADDING_BYTES:
        raise Damaged("a footer table is too long", where=where, next_step=_NEXT)
    return frames


def _parse_frame(data: bytes, position: int, where: str) -> tuple[FooterFrame, int]:
    """The frame row at a position, with its chunk rows, and where the next one begins."""
    start = position + _FRAME.size
    if start > len(data):
        raise Damaged("a footer table is cut short", where=where, next_step=_NEXT)
    number, count, offset, sealed, plain = _FRAME.unpack_from(data, position)
    limits.check("chunk count", count, limits.FRAME_CHUNKS_MAX, where=where)
    limits.check("frame number", number, limits.FRAMES_PER_SEGMENT_MAX, where=where)
    end = start + count * CHUNK_ROW.size
    if end > len(data):
        raise Damaged("a footer table is cut short", where=where, next_step=_NEXT)
    return FooterFrame(number, offset, sealed, plain, data[start:end]), end


class Trailer(NamedTuple):
    """The last 72 bytes of a closed segment: where the parts of its footer lie.

    `content_bytes`: header and frames, which the block checksums cover. `root`: BLAKE3-256
    over the segment header, the sealed part, the block checksums and the trailer before it.
    """

    content_bytes: int
    sealed_bytes: int
    blocks: int
    root: bytes

    @property
    def footer_bytes(self) -> int:
        """Bytes of the whole footer, trailer included."""
        return self.sealed_bytes + self.blocks * _CHECKSUM.size + TRAILER_BYTES

    def pack(self) -> bytes:
        """The 72 bytes, checksum included."""
        body = _TRAILER.pack(FOOTER_MAGIC, *self)
        return body + _CHECKSUM.pack(xxh3_64_intdigest(body))

    @classmethod
    def parse(cls, data: bytes, file_bytes: int, *, where: str) -> Trailer:
        """The trailer in the last 72 bytes of a file of `file_bytes` bytes; else Damaged."""
        if len(data) != TRAILER_BYTES:
            raise Damaged("a segment has no footer", where=where, next_step=_NEXT)
        magic, *fields = _TRAILER.unpack_from(data)
        (checksum,) = _CHECKSUM.unpack_from(data, _TRAILER.size)
        if magic != FOOTER_MAGIC or checksum != xxh3_64_intdigest(data[: _TRAILER.size]):
            raise Damaged("a segment footer is damaged", where=where, next_step=_NEXT)
        trailer = cls(*fields)
        limits.check("footer length", trailer.footer_bytes, limits.FOOTER_BYTES_MAX, where=where)
        blocks = -(-trailer.content_bytes // BLOCK_BYTES)
        whole = trailer.content_bytes + trailer.footer_bytes
        if whole != file_bytes or blocks != trailer.blocks:
            raise Damaged("a segment's lengths do not add up", where=where, next_step=_NEXT)
        if trailer.sealed_bytes < KEYS_BYTES + SEAL_BYTES:
            raise Damaged("a footer table is cut short", where=where, next_step=_NEXT)
        return trailer


class Footer(NamedTuple):
    """A parsed footer: `sealed` is salt, commitment and the sealed frame table."""

    trailer: Trailer
    sealed: bytes
    checksums: list[int]


def pack_footer(
    header: bytes, content_bytes: int, sealed: bytes, checksums: Sequence[int]
) -> bytes:
    """The whole footer behind `content_bytes` bytes of content that `header` opens."""
    sums = Struct(f"<{len(checksums)}Q").pack(*checksums)
    trailer = Trailer(content_bytes, len(sealed), len(checksums), b"")
    root = _root(header, sealed, sums, trailer)
    return sealed + sums + trailer._replace(root=root).pack()


def parse_footer(header: bytes, trailer: Trailer, data: bytes, *, where: str) -> Footer:
    """The footer in `data` (the bytes from the end of the content to the trailer's end).

    Raises Damaged when the BLAKE3 root does not match: the footer itself is then damaged.
    """
    if len(data) != trailer.footer_bytes:
        raise Damaged("a footer is cut short", where=where, next_step=_NEXT)
    sealed = data[: trailer.sealed_bytes]
    sums = data[trailer.sealed_bytes : trailer.sealed_bytes + trailer.blocks * _CHECKSUM.size]
    if _root(header, sealed, sums, trailer) != trailer.root:
        raise Damaged("a segment footer is damaged", where=where, next_step=_NEXT)
    return Footer(trailer, sealed, list(Struct(f"<{trailer.blocks}Q").unpack(sums)))


def _root(header: bytes, sealed: bytes, sums: bytes, trailer: Trailer) -> bytes:
    digest = blake3(header)
    digest.update(sealed)
    digest.update(sums)
    digest.update(trailer._replace(root=b"").pack()[: _TRAILER.size - 32])
    return digest.digest()
