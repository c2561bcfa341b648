"""An extent: a stretch of a file and what it is made of, as a file system maps it.

Two files that share their blocks hold the same bytes there, as long as both of them are there to
hold on to the blocks: whoever writes is given others. So of two snapshots only the stretches need
be read that are made of something else.
"""

from __future__ import annotations

import fcntl
from itertools import pairwise
from struct import Struct
from typing import Final, NamedTuple

from ingest.changes.changesource import Range

RANGES_MAX: Final = 10_000
"""A file in more changed pieces than this is read as a whole."""


class Extent(NamedTuple):
    """The bytes [start, stop). The same `content` is the same bytes; () are zeros."""

    start: int
    stop: int
    content: tuple[int, ...] | bytes


def differing(
    before: list[Extent], now: list[Extent], size_before: int, size: int
) -> list[Range] | None:
    """The ranges of a file of `size` bytes that are made of something else than before.

    Sorted, not touching; behind the end of the older file all is different. Where there is no
    extent there are zeros. None when it is too much in pieces.
    """
    common = min(size, size_before)
    borders = sorted({0, common, *_borders(before, common), *_borders(now, common)})
    ranges: list[Range] = []
    older, newer = _Cursor(before), _Cursor(now)
    for start, stop in pairwise(borders):
        if older.content_at(start) != newer.content_at(start):
            _extend(ranges, start, stop)
    if size > common:
        _extend(ranges, common, size)
    return ranges if len(ranges) <= RANGES_MAX else None


def _borders(extents: list[Extent], common: int) -> set[int]:
    return {at for extent in extents for at in (extent.start, extent.stop) if at < common}


def _extend(ranges: list[Range], start: int, stop: int) -> None:
    if ranges and ranges[-1].stop == start:
        ranges[-1] = Range(ranges[-1].start, stop)
    else:
        ranges.append(Range(start, stop))


class _Cursor:
    """Goes along the extents of a file; where there is none there is a hole."""

    def __init__(self, extents: list[Extent]) -> None:
        self._extents = extents
        self._at = 0

    def content_at(self, offset: int) -> tuple[int, ...] | bytes:
        while self._at < len(self._extents) and self._extents[self._at].stop <= offset:
            self._at += 1
        if self._at < len(self._extents) and self._extents[self._at].start <= offset:
            return self._extents[self._at].content
        return ()


# struct fiemap: start, length, flags, mapped, count, reserved; then the extents.
_HEAD = Struct("<QQIII4x")
assert _HEAD.size == 32
# struct fiemap_extent: logical, physical, length, two reserved u64, flags, three reserved u32.
_EXTENT = Struct("<QQQ16xI12x")
assert _EXTENT.size == 56

_FIEMAP: Final = 3 << 30 | _HEAD.size << 16 | ord("f") << 8 | 11
_SYNC: Final = 1
_LAST, _UNWRITTEN = 0x1, 0x800
_PLAIN: Final = _LAST | _UNWRITTEN | 0x1000 | 0x2000  # merged, shared
_AT_ONCE: Final = 1000
_EXTENTS_MAX: Final = 1_000_000


def mapped(fd: int, *, side: int) -> list[Extent] | None:
    """What an open file is made of, by FIEMAP; None when there is too much of it.

    An extent whose place says nothing of its content (compressed, inline, not yet written) is
    like no other: `side` tells those of two maps apart. Raises OSError.
    """
    extents: list[Extent] = []
    start = 0
    while len(extents) <= _EXTENTS_MAX:
        buffer = bytearray(_HEAD.size + _AT_ONCE * _EXTENT.size)
        _HEAD.pack_into(buffer, 0, start, (1 << 64) - 1 - start, _SYNC, 0, _AT_ONCE)
        fcntl.ioctl(fd, _FIEMAP, buffer)
        count = _HEAD.unpack_from(buffer)[3]
        for number in range(count):
            place = _HEAD.size + number * _EXTENT.size
            logical, physical, length, flags = _EXTENT.unpack_from(buffer, place)
            content: tuple[int, ...] = (physical - logical,)
            if flags & ~_PLAIN:
                content = (-1, side, logical)
            elif flags & _UNWRITTEN:
                content = ()
            extents.append(Extent(logical, logical + length, content))
            start = logical + length
            if flags & _LAST:
                return extents
        if not count:
            return extents
    return None
