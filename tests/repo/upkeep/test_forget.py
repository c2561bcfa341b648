"""Forgetting, pinning and taking back, on a repository's own files."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from repo.errors import Damaged, UsageError
from repo.format import layout
from repo.format.manifest import Point
from repo.format.pin import Pin
from repo.points import read_pin, write_pin, write_point
from repo.repository import Repository
from repo.types import PointId
from repo.upkeep import forget
from repo.upkeep.retention import Rules
from tests.repo import made

YEAR = 365 * 86_400 * 10**9


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    with made.make(tmp_path) as repository:
        yield repository


def publish(repository: Repository, count: int, **fields: object) -> list[Point]:
    writer = repository.writer()
    root = made.directory_entry(repository, writer, b"", [])
    writer.commit(close=True)
    held = len(repository.points()) + 1
    points = []
    for number in range(held, held + count):
        point = made.point_of(root, number)
        values = {name: getattr(point, name) for name in point.__struct_fields__} | fields
        points.append(Point(**values))
        writer.publish(points[-1])
    return points


def ids(points: list[Point]) -> list[bytes]:
    return [point.id for point in points]


def test_what_is_forgotten_is_no_point_and_comes_back_as_it_was(repository: Repository) -> None:
    points = publish(repository, 3)
    assert forget.forget(repository, points[:2]) == ids(points[:2])
    assert repository.points() == points[2:]
    assert forget.forgotten(repository) == points[:2]
    assert forget.forget(repository, points[:2]) == []
    forget.undelete(repository, points[0].id.hex())
    assert repository.points() == [points[0], points[2]]
    with pytest.raises(UsageError, match="no such forgotten point"):
        forget.undelete(repository, points[0].id.hex())


def test_a_prefix_of_several_takes_none_back(repository: Repository) -> None:
    forget.forget(repository, publish(repository, 2))
    with pytest.raises(UsageError, match="2 forgotten points begin"):
        forget.undelete(repository, "00")


def test_the_rules_go_by_source_and_tags(repository: Repository) -> None:
    night = publish(repository, 2, tags=("night",))
    other = publish(repository, 2, source_id="other")
    plan = forget.plan_by_rules(repository, Rules(last=1))
    assert ids(plan.forgotten) == [night[0].id, other[0].id]
    assert plan.halved == []
    only = forget.plan_by_rules(repository, Rules(last=1), tags=["night"])
    assert ids([judged.point for judged in only.judged]) == ids(night)
    together = forget.plan_by_rules(repository, Rules(last=1), group_by="none")
    assert ids(together.forgotten) == ids([*night, other[0]])
    kept = forget.plan_by_rules(repository, Rules(last=1), keep_tags=["night"], group_by="none")
    assert ids(kept.forgotten) == [other[0].id]


def test_more_than_half_of_a_source_is_told(repository: Repository) -> None:
    points = publish(repository, 4)
    assert forget.plan_by_rules(repository, Rules(last=2)).halved == []
    assert forget.plan_by_rules(repository, Rules(last=1)).halved == [("source", 3, 4)]
    assert forget.plan_by_name(repository, points[:3]).halved == [("source", 3, 4)]


def test_a_pinned_point_stays_until_it_is_unpinned(repository: Repository) -> None:
    first, *_ = publish(repository, 3)
    forget.pin(repository, first, reason="the audit", until_ns=0, made_by="me")
    plan = forget.plan_by_rules(repository, Rules(last=1))
    assert plan.judged[0].reasons == ("pinned: the audit",)
    with pytest.raises(UsageError, match="pinned: the audit"):
        forget.plan_by_name(repository, [first])
    assert forget.forget(repository, [first]) == []  # pinned after the plan was made
    assert first in repository.points()
    assert forget.unpin(repository, first)
    assert not forget.unpin(repository, first)
    assert forget.plan_by_rules(repository, Rules(last=1)).forgotten[0] == first


def test_a_hold_ends_by_itself_and_not_before(repository: Repository) -> None:
    (point,) = publish(repository, 1)
    until = time.time_ns() + YEAR
    forget.pin(repository, point, reason="", until_ns=until, made_by="me")
    with pytest.raises(UsageError, match="held"):
        forget.unpin(repository, point)
    with pytest.raises(UsageError, match="longer"):
        forget.pin(repository, point, reason="", until_ns=until - 1, made_by="me")
    assert forget.pin(repository, point, reason="", until_ns=0, made_by="me").until_ns == until
    over = Pin(until_ns=time.time_ns() - 1)
    point_id = PointId(point.id)
    write_pin(repository.folder, repository.keys, repository.header, point_id, over)
    assert forget.forget(repository, [point]) == [point.id]


def test_a_pin_cannot_be_forged_and_a_damaged_one_holds(repository: Repository) -> None:
    first, second = publish(repository, 2)
    forget.pin(repository, first, reason="", until_ns=0, made_by="me")
    path = repository.path / layout.pin_path(PointId(first.id))
    (repository.path / layout.pin_path(PointId(second.id))).write_bytes(path.read_bytes())
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(data)
    for point in (first, second):
        found = read_pin(repository.folder, repository.keys, PointId(point.id))
        assert found is not None
        assert "unreadable" in found.reason
        assert forget.forget(repository, [point]) == []


def test_whoever_pins_or_forgets_second_puts_the_point_back(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    (point,) = publish(repository, 1)
    point_id = PointId(point.id)
    assert repository.folder.set_aside(point_id)  # the other has not looked for pins yet
    forget.pin(repository, point, reason="", until_ns=0, made_by="me")
    assert repository.points() == [point]
    assert forget.forget(repository, [point]) == []


def test_a_point_that_is_collected_while_it_is_pinned_is_told(repository: Repository) -> None:
    (point,) = publish(repository, 1)
    repository.folder.set_aside(PointId(point.id))
    repository.folder.remove_forgotten(PointId(point.id))
    with pytest.raises(UsageError, match="forgotten and collected"):
        forget.pin(repository, point, reason="", until_ns=0, made_by="me")
    assert repository.folder.pins() == []


def test_a_damaged_manifest_is_told_and_left(repository: Repository) -> None:
    points = publish(repository, 3)
    path = repository.path / layout.point_path(PointId(points[0].id))
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    damages: list[Damaged] = []
    plan = forget.plan_by_rules(repository, Rules(last=1), on_damage=damages.append)
    assert ids(plan.forgotten) == [points[1].id]
    assert len(damages) == 1


def test_times_that_a_client_claims_change_nothing(
    repository: Repository,
) -> None:
    real = publish(repository, 3)
    forged = publish(repository, 1, created_ns=100 * YEAR, received_ns=4)
    assert ids(forget.plan_by_rules(repository, Rules(last=2)).forgotten) == ids(real[:2])
    future = Point(
        **{
            name: getattr(forged[0], name)
            for name in forged[0].__struct_fields__
            if name not in {"id", "received_ns"}
        },
        id=bytes(15) + b"f",
        received_ns=100 * YEAR,
    )
    write_point(repository.folder, repository.keys, repository.header, future)
    assert ids(forget.plan_by_rules(repository, Rules(last=2)).forgotten) == ids(real[:2])
