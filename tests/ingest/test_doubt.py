"""An index that lost segments: what is taken over from a point is looked up, until all is found."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
import pytest

from ingest.lacking import Lacking
from ingest.session import IngestRequest, IngestSummary, ingest
from repo import recovery
from repo.errors import JobFailed
from repo.format.manifest import Point
from repo.index.doubt import cast_doubt
from repo.points import write_point
from repo.repository import Repository
from repo.types import PointId, SegmentClass
from repo.upkeep.copy import CopyRequest, copy
from repo.upkeep.repair import repair
from repo.upkeep.sweep import collect
from repo.upkeep.synth import SynthRequest, synthesize
from repo.upkeep.verify import verify
from tests.ingest import again
from tests.repo.upkeep import collecting
from tests.support import readback


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Repository]:
    again.without_racy_guard(monkeypatch)
    with collecting.opened(tmp_path / "made") as repository:
        yield repository


@pytest.fixture
def source(tmp_path: Path) -> Path:
    collecting.plant(tmp_path / "source", 1)
    return tmp_path / "source"


def run(repository: Repository, source: Path) -> IngestSummary:
    return ingest(repository, IngestRequest(paths=[str(source)], streams=1))


def doubtful(repository: Repository) -> bool:
    return repository.in_doubt


def left_unfinished(repository: Repository, point: Point) -> None:
    """Let a point be the checkpoint of a run that was killed."""
    folder, keys, header = repository.folder, repository.keys, repository.header
    write_point(folder, keys, header, msgspec.structs.replace(point, unfinished=True))
    folder.remove_point(PointId(point.id))


def lose(repository: Repository, segment_class: SegmentClass) -> None:
    """Take the last segment of a class away; the index is built anew without it."""
    rows = [r for r in repository.places.segments() if r.segment_class is segment_class]
    repository.folder.segment_path(rows[-1].segment_id).unlink()
    repository.close()
    assert doubtful(repository)


@pytest.mark.parametrize("segment_class", [SegmentClass.DATA, SegmentClass.META])
def test_what_a_lost_segment_held_is_read_again(
    repository: Repository, source: Path, segment_class: SegmentClass
) -> None:
    (before,) = run(repository, source).points
    held = readback.content(repository, before)
    lose(repository, segment_class)
    summary = run(repository, source)
    (point,) = summary.points
    assert readback.differences(repository, point, source) == []
    assert summary.bytes_stored > 0
    if segment_class is SegmentClass.DATA:
        assert 0 < summary.files_reused < summary.files  # of what is there, nothing is read
        assert readback.content(repository, before) == held  # by which the point before is healed
    assert doubtful(repository)


def test_an_unfinished_run_is_asked_for_what_it_lacks_as_well(
    repository: Repository, source: Path
) -> None:
    (point,) = run(repository, source).points
    left_unfinished(repository, point)
    lose(repository, SegmentClass.DATA)
    (again,) = run(repository, source).points
    assert readback.differences(repository, again, source) == []


def test_nothing_is_looked_up_where_there_is_no_doubt(
    repository: Repository, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(repository, source)
    asked: list[object] = []
    names = Lacking.names

    def noting(self: Lacking, runs: Iterable[bytes]) -> frozenset[bytes]:
        asked.append(runs)
        return names(self, runs)

    monkeypatch.setattr(Lacking, "names", noting)
    assert not doubtful(repository)
    run(repository, source)
    assert asked == []
    cast_doubt(repository.environment)
    run(repository, source)
    assert asked


def test_a_damaged_segment_that_is_taken_in_casts_doubt_first(
    repository: Repository, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = repository.index_path / "data.mdb"
    _ = repository.environment
    old = index.read_bytes()
    run(repository, source)
    rows = [r for r in repository.places.segments() if r.segment_class is SegmentClass.DATA]
    repository.close()
    index.write_bytes(old)  # it has none of the segments: a power cut, or an older copy
    path = repository.folder.segment_path(rows[0].segment_id)
    path.write_bytes(path.read_bytes()[:-200])

    class Killed(BaseException):
        pass

    def kill(*_: object, **__: object) -> None:
        raise Killed

    monkeypatch.setattr(recovery, "_add", kill)
    with pytest.raises(Killed):
        _ = repository.environment
    monkeypatch.undo()
    assert doubtful(repository)


def test_a_new_repository_is_in_no_doubt(repository: Repository, source: Path) -> None:
    run(repository, source)
    assert not doubtful(repository)


def test_doubt_ends_when_somebody_has_found_all_there(repository: Repository, source: Path) -> None:
    run(repository, source)
    for settle in (lambda: verify(repository, level="structure"), lambda: collect(repository),
                   lambda: repair(repository)):  # fmt: skip
        repository.rebuild_index()
        assert doubtful(repository)
        settle()
        assert not doubtful(repository)
        cast_doubt(repository.environment)
        collect(repository, dry_run=True)
        assert doubtful(repository)


@pytest.mark.parametrize("unfinished", [False, True])
def test_doubt_does_not_end_while_something_is_missing(
    repository: Repository, source: Path, unfinished: bool
) -> None:
    (point,) = run(repository, source).points
    if unfinished:
        left_unfinished(repository, point)
    lose(repository, SegmentClass.DATA)
    assert verify(repository, level="structure").damages
    assert doubtful(repository)
    assert collect(repository).chunks_lost
    assert doubtful(repository)
    repair(repository)
    assert doubtful(repository) is unfinished  # repair marks points, not checkpoints
    assert collect(repository).chunks_lost if unfinished else True


def test_a_doubt_that_comes_meanwhile_stays(
    repository: Repository, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(repository, source)
    repository.rebuild_index()
    _ = repository.environment  # so that the verification does not open another one

    def late(*_: object) -> None:
        cast_doubt(repository.environment)

    verify(repository, level="structure", on_progress=late)
    assert doubtful(repository)
    collect(repository, on_progress=late)
    assert doubtful(repository)
    repair(repository, on_progress=late)
    assert doubtful(repository)


def test_a_synthesis_of_what_is_missing_is_not_published(
    repository: Repository, source: Path
) -> None:
    (point,) = run(repository, source).points
    lose(repository, SegmentClass.DATA)
    with pytest.raises(JobFailed, match="gone"):
        synthesize(repository, SynthRequest(points=[point]))
    assert [p.id for p in repository.points()] == [point.id]
    repair(repository)
    (marked,) = repository.points()
    made = synthesize(repository, SynthRequest(points=[marked])).point
    assert made.loss.noted_ns


def test_a_copy_into_a_target_that_lost_segments_takes_nothing_for_there(
    repository: Repository, source: Path, tmp_path: Path
) -> None:
    run(repository, source)
    with collecting.opened(tmp_path / "target") as target:
        copy(repository, target, CopyRequest())
        lose(target, SegmentClass.DATA)
        collecting.plant(source, 2)
        (point,) = run(repository, source).points
        copy(repository, target, CopyRequest())
        copied = target.points()[-1]
        assert readback.content(target, copied) == readback.content(repository, point)
