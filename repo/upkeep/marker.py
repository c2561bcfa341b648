"""A marker: finds the points that are there, and marks what each relies on, once.

What counts as a point here is everything in `points/` that holds a manifest: points, the
checkpoints of runs that have not ended, and forgotten points that are to stay until the next
garbage collection. A delta's own tree and those of its bases are trees of points like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from blake3 import blake3

from repo.errors import Damaged
from repo.format.manifest import Point
from repo.points import parse_point
from repo.reach import Reach
from repo.repository import Repository
from repo.types import PointId

PointKey = tuple[bytes, bytes]
"""A point's id; and for the checkpoint of a run, which is replaced, a digest of its file."""


class Marker:
    """Marks what points rely on; `catch_up` again marks those that came since."""

    def __init__(
        self,
        repository: Repository,
        reach: Reach,
        *,
        left_out: frozenset[PointId] = frozenset(),
        on_point: Callable[[int, int], None] = lambda _done, _of: None,
    ) -> None:
        """left_out: points that count as gone already."""
        self._folder = repository.folder
        self._keys = repository.keys
        self._reach = reach
        self._left_out = left_out
        self._on_point = on_point
        self._marked: set[PointKey] = set()
        self.with_losses = 0
        """How many of them say that content of theirs is lost."""

    @property
    def points(self) -> int:
        """How many were marked."""
        return len(self._marked)

    def catch_up(self) -> int:
        """Mark all that is there and was not marked before, until nothing new appears.

        Returns how many. Raises Damaged when one of them cannot be read wholly: nobody knows
        then what is relied on.
        """
        new = 0
        # Points with losses last: what they share with whole ones is told already.
        while waiting := sorted(self._unmarked(), key=lambda one: one[1].loss.noted_ns > 0):
            for done, (key, point) in enumerate(waiting):
                self._on_point(done, len(waiting))
                self._reach.point(point)
                self._marked.add(key)
                self.with_losses += bool(point.loss.noted_ns)
                new += 1
        return new

    def has_new_points(self) -> bool:
        """Whether a point is there that was not marked: a look at names alone."""
        return any((i, b"") not in self._marked for i in self._ids())

    def _ids(self) -> set[PointId]:
        # A rename during a listing may hide a name from it; two that agree did not miss the same.
        before: set[PointId] | None = None
        while True:
            found = {*self._folder.points(), *self._folder.forgotten()} - self._left_out
            if found == before:
                return found
            before = found

    def _unmarked(self) -> Iterator[tuple[PointKey, Point]]:
        for point_id in self._folder.points(unfinished=True):
            with suppress(_Gone):
                data = self._read(point_id, unfinished=True)
                key = (point_id, blake3(data).digest())
                if key not in self._marked:
                    yield key, parse_point(self._keys, point_id, data, unfinished=True)
        for point_id in sorted(self._ids()):
            if (point_id, b"") not in self._marked:
                with suppress(_Gone):
                    data = self._read(point_id)
                    yield (point_id, b""), parse_point(self._keys, point_id, data)

    def _read(self, point_id: PointId, *, unfinished: bool = False) -> bytes:
        """The file of a point under whichever name. Raises _Gone when it has none any more."""
        looks: Sequence[Callable[[], bytes]] = (
            (lambda: self._folder.read_point(point_id, unfinished=True),)
            if unfinished
            else (
                lambda: self._folder.read_point(point_id),
                lambda: self._folder.read_forgotten(point_id),
                lambda: self._folder.read_point(point_id),
            )
        )
        for look in looks:
            with suppress(Damaged):
                return look()
        raise _Gone


class _Gone(Exception):
    """A point that was listed is not there any more."""
