"""A scanner: what a segment holds, from its footer, or frame by frame when that is missing."""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import NamedTuple

from repo.errors import Damaged
from repo.format import limits
from repo.format.frame import HEAD_SEALED_BYTES, Record
from repo.format.segment import (
    CHUNK_ROW,
    HEADER_BYTES,
    KEYS_BYTES,
    TRAILER_BYTES,
    Footer,
    FooterFrame,
    SegmentHeader,
    Trailer,
    parse_footer,
    parse_table,
)
from repo.keys import ContainerKey, Keys
from repo.sealer import open_frame, open_head
from repo.storage.fetcher import Fetcher
from repo.types import CHUNK_KEY_BYTES, SegmentId

_RECORD = Struct("<I")

Read = Callable[[int, int], bytes]
"""Reads (offset, length) of one segment; fewer bytes only at its end."""


class Contents(NamedTuple):
    """What a segment holds. `end`: where the valid frames end; `footer`: None when walked."""

    header: SegmentHeader
    header_bytes: bytes
    frames: list[FooterFrame]
    end: int
    footer: Footer | None


def read_header(read: Read, segment_id: SegmentId) -> tuple[SegmentHeader, bytes]:
    """A segment's header, checked to be that of `segment_id`, and its bytes. Raises Damaged."""
    where = f"segment {segment_id.hex()}"
    data = read(0, HEADER_BYTES)
    header = SegmentHeader.parse(data, where=where)
    if header.segment_id != segment_id:
        raise Damaged("a segment has another's name", where=where, next_step="run `repo verify`")
    return header, data


def read_footer(read: Read, size: int, header_bytes: bytes, *, where: str) -> Footer:
    """The footer at the end of a segment file of `size` bytes; needs no key. Raises Damaged."""
    if size < HEADER_BYTES + TRAILER_BYTES:
        raise Damaged("a segment has no footer", where=where, next_step="run `repo verify`")
    trailer = Trailer.parse(read(size - TRAILER_BYTES, TRAILER_BYTES), size, where=where)
    data = read(trailer.content_bytes, trailer.footer_bytes)
    return parse_footer(header_bytes, trailer, data, where=where)


def footer_frames(
    keys: Keys, segment_id: SegmentId, footer: Footer, *, where: str
) -> list[FooterFrame]:
    """Unseal a footer's frame table. Raises Damaged."""
    salt, commitment = footer.sealed[:32], footer.sealed[32:KEYS_BYTES]
    key = keys.container(salt, "footer", segment_id)
    key.check_commitment(commitment, where=where)
    table = key.open(0, Record.FOOTER, footer.sealed[KEYS_BYTES:])
    return parse_table(table, where=where)


def scan(read: Read, size: int, keys: Keys, segment_id: SegmentId) -> Contents:
    """What a closed segment holds, by its footer. Raises Damaged when there is no good one."""
    where = f"segment {segment_id.hex()}"
    header, header_bytes = read_header(read, segment_id)
    footer = read_footer(read, size, header_bytes, where=where)
    frames = footer_frames(keys, segment_id, footer, where=where)
    return Contents(header, header_bytes, frames, footer.trailer.content_bytes, footer)


def walk(read: Read, size: int, keys: Keys, segment_id: SegmentId) -> Contents:
    """What a segment without a footer holds: its frames up to the first that does not verify.

    Raises Damaged only when not even its header is good.
    """
    header, header_bytes = read_header(read, segment_id)
    key = keys.container(header.salt, "segment", segment_id)
    key.check_commitment(header.commitment, where=f"segment {segment_id.hex()}")
    frames: list[FooterFrame] = []
    seen: set[int] = set()
    end = HEADER_BYTES
    while end < size:
        frame = _frame_at(read, end, key)
        if frame is None or frame.number in seen:
            break
        seen.add(frame.number)
        frames.append(frame)
        end += frame.sealed_bytes
    return Contents(header, header_bytes, frames, end, None)


def _frame_at(read: Read, offset: int, key: ContainerKey) -> FooterFrame | None:
    """The frame that begins at an offset, wholly verified; None when there is none."""
    where = f"offset {offset}"
    sealed_head = read(offset, HEAD_SEALED_BYTES)
    if len(sealed_head) < HEAD_SEALED_BYTES:
        return None
    (record,) = _RECORD.unpack_from(sealed_head)
    number = record // 2
    if number >= limits.FRAMES_PER_SEGMENT_MAX:
        return None
    try:
        head = open_head(key, number, sealed_head, where=where)
        sealed = read(offset, head.sealed_bytes)
        frame = open_frame(key, number, sealed, where=where)
    except Damaged:
        return None
    rows = b"".join(
        [CHUNK_ROW.pack(c.id[:CHUNK_KEY_BYTES], c.length) for c in frame.chunks.values()]
    )
    return FooterFrame(number, offset, head.sealed_bytes, head.plain_bytes, rows)


def reader_of(fetcher: Fetcher, segment_id: SegmentId) -> tuple[Read, int]:
    """A `Read` of a segment through a fetcher, and the segment's size."""
    size = fetcher.size(segment_id)

    def read(offset: int, length: int) -> bytes:
        return fetcher.read(segment_id, offset, max(0, min(length, size - offset)))

    return read, size
