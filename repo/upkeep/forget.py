"""Forgetting: points leave the list by rules or by name, and may come back until the next gc.

A point is set aside by one durable rename. No lock is needed against somebody who pins it at
the same moment: forgetting looks for the pin after the rename, pinning looks for the point after
its pin is there, and whoever finds the other puts the point back.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Literal, NamedTuple

from repo.errors import Damaged, UsageError
from repo.format.manifest import Point
from repo.format.pin import Pin
from repo.points import read_forgotten, read_pin, write_pin
from repo.repository import Repository
from repo.types import PointId
from repo.upkeep.retention import Candidate, Decision, Rules, decide

GroupBy = Literal["source,tags", "source", "none"]


class Judged(NamedTuple):
    """A point and why it is kept; no reasons: it is to be forgotten."""

    point: Point
    reasons: tuple[str, ...]

    @property
    def kept(self) -> bool:
        """Whether the point stays."""
        return bool(self.reasons)


class Plan(NamedTuple):
    """What a forgetting would do: every point looked at, oldest first, and the sources that
    would lose more than half of their points: (source, how many of them, of how many).
    """

    judged: list[Judged]
    halved: list[tuple[str, int, int]]

    @property
    def forgotten(self) -> list[Point]:
        """The points that go."""
        return [judged.point for judged in self.judged if not judged.kept]


def pin_words(pin: Pin | None, now_ns: int) -> str:
    """Why a pin keeps its point now; empty when it does not, or there is none."""
    if pin is None or not pin.holds(now_ns):
        return ""
    words = "held" if pin.until_ns else "pinned"
    return f"{words}: {pin.reason}" if pin.reason else words


def plan_by_rules(
    repository: Repository,
    rules: Rules,
    *,
    source: str | None = None,
    tags: Collection[str] = (),
    keep_tags: Collection[str] = (),
    group_by: GroupBy = "source,tags",
    on_damage: Callable[[Damaged], None] | None = None,
) -> Plan:
    """Judge the points of a source (or all) that have all these tags.

    Points with one of `keep_tags` stay. A damaged manifest is told and left alone.
    """
    now_ns = time.time_ns()
    everything = repository.points(on_damage=on_damage)
    chosen = [
        point
        for point in everything
        if source in {None, point.source_id, point.source_path} and set(tags) <= set(point.tags)
    ]
    by_id = {point.id: point for point in chosen}
    candidates = [
        Candidate(
            point.id,
            point.received_ns,
            _group(point, group_by),
            pin_words(read_pin(repository.folder, repository.keys, PointId(point.id)), now_ns)
            or _tagged(point, keep_tags),
        )
        for point in chosen
    ]
    decisions = decide(candidates, rules, now_ns=now_ns)
    return _plan(everything, [_judged(by_id, decision) for decision in decisions])


def plan_by_name(repository: Repository, points: Iterable[Point], *, min_age_ns: int = 0) -> Plan:
    """Forget just these points, but for those that are too young.

    Raises UsageError when one of them is pinned or held.
    """
    now_ns = time.time_ns()
    judged = {point.id: Judged(point, _young(point, now_ns, min_age_ns)) for point in points}
    for point_id in judged:
        words = pin_words(read_pin(repository.folder, repository.keys, PointId(point_id)), now_ns)
        if words:
            raise UsageError(
                f"the point is {words}",
                where=point_id.hex()[:8],
                next_step="`repo unpin` lets it be forgotten; a hold ends by itself",
            )
    everything = repository.points(on_damage=lambda _damage: None)
    return _plan(everything, list(judged.values()))


def _young(point: Point, now_ns: int, min_age_ns: int) -> tuple[str, ...]:
    young = now_ns - point.received_ns < min_age_ns
    return ("younger than the minimum age",) if young else ()


def _plan(everything: Sequence[Point], judged: list[Judged]) -> Plan:
    judged.sort(key=lambda each: (each.point.received_ns, each.point.id))
    _keep_bases(everything, judged)
    held = Counter(point.source_id for point in everything)
    gone = Counter(each.point.source_id for each in judged if not each.kept)
    halved = [(source, n, held[source]) for source, n in gone.items() if 2 * n > held[source]]
    return Plan(judged, sorted(halved))


def _keep_bases(everything: Sequence[Point], judged: list[Judged]) -> None:
    """What a delta lies over stays as long as the delta does."""
    places = {each.point.id: place for place, each in enumerate(judged)}
    staying = [one for one in everything if one.id not in places or judged[places[one.id]].kept]
    while staying:
        point = staying.pop()
        place = places.get(point.base) if point.delta else None
        if place is not None and not judged[place].kept:
            base = judged[place].point
            judged[place] = Judged(base, (f"the base of the delta {point.id.hex()[:8]}",))
            staying.append(base)


def _group(point: Point, group_by: GroupBy) -> tuple[object, ...]:
    if group_by == "none":
        return ()
    if group_by == "source":
        return (point.source_id,)
    return point.source_id, tuple(sorted(set(point.tags)))


def _tagged(point: Point, keep_tags: Collection[str]) -> str:
    found = sorted(set(point.tags) & set(keep_tags))
    return f"tagged {' '.join(found)}" if found else ""


def _judged(by_id: dict[bytes, Point], decision: Decision) -> Judged:
    return Judged(by_id[decision.candidate.id], decision.reasons)


def forget(
    repository: Repository, points: Iterable[Point], on_point: Callable[[], None] = lambda: None
) -> list[PointId]:
    """Set points aside, one durable rename each; those that are gone or pinned now are left.

    Returns what was forgotten. Raises RepositoryFailed; what was done until then stays done.
    """
    done: list[PointId] = []
    for point in points:
        point_id = PointId(point.id)
        if repository.folder.set_aside(point_id):
            pin = read_pin(repository.folder, repository.keys, point_id)
            if pin is not None and pin.holds(time.time_ns()):
                repository.folder.put_back(point_id)
            else:
                done.append(point_id)
        on_point()
    return done


def unfinished_named(repository: Repository, spec: str) -> PointId | None:
    """The checkpoint that is meant by the beginning of its id; None when a point is, or nothing.

    Its manifest may be damaged. Raises UsageError when several begin so.
    """
    folder = repository.folder
    ids = [i for i in folder.points(unfinished=True) if i.hex().startswith(spec)] if spec else []
    if not ids or any(i.hex().startswith(spec) for i in folder.points()):
        return None
    if len(ids) > 1:
        raise UsageError(
            f"{len(ids)} unfinished points begin with this",
            where=spec,
            next_step="give more digits",
        )
    return ids[0]


def drop_unfinished(repository: Repository, point_ids: Iterable[PointId]) -> None:
    """Remove the checkpoints of runs, for good: the next run of the source reads what they held.

    A run that is still at work writes its next one all the same. Raises RepositoryFailed.
    """
    for point_id in point_ids:
        repository.folder.remove_point(point_id, unfinished=True)


def forgotten(
    repository: Repository, on_damage: Callable[[Damaged], None] | None = None
) -> list[Point]:
    """The points that may still come back, oldest first. Damage as in `Repository.points`."""
    points: list[Point] = []
    for point_id in repository.folder.forgotten():
        try:
            points.append(read_forgotten(repository.folder, repository.keys, point_id))
        except Damaged as damage:
            if point_id not in repository.folder.forgotten():
                continue  # taken back or collected meanwhile
            if on_damage is None:
                raise
            on_damage(damage)
    points.sort(key=lambda point: (point.received_ns, point.id))
    return points


def undelete(repository: Repository, prefix: str) -> PointId:
    """Take a forgotten point back. Raises UsageError when none or several ids begin so."""
    ids = [i for i in repository.folder.forgotten() if i.hex().startswith(prefix)]
    if len(ids) != 1 or not repository.folder.put_back(ids[0]):
        what = f"{len(ids)} forgotten points begin with this" if len(ids) > 1 else None
        raise UsageError(
            what or "no such forgotten point",
            where=prefix,
            next_step="`repo undelete` lists those that can come back: garbage collection has "
            "the others",
        )
    return ids[0]


def pin(repository: Repository, point: Point, *, reason: str, until_ns: int, made_by: str) -> Pin:
    """Pin a point, or hold it until a time (not 0), durably.

    Raises UsageError when the point is gone, or when this would shorten a hold.
    """
    point_id = PointId(point.id)
    folder = repository.folder
    now_ns = time.time_ns()
    before = read_pin(folder, repository.keys, point_id)
    if before is not None and now_ns < before.until_ns and 0 < until_ns < before.until_ns:
        raise UsageError(
            "the point is held for longer already",
            where=point_id.hex()[:8],
            next_step="a hold can be made longer, never shorter",
        )
    if before is not None and now_ns < before.until_ns and not until_ns:
        until_ns = before.until_ns  # a pin on top must not take the hold away
    made = Pin(reason, now_ns, until_ns, made_by)
    write_pin(folder, repository.keys, repository.header, point_id, made)
    # Somebody may have forgotten it meanwhile, and looked for the pin before it was there.
    if not (folder.has_point(point_id) or folder.put_back(point_id) or folder.has_point(point_id)):
        folder.remove_pin(point_id)
        raise UsageError(
            "the point has just been forgotten and collected", where=point_id.hex()[:8]
        )
    return made


def unpin(repository: Repository, point: Point) -> bool:
    """Take a point's pin away; whether there was one. Raises UsageError for a hold."""
    point_id = PointId(point.id)
    found = read_pin(repository.folder, repository.keys, point_id)
    if found is not None and found.until_ns and found.holds(time.time_ns()):
        raise UsageError(
            "the point is held, and a hold cannot be taken away before its time",
            where=point_id.hex()[:8],
            next_step="`repo show` tells until when",
        )
    return repository.folder.remove_pin(point_id)
