"""A lineage: a delta point, those that it lies over, and the full at the end, as one tree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from repo.directory import PutMeta
from repo.errors import Damaged
from repo.format.manifest import Point
from repo.format.node import Entry
from repo.merge import Layer, Merge
from repo.tree import Tree
from repo.types import PointId

LENGTH_MAX: Final = 1000


def lineage(point: Point, read: Callable[[PointId], Point]) -> list[Point]:
    """A point and all that it lies over, the full last. `read` gives a point by its id.

    Raises Damaged when one of them is not there, or there is no end.
    """
    found = [point]
    while found[-1].delta:
        if len(found) > LENGTH_MAX:
            raise Damaged(
                f"more than {LENGTH_MAX} delta points lie over each other",
                where=f"point {point.id.hex()}",
                next_step="restore from an earlier point",
            )
        try:
            found.append(read(PointId(found[-1].base)))
        except Damaged as damage:
            raise Damaged(
                "the base of a delta point cannot be read",
                where=f"point {found[-1].id.hex()[:8]}: {damage.what}, {damage.where}",
                next_step="`repo undelete` takes back a point that was forgotten",
            ) from damage
    return found


def layers_of_lineage(points: Sequence[Point]) -> list[Layer]:
    """The layers of a lineage: the delta that came last counts most."""
    return [Layer(point.root, delta=point.delta) for point in points]


def merged(tree: Tree, points: Sequence[Point], put_meta: PutMeta) -> Entry:
    """The root of the tree that a lineage shows; new nodes go to `put_meta`. Raises Damaged."""

    def as_it_is(entry: Entry, links: int) -> Entry:  # noqa: ARG001
        return entry  # one source: equal inode numbers are one file

    return Merge(tree, put_meta, as_it_is).run(layers_of_lineage(points))
