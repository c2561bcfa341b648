"""A merge: several trees, one over the other, become one. Only nodes on changed paths are made.

The trees are layers, the one that counts most first. At each path the first layer that has
something there wins. Where that is a directory, the directories of the others below it add what
it does not have. A layer may say of names that they are removed: then the layers below it do not
count there. That one rule makes a full of a base and its deltas, of several sources under one
root, and of a point and what an older one knows of files that could not be read.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple, Protocol

import msgspec

from repo.directory import DirectoryMaker, PutMeta
from repo.errors import Damaged
from repo.format import limits
from repo.format.node import REMOVED, Entry
from repo.tree import Tree
from repo.types import Kind


class Unknown(Protocol):
    """Paths of which a point does not know what was there: they could not be read."""

    def exactly(self, path: bytes) -> bool:
        """Whether nothing is known of this path."""
        ...

    def leads_to(self, path: bytes) -> bool:
        """Whether such a path lies below this directory."""
        ...


class Layer(NamedTuple):
    """A tree at some path, as one of several.

    entry: what it has there; None: nothing, it only removes. removed: a tree of names that are
    hidden in the layers of its source below it (in all of them, when it is of none): a directory
    leads to some, anything else hides all that is there. source: layers of one source have one
    number, 0: of none. fills: it counts only where a layer above it of its source knows nothing.
    way: so many levels from here are only the way to what it has: their nodes are in no segment,
    and their metadata counts only where nobody else has any. links: not 0 for sources whose inode
    numbers may be those of another: those of hard links are changed by it. delta: names marked as
    removed (`node.REMOVED`) are so.
    """

    entry: Entry | None
    removed: Entry | None = None
    source: int = 0
    fills: Unknown | None = None
    way: int = 0
    links: int = 0
    delta: bool = False


class Relink(Protocol):
    """Gives a subtree with other inode numbers for its hard links (see `Layer.links`)."""

    def __call__(self, entry: Entry, links: int) -> Entry:
        """The entry of the changed subtree; the same when it has no hard links."""
        ...


def counting(path: bytes, layers: Sequence[Layer]) -> list[Layer]:
    """The layers that count at a path, the winner first but for those that only remove.

    The rule of the merge, as a pure function.
    """
    found: list[Layer] = []
    winner: Entry | None = None
    known: dict[int, Entry] = {}
    hidden: set[int] = set()
    for each in layers:
        if each.source in hidden:
            continue
        layer = each if each.fills is None else _filling(path, each, known)
        entry = layer.entry
        if entry is not None:
            known.setdefault(layer.source, entry)
        both = _is_directory(winner) and _is_directory(entry)
        if entry is not None and (winner is None or both):
            found.append(layer)
            winner = winner or entry
        elif _is_directory(layer.removed):
            found.append(layer._replace(entry=None))
        if layer.removed is not None and not _is_directory(layer.removed):
            hidden.add(layer.source)
            if not layer.source:
                break
        if winner is not None and not _is_directory(winner):
            break
    return found


def _filling(path: bytes, layer: Layer, known: dict[int, Entry]) -> Layer:
    """A layer that only fills, as it counts at a path."""
    if layer.entry is None or layer.fills is None:
        return layer
    newer = known.get(layer.source)
    whole = layer._replace(fills=None)
    if newer is None:
        return whole if layer.fills.exactly(path) else layer._replace(entry=None)
    if newer.absent and layer.fills.exactly(path):
        return whole
    both = _is_directory(newer) and _is_directory(layer.entry)
    return layer if both and layer.fills.leads_to(path) else layer._replace(entry=None)


def _unmarked(layer: Layer) -> Layer:
    """A layer of a delta at a name, with the mark of a removal turned into one."""
    entry = layer.entry
    if entry is None or entry.absent != REMOVED:
        return layer
    removed = msgspec.structs.replace(entry, kind=Kind.FILE)
    there = msgspec.structs.replace(entry, absent="") if entry.node else None
    return layer._replace(entry=there, removed=removed)


def _is_directory(entry: Entry | None) -> bool:
    return entry is not None and entry.kind == Kind.DIRECTORY


class _Folder:
    """A directory that is being merged."""

    def __init__(
        self, path: bytes, entry: Entry, names: Iterator[tuple[bytes, list[Layer]]], put: PutMeta
    ) -> None:
        self.path = path
        self.entry = entry
        self.names = names
        self.maker = DirectoryMaker(put)


class Merge:
    """Merges layers into one tree. Memory follows the depth of the trees."""

    def __init__(self, tree: Tree, put_meta: PutMeta, relink: Relink) -> None:
        self._tree = tree
        self._put_meta = put_meta
        self._relink = relink

    def run(self, layers: Sequence[Layer]) -> Entry:
        """The root of the merged tree, whose new nodes are stored. Raises Damaged."""
        top = self._at(b"", [_unmarked(layer) if layer.delta else layer for layer in layers])
        if top is None:
            raise ValueError("a merge of nothing")
        if not isinstance(top, _Folder):
            return top
        way = [top]
        while True:
            folder = way[-1]
            step = next(folder.names, None)
            if step is None:
                way.pop()
                entry = folder.maker.finish(folder.entry)
                if not way:
                    return entry
                way[-1].maker.add(entry)
                continue
            name, candidates = step
            path = folder.path + b"/" + name if folder.path else name
            outcome = self._at(path, candidates)
            if isinstance(outcome, _Folder):
                if len(way) > limits.TREE_DEPTH_MAX:
                    raise Damaged("directories are nested too deeply", next_step="`repo verify`")
                way.append(outcome)
            elif outcome is not None:
                folder.maker.add(outcome)

    def _at(self, path: bytes, candidates: Sequence[Layer]) -> Entry | _Folder | None:
        """What is at a path: an entry as it is, a directory to be merged, or nothing."""
        layers = counting(path, candidates)
        having = [layer for layer in layers if layer.entry is not None]
        if not having:
            return None
        strong = next((layer for layer in having if not layer.way), having[0])
        entry = strong.entry
        assert entry is not None
        stored = [layer for layer in having if layer.entry is not None and layer.entry.node]
        if not stored or entry.kind != Kind.DIRECTORY:
            return self._relink(entry, strong.links) if strong.links else entry
        nodes = {layer.entry.node for layer in stored if layer.entry is not None}
        removing = any(layer.removed is not None for layer in layers[:-1])
        if len(nodes) > 1 or removing or any(layer.way for layer in stored):
            return _Folder(path, entry, self._names(layers), self._put_meta)
        return self._whole(entry, stored[0])

    def _whole(self, entry: Entry, layer: Layer) -> Entry:
        """A directory whose content is that of one layer."""
        content = layer.entry
        assert content is not None
        if layer.links:
            content = self._relink(content, layer.links)
        if content.node == entry.node:
            return entry
        return msgspec.structs.replace(
            entry,
            node=content.node,
            entries_below=content.entries_below,
            bytes_below=content.bytes_below,
            directories_below=content.directories_below,
            absent="",
        )

    def _names(self, layers: Sequence[Layer]) -> Iterator[tuple[bytes, list[Layer]]]:
        """The names in the directories of some layers, each with what the layers have there."""
        self._tree.load(
            one for layer in layers for one in (layer.entry, layer.removed) if one is not None
        )
        streams = [
            stream
            for number, layer in enumerate(layers)
            for stream in (
                self._stream(layer.entry, number, 0),
                self._stream(layer.removed, number, 1),
            )
        ]
        for name, rows in groupby(heapq.merge(*streams, key=itemgetter(0, 1, 2)), itemgetter(0)):
            candidates: list[Layer] = []
            numbers: list[int] = []
            for _, number, which, entry in rows:
                if not numbers or numbers[-1] != number:
                    numbers.append(number)
                    above = layers[number]
                    way = max(0, above.way - 1)
                    candidates.append(above._replace(entry=None, removed=None, way=way))
                last = candidates[-1]
                candidates[-1] = (
                    last._replace(removed=entry) if which else last._replace(entry=entry)
                )
            yield name, [_unmarked(one) if one.delta else one for one in candidates]

    def _stream(
        self, directory: Entry | None, number: int, which: int
    ) -> Iterator[tuple[bytes, int, int, Entry]]:
        if directory is None or not directory.node:
            return iter(())
        return ((e.name, number, which, e) for e in self._tree.entries(directory))
