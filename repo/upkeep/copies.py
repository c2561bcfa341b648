"""Copies: the points of a target by what they were copied from, also while others come."""

from __future__ import annotations

from collections.abc import Callable

from repo.errors import Damaged
from repo.format.manifest import Origin, Point
from repo.points import read_point
from repo.repository import Repository
from repo.types import PointId
from repo.upkeep.sides import TARGET


def identity(point: Point, repository: Repository) -> Origin:
    """The first of its kind: the point itself, or what it was copied from."""
    if point.origin.point:
        return point.origin
    return Origin(repository.header.repository_id, point.id)


class Copies:
    """The points of a target by what they were copied from."""

    def __init__(self, target: Repository, on_notice: Callable[[str], None]) -> None:
        """on_notice: told of manifests that are damaged."""
        self._target = target
        self._points: dict[tuple[bytes, bytes], Point] = {}
        self._seen: set[PointId] = set()
        self._look(lambda damage: on_notice(f"{TARGET}: {damage}"))

    def refresh(self) -> None:
        """Learn the points that have come since, as another copy may be running."""
        self._look(lambda _damage: None)  # forgotten again; a damaged one is nobody's copy

    def _look(self, on_damage: Callable[[Damaged], None]) -> None:
        found: list[Point] = []
        for point_id in self._target.folder.points():
            if point_id not in self._seen:
                self._seen.add(point_id)
                try:
                    found.append(read_point(self._target.folder, self._target.keys, point_id))
                except Damaged as damage:
                    on_damage(damage)
        for point in sorted(found, key=lambda point: (point.received_ns, point.id)):
            key = _key(identity(point, self._target))
            known = self._points.get(key)
            if known is None or known.loss.noted_ns:
                self._points[key] = point

    def of(self, origin: Origin) -> Point | None:
        """The copy of a point: one without losses, if there is one."""
        return self._points.get(_key(origin))

    def have_better(self, copied: Point, before: Point | None) -> bool:
        """Whether a copy as good as this one has come, other than the one that was there before."""
        self.refresh()
        known = self.of(copied.origin)
        if known is None or (before is not None and known.id == before.id):
            return False
        return not known.loss.noted_ns or copied.loss.noted_ns > 0

    def base(self, point: Point, origin: Repository) -> tuple[Point, Point] | None:
        """A pair of a point of the origin and its whole copy, best like `point`; None if none.

        Of the same source, the last one before it, else the first one after it.
        """
        pairs = [
            (before, copy)
            for before in origin.points(on_damage=lambda _damage: None)
            if before.source_id == point.source_id
            and not before.loss.noted_ns
            and not before.delta  # its tree is a part of what its copy holds
            and (copy := self.of(identity(before, origin))) is not None
            and not copy.loss.noted_ns
        ]
        earlier = [pair for pair in pairs if pair[0].received_ns <= point.received_ns]
        return earlier[-1] if earlier else pairs[0] if pairs else None


def _key(origin: Origin) -> tuple[bytes, bytes]:
    return origin.repository, origin.point
