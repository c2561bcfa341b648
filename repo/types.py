"""Types: the words of the project that every floor uses."""

from __future__ import annotations

import enum
from typing import Final, NewType

ChunkId = NewType("ChunkId", bytes)
"""Keyed BLAKE3-256 of a chunk's plaintext: 32 bytes."""

ChunkKey = NewType("ChunkKey", bytes)
"""The first 16 bytes of a chunk id: the key of the index. The full id is compared on use."""

SegmentId = NewType("SegmentId", bytes)
"""16 random bytes that name a segment for ever."""

PointId = NewType("PointId", bytes)
"""16 random bytes that name a backup point."""

RepositoryId = NewType("RepositoryId", bytes)
"""16 random bytes that name a repository."""

CHUNK_ID_BYTES: Final = 32
CHUNK_KEY_BYTES: Final = 16

KIB: Final = 1 << 10
MIB: Final = 1 << 20
GIB: Final = 1 << 30
TIB: Final = 1 << 40


class SegmentClass(enum.IntEnum):
    """What a segment holds. Nodes and extent pages never share one with file content."""

    DATA = 1
    META = 2
    IMAGE = 3


class Kind(enum.IntEnum):
    """What an entry of a directory is."""

    FILE = 1
    DIRECTORY = 2
    SYMLINK = 3
    FIFO = 4
    SOCKET = 5
    CHARACTER_DEVICE = 6
    BLOCK_DEVICE = 7


class Secret:
    """Key material or a password: prints as ***, compares in no other way than by `reveal()`."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = value

    def reveal(self) -> bytes:
        """The bytes themselves: for the cryptographic call only, never for a message."""
        return self._value

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__

    def __reduce__(self) -> str:
        raise TypeError("a Secret is never serialised")
