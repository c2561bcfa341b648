"""Marks: the keys of all chunks that points rely on, on disk, in parts by key.

A part holds a range of keys, so that it can be compared with the same range of the index by itself,
in memory. Keys are hashes: all parts grow alike. What is told is gathered in memory and goes to a
file without a name when there is much of it: 16 bytes for each key of each batch. Memory is bounded
by the batch and by the largest part.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Final, Self

from repo.format.layout import TEMPORARY_PREFIX
from repo.storage.durable import repository_io, write_all
from repo.types import CHUNK_KEY_BYTES

PART_KEYS: Final = 1 << 18
"""Keys of a part, more or less."""

BATCH_KEYS: Final = 1 << 18
"""Keys gathered in memory before they go to the file."""

PARTS_MAX: Final = 1 << 12
_PREFIX: Final = 8


class Marks:
    """A set of chunk keys that is only added to. Used by one thread."""

    def __init__(self, folder: Path, keys_expected: int) -> None:
        """The file is made in `folder` when it is needed. keys_expected: decides the parts."""
        self._folder = folder
        self._fd = -1
        self._end = 0
        self._held: set[bytes] = set()
        parts = min(PARTS_MAX, max(1, -(-keys_expected // PART_KEYS)))
        step = (1 << 8 * _PREFIX) // parts
        self.borders: list[bytes] = [
            (at * step).to_bytes(_PREFIX, "big") if at else b"" for at in range(parts)
        ]
        self._pieces: list[list[tuple[int, int]]] = [[] for _ in self.borders]

    @property
    def ranges(self) -> list[tuple[bytes, bytes | None]]:
        """The keys of each part: from the first up to the second (None: to the last)."""
        return [*pairwise(self.borders), (self.borders[-1], None)]

    def add(self, keys: Iterable[bytes]) -> None:
        """Take keys in. Raises RepositoryFailed when there is no space for them."""
        self._held.update(keys)
        if len(self._held) >= BATCH_KEYS:
            self._spill()

    def part(self, number: int) -> set[bytes]:
        """All keys of a part. Raises RepositoryFailed."""
        start, stop = self.ranges[number]
        found = {key for key in self._held if key >= start and (stop is None or key < stop)}
        size = CHUNK_KEY_BYTES
        for offset, length in self._pieces[number]:
            with repository_io("cannot read scratch space", self._folder):
                data = os.pread(self._fd, length, offset)
            found.update(data[at : at + size] for at in range(0, len(data), size))
        return found

    def _spill(self) -> None:
        ordered = sorted(self._held)
        with repository_io("cannot write scratch space", self._folder):
            if self._fd < 0:
                self._make()
            at = 0
            for number, (_, stop) in enumerate(self.ranges):
                first = at
                while at < len(ordered) and (stop is None or ordered[at] < stop):
                    at += 1
                if at > first:
                    data = b"".join(ordered[first:at])
                    write_all(self._fd, data)
                    self._pieces[number].append((self._end, len(data)))
                    self._end += len(data)
        self._held.clear()

    def _make(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._folder / (TEMPORARY_PREFIX + secrets.token_hex(12))
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        path.unlink()

    def close(self) -> None:
        """Drop the set; a second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
