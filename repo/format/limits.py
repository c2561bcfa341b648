"""Limits: what a length read from disk may be, checked before memory is taken for it."""

from __future__ import annotations

from typing import Final

from repo.errors import Damaged
from repo.types import GIB, KIB, MIB

CHUNK_BYTES_MAX: Final = 16 * MIB
"""A chunk of file content is at most the chunker's maximum; a node or page may be larger."""

CHUNKER_BYTES_MIN: Final = 64
CHUNKER_BYTES_MAX: Final = 8 * MIB

FRAME_BYTES_MIN: Final = 4 * KIB
FRAME_BYTES_MAX: Final = 8 * MIB
"""Target size of a frame's plain content."""

FRAME_PLAIN_MAX: Final = FRAME_BYTES_MAX + CHUNK_BYTES_MAX
FRAME_CHUNKS_MAX: Final = 1 << 20
FRAMES_PER_SEGMENT_MAX: Final = 1 << 22
CHUNKS_PER_SEGMENT_MAX: Final = 1 << 20
"""A segment is closed when it holds this many chunks, so that its footer stays readable at once."""

SEGMENT_BYTES_MAX: Final = 64 * GIB
FOOTER_BYTES_MAX: Final = 512 * MIB
MANIFEST_BYTES_MAX: Final = 64 * MIB

NODE_BYTES_MAX: Final = CHUNK_BYTES_MAX
PAGE_ENTRIES_MAX: Final = 4096
PAGE_BYTES_TARGET: Final = 512 * KIB
ENTRY_BYTES_MAX: Final = 8 * MIB
NAME_BYTES_MAX: Final = 255
TARGET_BYTES_MAX: Final = 4096
EXTENT_ROWS_MAX: Final = 4096
"""Rows of one extent page."""

EXTENT_ROWS_INLINE: Final = 64
"""An entry with more extents than this keeps them in pages."""

EXTENT_LEVELS_MAX: Final = 4
TREE_DEPTH_MAX: Final = 1 << 14


def check(what: str, value: int, most: int, *, least: int = 0, where: str) -> int:
    """`value`, if it is within [least, most]; else Damaged, naming `what` and `where`."""
    if not least <= value <= most:
        raise Damaged(
            f"{what} is {value}, outside {least}..{most}",
            where=where,
            next_step="run `repo verify`",
        )
    return value
