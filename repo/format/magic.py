"""Magic: the first bytes of every object, so that a stray file is recognised at once."""

from __future__ import annotations

from typing import Final

FORMAT_VERSION: Final = 1

HEADER_MAGIC: Final = b"\x89REPO\r\n\x1a"
KEY_SLOT_MAGIC: Final = b"REPOKEY\x1a"
SEGMENT_MAGIC: Final = b"REPOSEG\x1a"
FOOTER_MAGIC: Final = b"REPOFTR\x1a"
POINT_MAGIC: Final = b"REPOPNT\x1a"
PIN_MAGIC: Final = b"REPOPIN\x1a"
NODE_MAGIC: Final = b"NODE"
PAGE_MAGIC: Final = b"PAGE"
EXTENTS_MAGIC: Final = b"EXTS"
