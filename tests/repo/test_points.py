"""Points and unfinished points: two kinds of names, never taken for one another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from repo.errors import Damaged, UsageError
from repo.format.manifest import Point
from repo.points import read_point, write_point
from repo.repository import Repository
from repo.types import PointId
from tests.repo import made

put = msgspec.structs.replace


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    with made.make(tmp_path) as repository:
        yield repository


@pytest.fixture
def point(repository: Repository) -> Point:
    writer = repository.writer()
    root = made.directory_entry(repository, writer, b"", [])
    writer.abandon()
    return made.point_of(root)


def write(repository: Repository, point: Point) -> None:
    write_point(repository.folder, repository.keys, repository.header, point)


def test_an_unfinished_point_is_replaced_and_listed_apart(
    repository: Repository, point: Point
) -> None:
    for files in (1, 2):
        write(repository, put(point, unfinished=True, tags=(f"{files}",)))
    assert repository.points() == []
    (found,) = repository.unfinished()
    assert found == put(point, unfinished=True, tags=("2",))
    assert repository.point(point.id.hex()[:6], unfinished=True) == found
    with pytest.raises(UsageError, match="no such point"):
        repository.point(point.id.hex())
    write(repository, point)
    assert repository.points() == [point]
    assert repository.point(point.id.hex()[:6]) == point, "the complete one counts"
    repository.folder.remove_point(PointId(point.id), unfinished=True)
    assert repository.unfinished() == []


@pytest.mark.parametrize("unfinished", [True, False])
def test_a_point_that_goes_while_points_are_read_is_no_damage(
    repository: Repository, point: Point, monkeypatch: pytest.MonkeyPatch, *, unfinished: bool
) -> None:
    """Somebody else forgets points, or ends his run."""
    points = [put(point, id=bytes([n]) * 16, unfinished=unfinished) for n in (1, 2)]
    for each in points:
        write(repository, each)
    real = repository.folder.read_point

    def reading(point_id: PointId, *, unfinished: bool = False) -> bytes:
        data = real(point_id, unfinished=unfinished)
        repository.folder.remove_point(PointId(points[1].id), unfinished=unfinished)
        return data

    monkeypatch.setattr(repository.folder, "read_point", reading)
    assert (repository.unfinished() if unfinished else repository.points()) == points[:1]


@pytest.mark.parametrize("unfinished", [True, False])
def test_a_change_of_names_is_seen(
    repository: Repository, point: Point, *, unfinished: bool
) -> None:
    """Whoever writes the store could pass an unfinished point off as a complete one."""
    write(repository, put(point, unfinished=unfinished))
    points = repository.folder.path / "points"
    names = [f"{point.id.hex()}.unfinished", point.id.hex()]
    (points / names[not unfinished]).rename(points / names[unfinished])
    with pytest.raises(Damaged, match="changed names"):
        read_point(repository.folder, repository.keys, PointId(point.id), unfinished=not unfinished)
