"""Layers of a synthesis: points and parts of points, in the order in which they count."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from itertools import count
from typing import NamedTuple

import msgspec

from repo.directory import DirectoryMaker
from repo.errors import UsageError
from repo.format.manifest import Point, parse_problems
from repo.format.node import Entry
from repo.index.scratch import Scratch
from repo.merge import Layer
from repo.reader import Reader
from repo.tree import Tree
from repo.types import ChunkId, Kind


class Take(NamedTuple):
    """A part of a point that goes to another place: `path` in the point, `at` in the result."""

    point: Point
    path: bytes
    at: bytes


class Lost(NamedTuple):
    """The paths that a point knows nothing of, for they could not be read: an `Unknown`."""

    exact: Scratch
    above: Scratch

    def exactly(self, path: bytes) -> bool:
        """See Unknown."""
        return _digest(path) in self.exact

    def leads_to(self, path: bytes) -> bool:
        """See Unknown."""
        return _digest(path) in self.above

    def add(self, path: bytes) -> None:
        """Take a path."""
        self.exact.add(_digest(path))
        while path:
            path = path.rpartition(b"/")[0]
            self.above.add(_digest(path))


def _digest(path: bytes) -> bytes:
    return blake2b(path, digest_size=16).digest()


Lineage = Callable[[Point], Sequence[Point]]
"""A point and what it lies over, the full last; of a full itself alone."""


def layers_of(
    reader: Reader,
    tree: Tree,
    lineage: Lineage,
    points: Sequence[Point],
    prefer: Sequence[Point],
    takes: Sequence[Take],
    lost: Lost,
) -> list[Layer]:
    """The layers of a synthesis, what counts most first: parts taken, the last one first; points
    preferred; then of each source its newest point, the sources by the time of that one. Older
    points of a source only fill what the newest could not read.
    """
    layers = [_taken(reader, tree, take) for take in reversed(takes)]
    sources: dict[str, list[Point]] = {}
    for point in sorted(points, key=_age, reverse=True):
        sources.setdefault(point.source_id, []).append(point)
    numbers = {source_id: number for number, source_id in enumerate(sources, 1)}
    more = count(len(sources) + 1)
    for point in prefer:
        whole = Layer(None, source=next(more), links=_links(point.id))
        layers += _of_point(lineage, whole, point)
    for source_id, (newest, *older) in sources.items():
        number = numbers[source_id]
        whole = Layer(None, source=number, links=_links(newest.id))
        layers += _of_point(lineage, whole, newest)
        if not older or not newest.problems_total:
            continue
        for path in _problem_paths(reader, newest):
            lost.add(path)
        for point in older:
            if point.delta:
                continue
            filling = Layer(None, source=number, fills=lost, links=_links(point.id))
            layers += _of_point(lineage, filling, point)
    if len(layers) > len(takes):
        first = layers[len(takes)].links
        layers = [each._replace(links=0) if each.links == first else each for each in layers]
    return layers


def _of_point(lineage: Lineage, layer: Layer, point: Point) -> list[Layer]:
    """The layers of a point: of a delta itself and what it lies over, as they are stored."""
    return [layer._replace(entry=one.root, delta=one.delta) for one in lineage(point)]


def _problem_paths(reader: Reader, point: Point) -> Iterator[bytes]:
    for chunk_id in point.problems:
        data = bytes(reader.chunk(ChunkId(chunk_id)))
        where = f"problems of point {point.id.hex()[:8]}"
        yield from (problem.path for problem in parse_problems(data, where=where))


def _age(point: Point) -> tuple[int, bytes]:
    return point.received_ns, point.id


def _links(name: bytes) -> int:
    """A bit pattern of 62 bits for the inode numbers of a layer's hard links; never 0."""
    return int.from_bytes(blake2b(name, digest_size=8).digest()) >> 2 | 1 << 40


def _taken(reader: Reader, tree: Tree, take: Take) -> Layer:
    """A layer that has one thing at one place, and hides all that is there in others."""
    if take.point.delta:
        raise UsageError(
            "a part of a delta point cannot be taken",
            where=take.point.id.hex()[:8],
            next_step="make a full of it first: repo synth POINT",
        )
    entry = tree.resolve(take.point.root, take.path)
    names = [name for name in take.at.split(b"/") if name not in (b"", b".")]
    if b".." in names:
        raise UsageError(
            "a place outside of the result", where=_text(take.at), next_step="leave out .."
        )
    links = _links(take.point.id + take.at)
    if not names and entry.kind != Kind.DIRECTORY:
        raise UsageError(
            "the root can only be a directory", where=_text(take.path), next_step="give a name"
        )
    entry = msgspec.structs.replace(entry, name=names[-1] if names else b"")
    if not names:
        return Layer(entry, removed=_leaf(b""), links=links)
    removed = _leaf(names[-1])
    way = take.point.root
    for above in [*reversed(names[:-1]), b""]:
        entry = _chain(reader, msgspec.structs.replace(way, name=above), entry)
        removed = _chain(reader, msgspec.structs.replace(way, name=above), removed)
    return Layer(entry, removed=removed, way=len(names), links=links)


def _text(path: bytes) -> str:
    return path.decode(errors="surrogateescape")


def _leaf(name: bytes) -> Entry:
    """What hides a name in a tree of removals."""
    return Entry(name, Kind.FILE, 0, 0, 0, 0, 0, 0, 0, 0)


def _chain(reader: Reader, directory: Entry, inside: Entry) -> Entry:
    """A directory with one entry, kept in memory."""
    maker = DirectoryMaker(reader.keep)
    maker.add(inside)
    return maker.finish(directory)
