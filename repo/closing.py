"""A closing: the footer that a segment left open by a dead process gets.

What the index names of it was durable before the index named it, and points may rely on it: that is
kept whatever it looks like now. Of the rest, frames up to the first that does not verify are kept.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from xxhash import xxh3_64_intdigest

from repo.errors import Damaged
from repo.format import limits
from repo.format.frame import TABLE_ROW
from repo.format.segment import BLOCK_BYTES, CHUNK_ROW, FooterFrame
from repo.index.places import Places
from repo.keys import Keys
from repo.multiplexer import sealed_footer
from repo.scanner import Contents, walk
from repo.storage.abandoned import AbandonedSegment
from repo.storage.folder import Folder
from repo.types import CHUNK_KEY_BYTES, SegmentId

_REPAIR: Final = "`repo verify` names what suffers, `repo repair` saves what is good"
_SEALED_BYTES_MAX: Final = 2 * limits.FRAME_PLAIN_MAX


class Closed(NamedTuple):
    """How many segments were closed, and the damage met."""

    segments: int
    damages: tuple[Damaged, ...]


def close_abandoned(folder: Folder, keys: Keys, places: Places) -> Closed:
    """Give a footer to every open segment whose writer is dead.

    Frames that the index relies on are in it though they do not verify any more: a verification
    finds them then as in any other segment. Behind them the first that does not verify ends it,
    for what lies there was never durable. A segment without a frame is removed. One of which the
    footer cannot name all that is relied on stays as it is. Raises RepositoryFailed.
    """
    count = 0
    damages: list[Damaged] = []
    for segment in folder.recoverable():
        with segment:
            try:
                count += _close(segment, keys, places, damages)
            except Damaged as damage:
                damages.append(damage)
    return Closed(count, tuple(damages))


def _close(segment: AbandonedSegment, keys: Keys, places: Places, damages: list[Damaged]) -> bool:
    relied = _relied(places, segment.segment_id)
    try:
        found = walk(segment.read, segment.size, keys, segment.segment_id, relied)
    except Damaged:
        # No crash does that: the header is durable before the file has its name. What lies behind
        # it may be relied on, so it stays as it is, for a verification to report.
        return False
    where = f"segment {segment.segment_id.hex()}"
    if any(offset >= found.end for offset in relied):
        raise Damaged(
            "frames that the index relies on lie behind what does not verify: it is left open",
            where=where,
            next_step=_REPAIR,
        )
    if not found.frames:
        segment.remove()
        return True
    if found.unverified:
        damages.append(
            Damaged(
                f"{len(found.unverified)} of {len(found.frames)} frames of a killed job does not "
                "verify any more",
                where=where,
                next_step=_REPAIR,
            )
        )
        found = _named_by_the_index(found, places, segment.segment_id)
        segment.extend(found.end)
    checksums = block_checksums(segment.read, found.end)
    footer = sealed_footer(
        keys, segment.segment_id, found.header_bytes, found.frames, found.end, checksums
    )
    segment.finish(found.end, footer)
    return True


def _relied(places: Places, segment_id: SegmentId) -> dict[int, FooterFrame]:
    """The frames of a segment that the index names, by offset; without their chunks."""
    number = places.by_id(segment_id)
    if number is None:
        return {}
    table = places.segment(number, fresh=True).frames
    return {
        offset: FooterFrame(frame, offset, sealed, plain, b"")
        for frame, (offset, sealed, plain) in enumerate(TABLE_ROW.iter_unpack(table))
        if 0 < sealed <= _SEALED_BYTES_MAX
    }


def _named_by_the_index(found: Contents, places: Places, segment_id: SegmentId) -> Contents:
    """The same with the chunks that the index places in frames which do not verify."""
    number = places.by_id(segment_id)
    rows: dict[int, list[tuple[int, int, bytes]]] = {frame: [] for frame in found.unverified}
    for key, place in places.rows():
        if place.segment == number and place.frame in rows:
            rows[place.frame].append((place.offset, place.length, key))
    frames = [_with_chunks(frame, rows) for frame in found.frames]
    return found._replace(frames=frames)


def _with_chunks(
    frame: FooterFrame, rows: Mapping[int, list[tuple[int, int, bytes]]]
) -> FooterFrame:
    """A frame with its chunks by the index. For one that has a place elsewhere stands another key,
    at random, so that those behind it have their offsets.
    """
    if frame.number not in rows:
        return frame
    packed: list[bytes] = []
    end = 0
    for offset, length, key in sorted(rows[frame.number]):
        if offset > end:
            packed.append(CHUNK_ROW.pack(secrets.token_bytes(CHUNK_KEY_BYTES), offset - end))
        if offset >= end:
            packed.append(CHUNK_ROW.pack(key, length))
            end = offset + length
    return frame._replace(chunks=b"".join(packed))


def block_checksums(read: Callable[[int, int], bytes], end: int) -> list[int]:
    """The xxh3-64 of each 64 KiB block of the first `end` bytes; the last may be shorter."""
    return [
        xxh3_64_intdigest(read(at, min(BLOCK_BYTES, end - at))) for at in range(0, end, BLOCK_BYTES)
    ]
