"""A scanner: what a segment holds, from its footer, or frame by frame when that is missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from struct import Struct
from types import MappingProxyType
from typing import Final, NamedTuple

from repo.errors import Damaged
from repo.format import limits
from repo.format.frame import HEAD_SEALED_BYTES, SEAL_BYTES, FrameHead, Record
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
from repo.types import CHUNK_KEY_BYTES, KIB, MIB, SegmentId

_RECORD = Struct("<I")
_WINDOW: Final = 4 * MIB
_HOLE: Final = 64 * KIB
_NOTHING: Final = bytes(SEAL_BYTES)
"""So many zeros in the place of a head are a hole of the file: no head begins in it."""

Relied = Mapping[int, FooterFrame]
"""Frames that the index relies on, by their offsets; without chunks."""

Read = Callable[[int, int], bytes]
"""Reads (offset, length) of one segment; fewer bytes only at its end."""


class Contents(NamedTuple):
    """What a segment holds. `end`: where its frames end; `footer`: None when it was not read.

    `unverified`: numbers of frames that are among them because the index relies on them.
    """

    header: SegmentHeader
    header_bytes: bytes
    frames: list[FooterFrame]
    end: int
    footer: Footer | None
    unverified: frozenset[int] = frozenset()


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
    frames = parse_table(table, where=where)
    if any(one.offset + one.sealed_bytes > footer.trailer.content_bytes for one in frames):
        raise Damaged(
            "a footer names a frame beyond its segment", where=where, next_step="run `repo verify`"
        )
    return frames


def scan(read: Read, size: int, keys: Keys, segment_id: SegmentId) -> Contents:
    """What a closed segment holds, by its footer. Raises Damaged when there is no good one."""
    where = f"segment {segment_id.hex()}"
    header, header_bytes = read_header(read, segment_id)
    footer = read_footer(read, size, header_bytes, where=where)
    frames = footer_frames(keys, segment_id, footer, where=where)
    return Contents(header, header_bytes, frames, footer.trailer.content_bytes, footer)


def walk(
    read: Read,
    size: int,
    keys: Keys,
    segment_id: SegmentId,
    relied: Relied = MappingProxyType({}),
) -> Contents:
    """What a segment without a footer holds: its frames up to the first that does not verify.

    One that is relied on counts whether it verifies or not, and though the file may end before it
    does: it was durable once. Raises Damaged only when not even the header is good.
    """
    header, header_bytes, key = _opened(read, keys, segment_id)
    frames: list[FooterFrame] = []
    seen: set[int] = set()
    unverified: set[int] = set()
    end = HEADER_BYTES
    while end < size or end in relied:
        frame = _frame_at(read, end, key)
        if frame is None or frame.number in seen:
            frame = relied.get(end)
            if frame is None or frame.number in seen:
                break
            unverified.add(frame.number)
        seen.add(frame.number)
        frames.append(frame)
        end += frame.sealed_bytes
    return Contents(header, header_bytes, frames, end, None, frozenset(unverified))


def search(read: Read, size: int, keys: Keys, segment_id: SegmentId) -> Contents:
    """What a damaged segment holds: every frame that verifies, also behind such as do not.

    Raises Damaged only when not even the header is good.
    """
    header, header_bytes, key = _opened(read, keys, segment_id)
    frames: dict[int, FooterFrame] = {}
    end = HEADER_BYTES
    at: int | None = HEADER_BYTES
    while at is not None and at < size:
        frame = _frame_at(read, at, key)
        if frame is not None:
            frames.setdefault(frame.number, frame)
            at = end = at + frame.sealed_bytes
        else:
            head = head_at(read, at, key)
            at = at + head.sealed_bytes if head is not None else next_head(read, at + 1, size, key)
    return Contents(header, header_bytes, list(frames.values()), end, None)


def _opened(
    read: Read, keys: Keys, segment_id: SegmentId
) -> tuple[SegmentHeader, bytes, ContainerKey]:
    header, header_bytes = read_header(read, segment_id)
    key = keys.container(header.salt, "segment", segment_id)
    key.check_commitment(header.commitment, where=f"segment {segment_id.hex()}")
    return header, header_bytes, key


def head_at(read: Read, offset: int, key: ContainerKey) -> FrameHead | None:
    """The head of the frame that begins at an offset, whatever its body is; None: there is none."""
    return _open_head(read(offset, HEAD_SEALED_BYTES), key)


def next_head(read: Read, offset: int, size: int, key: ContainerKey) -> int | None:
    """The offset of the next head that opens, from `offset` on, in a segment of `size` bytes.

    The topmost byte of a record number is zero, as it is in one of 256 places by chance.
    """
    while offset < size:
        window = read(offset, _WINDOW + HEAD_SEALED_BYTES)
        at = window.find(b"\0", 3)
        while at >= 0 and at - 3 < _WINDOW:
            head = window[at - 3 : at - 3 + HEAD_SEALED_BYTES]
            if head.startswith(_NOTHING):
                zeros = window[at : at + _HOLE]
                at += len(zeros) - len(zeros.lstrip(b"\0")) - SEAL_BYTES + 3
            elif _open_head(head, key) is not None:
                return offset + at - 3
            at = window.find(b"\0", at + 1)
        offset += _WINDOW
    return None


def _open_head(sealed_head: bytes, key: ContainerKey) -> FrameHead | None:
    if len(sealed_head) < HEAD_SEALED_BYTES:
        return None
    (record,) = _RECORD.unpack_from(sealed_head)
    number, odd = divmod(record, 2)
    if odd or number >= limits.FRAMES_PER_SEGMENT_MAX:
        return None
    try:
        return open_head(key, number, sealed_head, where="")
    except Damaged:
        return None


def _frame_at(read: Read, offset: int, key: ContainerKey) -> FooterFrame | None:
    """The frame that begins at an offset, wholly verified; None when there is none."""
    head = head_at(read, offset, key)
    if head is None:
        return None
    try:
        frame = open_frame(key, head.number, read(offset, head.sealed_bytes), where="")
    except Damaged:
        return None
    rows = b"".join(
        [CHUNK_ROW.pack(c.id[:CHUNK_KEY_BYTES], c.length) for c in frame.chunks.values()]
    )
    return FooterFrame(head.number, offset, head.sealed_bytes, head.plain_bytes, rows)


def reader_of(fetcher: Fetcher, segment_id: SegmentId) -> tuple[Read, int]:
    """A `Read` of a segment through a fetcher, and the segment's size."""
    size = fetcher.size(segment_id)

    def read(offset: int, length: int) -> bytes:
        return fetcher.read(segment_id, offset, max(0, min(length, size - offset)))

    return read, size
