"""A translation: which chunk of a target holds what a chunk of the origin holds.

The ids of two repositories are made with different keys, so that a copy gives every chunk, node
and page another id. What was translated once is remembered on disk (`Scratch`), for the length of
one run; whole subtrees are taken over from a point that was copied earlier, by walking its two
trees side by side, so that the cost of a copy follows what changed.
"""

from __future__ import annotations

from typing import Final

from repo.errors import Damaged, RepositoryFailed
from repo.format.node import Entry, Extent, parse_extents
from repo.index.scratch import Scratch
from repo.keys import Keys
from repo.tree import Tree
from repo.types import ChunkId

_ASKED: Final = b"?"
_VISITED: Final = b"v"
_LOST_TEXT: Final = b"lost content of "


class Translation:
    """The ids of the target for ids of the origin, as far as they are known by now."""

    def __init__(self, scratch: Scratch, keys: Keys) -> None:
        """keys: of the target."""
        self._scratch = scratch
        self._keys = keys

    def get(self, origin: bytes) -> ChunkId | None:
        """The target's id of what is there; None when it is unknown, in work or lost."""
        found = self._scratch.get(origin)
        return ChunkId(found) if found is not None and len(found) == len(origin) else None

    def put(self, origin: bytes, target: bytes) -> None:
        """Remember a pair."""
        self._scratch.put(origin, target)

    def ask(self, origin: bytes) -> bool:
        """Whether nobody has asked for this one before; from now on somebody has."""
        if origin in self._scratch:
            return False
        self._scratch.put(origin, _ASKED)
        return True

    def visit(self, node: bytes) -> bool:
        """Whether a node is visited for the first time."""
        key = _VISITED + node
        if key in self._scratch:
            return False
        self._scratch.add(key)
        return True

    def stand_in(self, origin: bytes) -> ChunkId:
        """The id by which a tree of the target names what is lost: of a chunk that is nowhere."""
        return self._keys.chunk_id(_LOST_TEXT + origin)


class Pairing:
    """Two trees of equal shape, one in each repository: what an earlier copy translated."""

    def __init__(self, origin: Tree, target: Tree, translation: Translation) -> None:
        self._origin = origin
        self._target = target
        self._translation = translation

    def learn(self, wanted: Entry, origin: Entry, target: Entry) -> None:
        """Learn what the tree of `wanted` has in common with the pair, path by path.

        Trees that turn out not to be equal in shape, or cannot be read, teach nothing more.
        """
        pending = [(wanted, origin, target)]
        while pending:
            one, before, after = pending.pop()
            if self._translation.get(one.node) is not None:
                continue
            if one.node == before.node:
                self._translation.put(one.node, after.node)
                continue
            try:
                pending += self._directory(one, before, after)
            except (Damaged, RepositoryFailed):
                continue

    def _directory(
        self, wanted: Entry, origin: Entry, target: Entry
    ) -> list[tuple[Entry, Entry, Entry]]:
        pairs = zip(self._origin.entries(origin), self._target.entries(target), strict=False)
        below: list[tuple[Entry, Entry, Entry]] = []
        pair = next(pairs, None)
        for entry in self._origin.entries(wanted):
            while pair is not None and pair[0].name < entry.name:
                pair = next(pairs, None)
            if pair is None or pair[0].name != pair[1].name:
                break
            if pair[0].name != entry.name:
                continue
            before, after = pair
            if entry.node and before.node and after.node:
                below.append((entry, before, after))
            elif entry.extents and before.extent_level == after.extent_level:
                self._extents(before.extents, after.extents, before.extent_level)
        return below

    def _extents(self, origin: bytes, target: bytes, level: int) -> None:
        for before, after in zip(parse_extents(origin), parse_extents(target), strict=False):
            if before.is_hole or before.length != after.length:
                continue
            self._translation.put(before.id, after.id)
            if level:
                self._page(before, after, level - 1)

    def _page(self, origin: Extent, target: Extent, level: int) -> None:
        before = self._origin.extent_page(origin.id, level)
        after = self._target.extent_page(target.id, level)
        for one, other in zip(before, after, strict=False):
            if one.is_hole or one.length != other.length:
                continue
            self._translation.put(one.id, other.id)
            if level:
                self._page(one, other, level - 1)
