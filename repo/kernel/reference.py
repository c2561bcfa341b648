"""The reference chunker: content-defined chunking stated plainly; the C twin must agree with it.

Algorithm: a gear hash (Xia et al., "Ddelta: a deduplication-inspired fast delta compression
approach", 2014) with the minimum skipping and normalised chunking of FastCDC (Xia et al.,
"FastCDC: a fast and efficient content-defined chunking approach for data deduplication",
USENIX ATC 2016). What differs from the paper, and why:

- The gear table is derived from a key, so that cut points depend on the repository.
- The hash at a byte covers exactly the 64 bytes that end there: the 63 bytes before the first
  place where a cut is allowed are rolled in first. A cut point is then a property of the
  content alone, not of where the chunk began, and cutting falls back into step sooner after
  an insertion.
- The masks are the topmost bits, since these depend on the most bytes (bit k of the hash
  depends on the last k + 1 bytes). "All masked bits are zero" is then `hash < limit`.
- The easier mask starts before the average, by as much as a chunk waits for a cut under it on
  average. So the mean length comes out near the average, 6 % below it with the default sizes.

The law that callers build on: whether a chunk ends at a byte depends on nothing behind that
byte. So cuts are the same in whatever pieces a stream arrives, as long as the caller carries
the uncut tail over to the next piece.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from blake3 import blake3

if TYPE_CHECKING:
    from typing_extensions import Buffer

WINDOW_BYTES: Final = 64
"""How many bytes a 64-bit gear hash remembers: one bit of shift for each."""

NORMALISATION_BITS: Final = 2
"""How many bits harder, then easier, than the average alone would ask (level 2 of FastCDC)."""

KEY_BYTES: Final = 32

_GEAR_CONTEXT: Final = b"repo chunker gear table 1"
_GEAR = struct.Struct("<256Q")
_HASH_MASK: Final = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Plan:
    """What cutting needs to know, worked out from the chunk sizes.

    minimum, maximum: lengths in bytes between which a chunk may end. switch: the length from
    which the easier limit holds. hard_limit, easy_limit: a chunk may end where the hash is
    below this.
    """

    minimum: int
    switch: int
    maximum: int
    hard_limit: int
    easy_limit: int


def plan(minimum: int, average: int, maximum: int) -> Plan:
    """Work out the plan for chunk sizes in bytes; the caller has checked them."""
    bits = average.bit_length() - 1
    return Plan(
        minimum=minimum,
        switch=max(minimum, average - (average >> NORMALISATION_BITS)),
        maximum=maximum,
        hard_limit=1 << (64 - bits - NORMALISATION_BITS),
        easy_limit=1 << (64 - bits + NORMALISATION_BITS),
    )


def gear_table(key: bytes) -> bytes:
    """Derive the gear table from the 32-byte chunker key: 256 u64, little-endian.

    The extended output of BLAKE3 keyed with `key`, over a fixed context string.
    """
    return blake3(_GEAR_CONTEXT, key=key).digest(length=_GEAR.size)


def cuts(table: bytes, data: Buffer, sizes: Plan, final: bool) -> list[int]:
    """Return the end offsets of the chunks in `data`, ascending.

    When `final`, the last one is the end of the data. Otherwise the tail after the last cut,
    shorter than the maximum, is left to the caller. Raises BufferError when `data` is not
    contiguous.
    """
    gear = _GEAR.unpack(table)
    view = memoryview(data)
    if not view.c_contiguous:
        raise BufferError("the data is not contiguous")
    octets = view.tobytes()
    found = []
    start = 0
    while (length := _first_chunk(gear, octets, start, sizes)) is not None:
        start += length
        found.append(start)
    if final and start < len(octets):
        found.append(len(octets))
    return found


def _first_chunk(gear: tuple[int, ...], octets: bytes, start: int, sizes: Plan) -> int | None:
    """Return the length of the chunk at `start`, or None when the data ends before it does."""
    available = len(octets) - start
    if available < sizes.minimum:
        return None
    gear_hash = 0
    allowed = start + sizes.minimum - 1  # the first byte after which a chunk may end
    for octet in octets[allowed - (WINDOW_BYTES - 1) : allowed]:
        gear_hash = (gear_hash << 1) + gear[octet]
    for length in range(sizes.minimum, min(available + 1, sizes.maximum)):
        gear_hash = ((gear_hash << 1) + gear[octets[start + length - 1]]) & _HASH_MASK
        limit = sizes.hard_limit if length < sizes.switch else sizes.easy_limit
        if gear_hash < limit:
            return length
    return sizes.maximum if available >= sizes.maximum else None
