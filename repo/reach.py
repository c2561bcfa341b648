"""A reach: every chunk that points rely on, found by their nodes alone.

Only nodes, pages, extent pages and problem lists are read, all of which lie in meta segments:
what file content there is stands in them by id. A node met before is not read again, so that the
cost follows what differs between points. Any damage on the way ends it: who asks wants to know
all of it, and less would be taken for less.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from repo.errors import Damaged
from repo.format import limits
from repo.format.manifest import Point
from repo.format.node import (
    EXTENT_ROW,
    HOLE,
    Node,
    Run,
    page_entries,
    parse_extent_page,
    parse_references,
)
from repo.index.scratch import Scratch
from repo.reader import Reader
from repo.types import CHUNK_KEY_BYTES, ChunkId

_HOLE_KEY: Final = HOLE[:CHUNK_KEY_BYTES]
_ROW: Final = EXTENT_ROW.size
_OF_MARKED: Final = b"marked"
"""Stands behind the keys of nodes that were met in a point with losses."""

OnKeys = Callable[[Sequence[bytes]], None]
"""Told chunk keys, those of a node's entries together; a key may come again."""


class Reach:
    """Walks the trees of points. Memory follows the depth of a tree, not its size."""

    def __init__(self, reader: Reader, seen: Scratch, on_keys: OnKeys) -> None:
        """seen: takes what was read, so that it is not read again."""
        self._reader = reader
        self._seen = seen
        self._on_keys = on_keys
        self._with_losses = False
        self.nodes = 0

    def point(self, point: Point) -> None:
        """Tell every chunk that a point relies on. Raises Damaged, naming the point.

        Of one that is marked, chunks that are not there are left out: it is known to lack them.
        """
        self._with_losses = bool(point.loss.noted_ns)
        lists = (*point.problems, *point.loss.lists)
        try:
            self._tell([chunk_id[:CHUNK_KEY_BYTES] for chunk_id in lists])
            self._tree(point.root.node)
        except Damaged as damage:
            raise Damaged(
                damage.what,
                where=f"{damage.where} of point {point.id.hex()[:8]}",
                next_step="run `repo verify` to see what is damaged; `repo forget` that point "
                "when it cannot be repaired",
            ) from damage

    def _tree(self, root: bytes) -> None:
        stack: list[Iterator[bytes]] = [iter((root,))]
        self._tell((root[:CHUNK_KEY_BYTES],))
        while stack:
            node = next(stack[-1], None)
            if node is None:
                stack.pop()
            elif self._new(node):
                if len(stack) > limits.TREE_DEPTH_MAX:
                    raise Damaged("directories are nested too deeply", where="node")
                stack.append(iter(self._node(node)))

    def _new(self, chunk_id: bytes) -> bool:
        key = chunk_id[:CHUNK_KEY_BYTES]
        if key in self._seen:
            return False
        if self._with_losses:  # what is below it is told in part: a whole point tells it again
            key += _OF_MARKED
            if key in self._seen:
                return False
        self._seen.add(key)
        self.nodes += 1
        return True

    def _tell(self, keys: Sequence[bytes]) -> None:
        if self._with_losses:
            there = self._reader.find_many(keys)
            keys = [key for key in keys if key in there]
        self._on_keys(keys)

    def _chunk(self, chunk_id: bytes) -> memoryview | None:
        """A node or page; None when it is one that the point is known to have lost."""
        key = chunk_id[:CHUNK_KEY_BYTES]
        if self._with_losses and not self._reader.find_many((key,)):
            return None
        return self._reader.chunk(ChunkId(chunk_id))

    def _node(self, node_id: bytes) -> list[bytes]:
        """Tell what the entries of a directory rely on; returns the nodes below it."""
        where = f"node {node_id.hex()[:16]}"
        below: list[bytes] = []
        data = self._chunk(node_id)
        if data is None:
            return below
        node = Node.parse(data, where=where)
        for run in (node.joined, node.listed):
            self._run(run, below, where)
        return below

    def _run(self, run: Run, below: list[bytes], where: str) -> None:
        if not run.total:
            return
        if not run.pages:
            self._entries(run.entries, below, where)
            return
        self._tell([page.id[:CHUNK_KEY_BYTES] for page in run.pages])
        for page in run.pages:
            # A page that was seen may have been seen in a walk that is over: so were its nodes.
            if self._new(page.id):
                what = f"page {page.id.hex()[:16]}"
                data = self._chunk(page.id)
                if data is not None:
                    self._entries(page_entries(data, where=what), below, what)

    def _entries(self, packed: bytes | memoryview, below: list[bytes], where: str) -> None:
        keys: list[bytes] = []
        for entry in parse_references(packed, where=where):
            if entry.node:
                below.append(entry.node)
                keys.append(entry.node[:CHUNK_KEY_BYTES])
            extents = entry.extents
            if extents:
                keys += [extents[at : at + CHUNK_KEY_BYTES] for at in range(0, len(extents), _ROW)]
                if entry.extent_level:
                    ids = [extents[at : at + 32] for at in range(0, len(extents), _ROW)]
                    self._extent_pages(ids, entry.extent_level - 1)
        if _HOLE_KEY in keys:
            keys = [key for key in keys if key != _HOLE_KEY]
        if keys:
            self._tell(keys)

    def _extent_pages(self, page_ids: Sequence[bytes], level: int) -> None:
        for page_id in page_ids:
            if page_id == HOLE or not self._new(page_id):
                continue
            where = f"extent page {page_id.hex()[:16]}"
            data = self._chunk(page_id)
            if data is None:
                continue
            rows = parse_extent_page(data, level, where=where)
            ids = [extent.id for extent in rows if not extent.is_hole]
            self._tell([chunk_id[:CHUNK_KEY_BYTES] for chunk_id in ids])
            if level:
                self._extent_pages(ids, level - 1)
