"""The lacking: files of a base whose content is not in the repository any more, found by look-ups.

Only asked while the index is in doubt: everywhere else what a point relies on is there.
"""

from __future__ import annotations

from collections.abc import Iterable

from repo.errors import Damaged
from repo.format.node import Entry, parse_entries
from repo.index.places import Places
from repo.tree import Tree
from repo.types import CHUNK_KEY_BYTES


class Lacking:
    """Looks up the chunks of entries, all of a directory together."""

    def __init__(self, places: Places, tree: Tree) -> None:
        self._places = places
        self._tree = tree

    def names(self, runs: Iterable[bytes | memoryview]) -> frozenset[bytes]:
        """The names of the files in packed runs of which a chunk is missing."""
        keys: dict[bytes, list[bytes]] = {}
        gone: set[bytes] = set()
        for run in runs:
            for entry in parse_entries(run, where="a base"):
                try:
                    keys.setdefault(entry.name, []).extend(self._keys(entry))
                except Damaged:  # a list of its chunks is missing, too
                    gone.add(entry.name)
        known = self._places.known({key for each in keys.values() for key in each})
        return frozenset(gone.union(n for n, each in keys.items() if not known.issuperset(each)))

    def _keys(self, entry: Entry) -> list[bytes]:
        extents = self._tree.extents(entry) if entry.extents else ()
        return [extent.id[:CHUNK_KEY_BYTES] for extent in extents if not extent.is_hole]
