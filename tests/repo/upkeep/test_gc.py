"""Garbage collection: what nothing relies on goes, and nothing else, whatever happens beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from repo.errors import Damaged, TryLater
from repo.format import layout
from repo.format.manifest import Point
from repo.index.condemned import Condemned
from repo.keys import KeyFile
from repo.points import write_point
from repo.repository import Repository
from repo.storage.fetcher import Fetcher
from repo.types import ChunkId, PointId, SegmentClass, SegmentId
from repo.upkeep import forget, sweep
from repo.upkeep.gcreport import GcReport
from repo.upkeep.marks import Marks
from repo.upkeep.repair import repair
from repo.upkeep.sweep import collect
from repo.upkeep.verify import verify
from tests.repo import made
from tests.repo.upkeep import collecting
from tests.repo.upkeep.collecting import gone, save, stored_bytes, versions
from tests.support import readback


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    with collecting.opened(tmp_path / "made") as repository:
        yield repository


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "source"


def quiet(report: GcReport) -> bool:
    """Whether a collection found nothing wrong."""
    return not report.damages and not report.chunks_lost and not report.bytes_held_back


def test_the_space_of_forgotten_points_comes_back_and_the_others_are_whole(
    repository: Repository, source: Path
) -> None:
    points = versions(repository, source, 6)
    held = readback.whole(repository)
    gone(repository, points[:5:2])
    before = stored_bytes(repository)
    foreseen = collect(repository, dry_run=True)
    report = collect(repository)
    assert quiet(report)
    assert report.chunks_dead == foreseen.chunks_dead > 0
    assert report.segments_dead + report.segments_repacked > 0
    assert report.points_removed == 3
    assert report.bytes_removed > report.bytes_written > 0
    assert report.bytes_freed == report.bytes_removed - report.bytes_written
    assert before - stored_bytes(repository) == report.bytes_freed
    for figure in ("bytes_removed", "bytes_written", "bytes_freed"):
        assert abs(getattr(foreseen, figure) - getattr(report, figure)) <= 0.1 * before, figure
    assert report.bytes_dead_left <= 0.1 * stored_bytes(repository)
    assert repository.folder.forgotten() == []
    collecting.check(repository, {i: c for i, c in held.items() if i in _ids(repository)})
    assert len(_ids(repository)) == 3


def _ids(repository: Repository) -> set[bytes]:
    return {point.id for point in repository.points()}


def test_a_second_collection_finds_nothing(repository: Repository, source: Path) -> None:
    points = versions(repository, source, 3)
    gone(repository, points[:2])
    collect(repository)
    report = collect(repository)
    assert quiet(report)
    assert (report.chunks_dead, report.bytes_freed, report.bytes_written) == (0, 0, 0)


def test_a_dry_run_changes_nothing(repository: Repository, source: Path) -> None:
    points = versions(repository, source, 3)
    gone(repository, points[:2])
    rows = list(repository.places.rows())
    before = sorted(path for path in repository.path.rglob("*") if path.is_file())
    report = collect(repository, dry_run=True)
    assert report.bytes_freed > 0
    assert list(repository.places.rows()) == rows
    assert sorted(path for path in repository.path.rglob("*") if path.is_file()) == before
    forget.undelete(repository, points[0].id.hex())
    assert readback.content(repository, points[0])


def test_a_forgotten_point_comes_back_until_the_next_collection(
    repository: Repository, source: Path
) -> None:
    first, second = versions(repository, source, 2)
    held = readback.whole(repository)
    gone(repository, [first])
    forget.undelete(repository, first.id.hex())
    collect(repository)
    collecting.check(repository, held)
    gone(repository, [first])
    collect(repository)
    assert forget.forgotten(repository) == []
    assert repository.points() == [second]


def test_a_pinned_point_that_was_set_aside_is_put_back(
    repository: Repository, source: Path
) -> None:
    first, _ = versions(repository, source, 2)
    held = readback.whole(repository)
    forget.pin(repository, first, reason="", until_ns=0, made_by="me")
    repository.folder.set_aside(PointId(first.id))  # killed before it looked for the pin
    assert quiet(collect(repository))
    collecting.check(repository, held)


def test_with_no_point_left_nothing_is_left(repository: Repository, source: Path) -> None:
    gone(repository, versions(repository, source, 2))
    assert quiet(collect(repository))
    assert list(repository.folder.segments()) == []
    assert repository.places.count() == 0


def test_nothing_is_rewritten_when_it_is_not_wanted(repository: Repository, source: Path) -> None:
    points = versions(repository, source, 4)
    held = readback.whole(repository)
    gone(repository, points[:1])
    report = collect(repository, repack_below=0)
    assert report.bytes_written == 0
    assert report.chunks_dead > 0
    del held[points[0].id]
    assert readback.whole(repository) == held
    assert verify(repository, level="data").damages == []
    save(repository, source, 1)  # what was condemned is stored anew, and is right
    assert quiet(collect(repository))
    assert verify(repository, level="data").damages == []


def test_the_mark_reads_meta_segments_only(
    repository: Repository, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone(repository, versions(repository, source, 3)[:1])
    classes = {row.segment_id: row.segment_class for row in repository.places.segments()}
    read: list[SegmentClass] = []

    def noting(self: Fetcher, segment_id: SegmentId, offset: int, length: int) -> bytes:
        read.append(classes[segment_id])
        return fetch(self, segment_id, offset, length)

    fetch = Fetcher.read
    monkeypatch.setattr(Fetcher, "read", noting)
    report = collect(repository, dry_run=True)
    assert report.chunks_dead
    assert set(read) == {SegmentClass.META}


def test_a_point_that_cannot_be_read_stops_it_before_anything_goes(
    repository: Repository, source: Path
) -> None:
    points = versions(repository, source, 3)
    gone(repository, points[:1])
    place = repository.reader.place(points[2].root.node)  # type: ignore[arg-type]
    row = repository.places.segment(place.segment)
    path = repository.folder.segment_path(row.segment_id)
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)
    rows = list(repository.places.rows())
    with pytest.raises(Damaged, match="point"):
        collect(repository)
    assert list(repository.places.rows()) == rows


def lost(repository: Repository, point: Point) -> None:
    """Let the segment in which the first file of a point lies be gone."""
    tree = repository.tree
    entry = tree.resolve(point.root, b"folder 1/large")
    chunk_id = next(iter(tree.extents(entry))).id
    segment_id = repository.reader.segment(repository.reader.place(chunk_id)).segment_id
    repository.folder.segment_path(segment_id).unlink()
    repository.close()


def test_what_is_known_to_be_lost_is_no_damage_any_more(
    repository: Repository, source: Path
) -> None:
    points = versions(repository, source, 3)
    lost(repository, points[1])
    report = collect(repository)
    assert report.chunks_lost > 0  # nobody has marked what suffers
    repair(repository)
    marked = {point.id for point in repository.points() if point.loss.noted_ns}
    assert points[1].id in marked
    gone(repository, points[:1])
    report = collect(repository)
    assert quiet(report)
    assert (report.points, report.points_marked) == (2, len(marked - {points[0].id}))
    assert report.bytes_freed > 0
    assert verify(repository, level="data").damages == []


def test_what_a_marked_point_shares_with_one_that_is_not_is_damage(
    repository: Repository, source: Path
) -> None:
    (point,) = versions(repository, source, 1)
    lost(repository, point)
    repair(repository)
    (marked,) = repository.points()
    for number in (0, 0xFF):  # whichever of them is met first
        twin = msgspec.structs.replace(point, id=bytes([number]) * 16)
        write_point(repository.folder, repository.keys, repository.header, twin)
        assert collect(repository).chunks_lost > 0
        repository.folder.remove_point(PointId(twin.id))
    assert quiet(collect(repository))
    assert readback_loss(repository, marked)


def readback_loss(repository: Repository, point: Point) -> bool:
    """Whether a point is marked still, and cannot be read wholly."""
    (now,) = repository.points()
    with pytest.raises(Damaged):
        readback.content(repository, now)
    return now.loss == point.loss


def test_two_at_once_are_one_too_many(
    repository: Repository, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone(repository, versions(repository, source, 3)[:2])
    run = sweep._Sweep.run

    def beside(self: sweep._Sweep, repack_below: float) -> None:
        monkeypatch.undo()
        with pytest.raises(TryLater):
            collect(repository)
        run(self, repack_below)

    monkeypatch.setattr(sweep._Sweep, "run", beside)
    assert quiet(collect(repository))


def test_what_a_lease_may_still_read_goes_with_the_next_run(
    repository: Repository, source: Path, tmp_path: Path
) -> None:
    points = versions(repository, source, 3)
    held = readback.whole(repository)
    other = repository  # LMDB is opened once in a process
    with other.lease("mount /somewhere"):
        seen = [readback.content(other, point) for point in points]
        gone(repository, points[:2])
        report = collect(repository)
        assert report.bytes_held_back > 0
        assert report.bytes_removed == 0
        assert "mount /somewhere" in report.holders[0]
        # Whoever has the lease reads on: what he knows, and what he looks up now.
        assert [readback.content(other, point) for point in points] == seen
        fresh = other.new_reader()
        assert [bytes(fresh.chunk(ChunkId(point.root.node))) for point in points]
    report = collect(repository)
    assert report.bytes_freed > 0
    assert quiet(report)
    collecting.check(repository, {points[2].id: held[points[2].id]})


@pytest.mark.parametrize("step", ["_condemn", "_choose", "_retire_dead", "_repack", "_finish"])
def test_a_writer_that_found_chunks_before_they_were_condemned(
    repository: Repository,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
) -> None:
    """It publishes after any step: at last all of its point is alive, though little was stored."""
    old, _ = versions(repository, source, 2)
    held = readback.content(repository, old)
    other = repository  # LMDB is opened once in a process
    with other.lease("ingest"):
        writer = other.writer()
        gone(repository, [old])
        original: Callable[..., object] = getattr(sweep._Sweep, step)

        def then(self: sweep._Sweep, *arguments: object) -> object:
            answer = original(self, *arguments)
            monkeypatch.undo()
            again = made.point_of(old.root, 7)
            writer.publish(again)
            return answer

        monkeypatch.setattr(sweep._Sweep, step, then)
        assert not collect(repository).chunks_lost
    assert quiet(collect(repository))
    again = repository.point(f"{7:032x}")
    assert readback.content(repository, again) == held
    collecting.check(repository, readback.whole(repository))


def test_what_was_stored_since_the_marks_is_not_taken_for_dead(
    repository: Repository, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(repository, source, 1)
    condemn = sweep._Sweep._condemn
    ids: list[bytes] = []

    def late(self: sweep._Sweep) -> None:
        writer = repository.writer()
        ids.extend(made.store(repository, writer, made.contents(30)))
        writer.commit(close=True)
        condemn(self)

    monkeypatch.setattr(sweep._Sweep, "_condemn", late)
    collect(repository)
    assert repository.places.known([i[:16] for i in ids]) == {i[:16] for i in ids}


def test_segments_of_an_ingest_that_still_writes_are_left_alone(
    repository: Repository, source: Path, tmp_path: Path
) -> None:
    save(repository, source, 1)
    other = repository  # LMDB is opened once in a process
    with other.lease("ingest"):
        writer = other.writer()
        ids = made.store(other, writer, made.contents(300))
        writer.commit(close=True)
        report = collect(repository)
        assert (report.chunks_dead, report.segments_dead) == (0, 0)
    assert collect(repository).chunks_dead == len(ids)


def test_the_index_of_another_machine_is_found_out(
    repository: Repository, source: Path, tmp_path: Path
) -> None:
    """Epochs of two indexes say nothing of each other: its lease holds back all that goes."""
    points = versions(repository, source, 3)
    key = tmp_path / "made" / "key"

    def elsewhere() -> Repository:
        return Repository.open(repository.path, KeyFile(key), index_dir=tmp_path / "elsewhere")

    with elsewhere() as other:
        other.environment.write(other.environment.advance_epoch)
        assert list(other.places.segments())
        gone(repository, points[:2])
        with other.lease("ingest"):
            report = collect(repository)
            assert report.bytes_removed == 0
            assert report.bytes_held_back > 0
        assert collect(repository).bytes_freed > 0
        with pytest.raises(TryLater, match="another index"):
            other.lease("ingest")
    with elsewhere() as other, other.lease("ingest"):
        assert readback.content(other, points[2])


def test_a_killed_collection_s_segments_are_put_back_or_gone(
    repository: Repository, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = versions(repository, source, 4)
    held = readback.whole(repository)
    gone(repository, points[:3])

    class Killed(BaseException):
        pass

    def kill(*_: object) -> None:
        raise Killed

    for victim in ("note_removal", "remove_segments_aside"):
        monkeypatch.setattr(f"repo.storage.folder.Folder.{victim}", kill)
        with pytest.raises(Killed):
            collect(repository)
        monkeypatch.undo()
        assert repository.folder.segments_aside()
        assert readback.content(repository, points[3]) == held[points[3].id]
    notices: list[str] = []
    assert quiet(collect(repository, on_notice=notices.append))
    assert "killed" in notices[0]
    assert repository.folder.segments_aside() == []
    collecting.check(repository, {points[3].id: held[points[3].id]})


def test_a_rebuilt_index_takes_back_what_was_set_aside(
    repository: Repository, source: Path
) -> None:
    points = versions(repository, source, 2)
    held = readback.whole(repository)
    ids = [segment_id for segment_id, _ in repository.folder.segments()]
    repository.folder.set_segments_aside(ids)
    repository.rebuild_index()
    assert readback.whole(repository) == held
    assert len(points) == 2


def test_marks_in_memory_and_on_disk_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("repo.upkeep.marks.PART_KEYS", 100)
    monkeypatch.setattr("repo.upkeep.marks.BATCH_KEYS", 64)
    keys = [chunk.ljust(16, b"x")[:16] for chunk in made.contents(900, most=40)]
    with Marks(tmp_path, 900) as marks:
        for at in range(0, len(keys), 7):
            marks.add(keys[at : at + 7])
        assert len(marks.ranges) == 9
        parts = [marks.part(number) for number in range(9)]
        assert set().union(*parts) == set(keys)
        assert sum(map(len, parts)) == len(set(keys))
        for part, (start, stop) in zip(parts, marks.ranges, strict=True):
            assert all(key >= start and (stop is None or key < stop) for key in part)
    assert list(tmp_path.iterdir()) == []


def test_a_condemned_chunk_is_stored_anew_and_its_old_place_goes_with_its_segment(
    repository: Repository, source: Path
) -> None:
    points = versions(repository, source, 2)
    gone(repository, points[:1])
    collect(repository, repack_below=0)
    condemned = Condemned(repository.places)
    assert condemned.count() > 0
    save(repository, source, 1)
    gone(repository, repository.points())
    assert quiet(collect(repository))
    assert condemned.count() == 0
    assert (repository.path / layout.SEGMENTS).exists()
