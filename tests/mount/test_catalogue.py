"""The catalogue: sources and times become file names, each its own, whatever they are."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mount.catalogue import Catalogue, Summary, name_points, source_name
from repo.format.node import Entry
from repo.types import Kind, PointId
from tests.repo import made

ROOT = Entry(b"", Kind.DIRECTORY, 0o755, 0, 0, 0, 0, 0, 1, 2, node=bytes(32))
SECOND = 1_000_000_000

summaries = st.lists(
    st.builds(
        Summary,
        st.binary(min_size=16, max_size=16),
        st.text(min_size=1, max_size=400),
        st.integers(0, 10**10).map(lambda number: number // 10**6 * SECOND),
        st.just(ROOT),
    ),
    max_size=20,
    unique_by=lambda summary: summary.id,
)


@given(summaries)
def test_every_point_has_a_file_name_of_its_own(points: list[Summary]) -> None:
    names = name_points(points)
    shown = [one for times in names.by_source.values() for one in times.values()]
    assert sorted(shown) == sorted(point.id for point in points)
    assert len(names.by_source) == len({point.source_id for point in points})
    for name in [*names.by_source, *(n for times in names.by_source.values() for n in times)]:
        assert 0 < len(name) <= 255
        assert b"/" not in name
        assert b"\0" not in name
        assert name not in (b".", b"..")
    assert name_points(reversed(points)) == names


@given(summaries)
def test_the_latest_is_the_one_received_last(points: list[Summary]) -> None:
    by_id = {point.id: point for point in points}
    for name, latest in name_points(points).latest.items():
        same = [p for p in points if p.source_id == by_id[latest].source_id]
        assert by_id[latest] == max(same, key=lambda point: (point.received_ns, point.id)), name


def test_names_read_well() -> None:
    assert source_name("host:/home/me", taken={}) == b"host:_home_me"
    taken = {b"host:_home_me": 1}
    other = source_name("host:/home_me", taken=taken)
    assert other.startswith(b"host:_home_me~")
    assert source_name("..", taken={}).startswith(b"..~")
    assert len(source_name("x" * 1000, taken={})) < 255


def test_points_of_one_second_are_told_apart() -> None:
    points = [Summary(bytes([n]) * 16, "s", 7 * SECOND, ROOT) for n in (1, 2, 3)]
    (times,) = name_points(points).by_source.values()
    first, *others = sorted(times, key=len)
    assert all(name.startswith(first + b"~") for name in others)


def test_a_point_that_is_forgotten_while_it_is_read_may_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with made.make(tmp_path) as repository:
        writer = repository.writer()
        point = made.point_of(made.directory_entry(repository, writer, b"", []))
        writer.commit(close=True)
        writer.publish(point)
        catalogue = Catalogue(repository)
        with monkeypatch.context() as patch:  # it was there when the names were listed
            patch.setattr(repository.folder, "points", lambda: iter([PointId(point.id)]))
            repository.folder.set_aside(PointId(point.id))
            catalogue.scan()
        assert (catalogue.summary(point.id), dict(catalogue.names.latest)) == (None, {})
        assert catalogue.is_unreadable(point.id)
        repository.folder.put_back(PointId(point.id))
        catalogue.scan()
        assert list(catalogue.names.latest.values()) == [point.id]
        assert caplog.text == ""
