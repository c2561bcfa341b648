"""A scratch: keys, and what is noted of each, on disk for one piece of work; gone with it.

Walks over all trees must remember what they have seen; the ids of millions of nodes do not
belong into a Python set. The file loses its name as soon as it is open, so that nothing is left
of it whatever ends the process, and nothing of it is ever synced.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Final, Self

import lmdb

from repo.format.layout import TEMPORARY_PREFIX
from repo.index.failure import translated
from repo.types import MIB

MAP_BYTES_FIRST: Final = 16 * MIB
HELD_MAX: Final = 4096
"""Keys kept in memory before they go to the file together."""


class Scratch:
    """A set of keys of 1 to 500 bytes, with a value each. Used by one thread; never across fork."""

    def __init__(self, path: Path, environment: lmdb.Environment) -> None:
        """Made by `make`."""
        self._path = path
        self._environment = environment
        self._held: dict[bytes, bytes] = {}

    @classmethod
    def make(cls, folder: str | os.PathLike[str]) -> Self:
        """An empty one, in a file without a name in `folder`, which is made when missing.

        Raises RepositoryFailed.
        """
        path = Path(folder, TEMPORARY_PREFIX + secrets.token_hex(12))
        with translated(path, "cannot make scratch space"):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            environment = lmdb.open(
                str(path),
                subdir=False,
                lock=False,
                map_size=MAP_BYTES_FIRST,
                mode=0o600,
                sync=False,
                metasync=False,
                writemap=False,
                readahead=False,
                max_spare_txns=1,
            )
            path.unlink()
        return cls(path, environment)

    def add(self, key: bytes) -> None:
        """Take a key into the set. Raises RepositoryFailed."""
        self.put(key, b"")

    def put(self, key: bytes, value: bytes) -> None:
        """Take a key into the set with a value, which replaces an older one. RepositoryFailed."""
        self._held[key] = value
        if len(self._held) >= HELD_MAX:
            self._flush()

    def get(self, key: bytes) -> bytes | None:
        """The value of a key; None when it was never added. Raises RepositoryFailed."""
        value = self._held.get(key)
        if value is not None:
            return value
        with translated(self._path, "cannot read scratch space"), self._environment.begin() as txn:
            found: bytes | None = txn.get(key)
        return found

    def __contains__(self, key: bytes) -> bool:
        """Whether a key was added. Raises RepositoryFailed."""
        return self.get(key) is not None

    def _flush(self) -> None:
        rows = sorted(self._held.items())
        with translated(self._path, "cannot write scratch space"):
            while True:
                try:
                    with self._environment.begin(write=True) as txn, txn.cursor() as cursor:
                        cursor.putmulti(rows)
                    break
                except lmdb.MapFullError:
                    self._environment.set_mapsize(2 * self._environment.info()["map_size"])
        self._held.clear()

    def close(self) -> None:
        """Drop the set; a second call does nothing."""
        self._environment.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
