"""Re-layout: chunks in restore order, in few frames; content, and old places, stay as they were."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import pytest

from ingest.session import IngestRequest, ingest
from repo import keyfile
from repo.errors import Damaged, Interrupted
from repo.format.manifest import Point
from repo.format.place import Place
from repo.keys import KeyFile
from repo.repository import Repository
from repo.types import CHUNK_KEY_BYTES, ChunkId, SegmentClass
from repo.upkeep import relayout
from repo.upkeep.repair import repair
from repo.upkeep.restoreorder import Wanted, restore_order
from repo.upkeep.synth import SynthRequest, SynthSummary, synthesize
from repo.upkeep.verify import verify
from tests.crash.scenes import SMALL
from tests.damage.small import Lost, read_back
from tests.support import command, readback


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relayout, "WINDOW_BYTES", 20_000)
    monkeypatch.setattr(relayout, "SLACK_BYTES", 0)
    monkeypatch.setattr(relayout, "MOVED_AT_ONCE", 7)


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    made = command.Repository(tmp_path / "made")
    made.home.mkdir(parents=True)
    keyfile.create(made.key_file)
    with readback.environment_of(made):
        Repository.create(made.path, KeyFile(made.key_file), header=SMALL).close()
    with readback.opened(made) as repository:
        yield repository


def readable(repository: Repository, point: Point) -> dict[str, object]:
    """What can be read of a point."""
    found = read_back(repository)[point.id.hex()]
    return {path: data for path, data in found.items() if not isinstance(data, Lost)}


@pytest.mark.parametrize("segment_class", [SegmentClass.DATA, SegmentClass.META])
def test_what_a_marked_point_has_lost_is_left_out(
    repository: Repository, aged: list[Point], segment_class: SegmentClass
) -> None:
    rows = [r for r in repository.places.segments() if r.segment_class is segment_class]
    repository.folder.segment_path(rows[0].segment_id).unlink()
    repository.close()
    repair(repository)
    marked = repository.points()[-1]
    assert marked.loss.noted_ns
    held = readable(repository, marked)
    summary = synthesize(repository, SynthRequest(points=[marked], relayout=True, streams=2))
    assert summary.layout is not None
    assert summary.layout.chunks_lost > 0
    assert summary.layout.chunks_rewritten > 0
    assert summary.point.loss.noted_ns
    assert readable(repository, summary.point) == held
    again = synthesize(repository, SynthRequest(points=[summary.point], relayout=True, streams=2))
    assert again.layout is not None
    assert again.layout.chunks_rewritten == 0
    assert verify(repository, level="data").damages == []


@pytest.fixture
def aged(repository: Repository, tmp_path: Path) -> list[Point]:
    """Eight points of a tree of which a part changed each time."""
    source = tmp_path / "source"
    rng = random.Random(7)
    files = [source / f"d{n % 5}" / f"f{n}" for n in range(60)]
    points: list[Point] = []
    (source / "never changed").mkdir(parents=True)
    (source / "never changed" / "file").write_bytes(rng.randbytes(3000))
    for _ in range(8):
        for file in files if not points else rng.sample(files, 12):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(rng.randbytes(rng.randrange(100, 9000)))
        request = IngestRequest(paths=[str(source)], source_ids=["it"], streams=1)
        points += ingest(repository, request).points
    return points


def laid_out(repository: Repository, *points: Point, dry_run: bool = False) -> SynthSummary:
    request = SynthRequest(points=points, relayout=True, streams=2, dry_run=dry_run)
    return synthesize(repository, request)


def order(repository: Repository, point: Point) -> list[Wanted]:
    return list(dict.fromkeys(restore_order(repository.tree, point.root)))


def places(repository: Repository, point: Point) -> list[tuple[Wanted, Place]]:
    wanted = order(repository, point)
    found = repository.places.find_many([one.chunk_id[:CHUNK_KEY_BYTES] for one in wanted])
    return [(one, found[one.chunk_id[:CHUNK_KEY_BYTES]]) for one in wanted]


def test_the_newest_point_lies_in_restore_order_afterwards(
    repository: Repository, aged: list[Point], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relayout, "GOOD_SHARE", 10)  # every window is rewritten
    held = [readback.content(repository, point) for point in aged]
    before = places(repository, aged[-1])
    summary = laid_out(repository, aged[-1])
    layout = summary.layout
    assert layout is not None
    assert 0 < layout.bytes_rewritten <= layout.bytes < layout.frames_bytes
    after = places(repository, aged[-1])
    for segment_class in (SegmentClass.DATA, SegmentClass.META):
        lying = [place for one, place in after if one.segment_class == segment_class]
        segments = [number for number, _ in groupby(place.segment for place in lying)]
        assert len(segments) == len(set(segments))
        turn = {number: at for at, number in enumerate(segments)}
        assert lying == sorted(lying, key=lambda place: (turn[place.segment], place[1:]))
        assert {repository.places.segment(place.segment).segment_class for place in lying} == {
            segment_class
        }
    assert len({place[:2] for _, place in after}) < len({place[:2] for _, place in before})
    assert [readback.content(repository, point) for point in aged] == held
    assert readback.content(repository, summary.point) == held[-1]
    assert verify(repository, level="data").damages == []


def test_old_places_stay_valid_for_whoever_has_them(
    repository: Repository, aged: list[Point]
) -> None:
    before = places(repository, aged[-1])
    laid_out(repository, aged[-1])
    reader = repository.new_reader()
    moved = 0
    for (wanted, old), (_, new) in zip(before, places(repository, aged[-1]), strict=True):
        assert reader.chunk_at(wanted.chunk_id, old) == reader.chunk_at(wanted.chunk_id, new)
        moved += old != new
    assert moved > 0


def test_a_second_time_there_is_nothing_to_do(repository: Repository, aged: list[Point]) -> None:
    laid_out(repository, aged[-1])
    layout = laid_out(repository, aged[-1]).layout
    assert layout is not None
    assert layout.chunks_rewritten == 0


def test_a_rehearsal_counts_and_moves_nothing(repository: Repository, aged: list[Point]) -> None:
    before = places(repository, aged[-1])
    rehearsed = laid_out(repository, aged[-1], dry_run=True).layout
    assert places(repository, aged[-1]) == before
    done = laid_out(repository, aged[-1]).layout
    assert rehearsed == done


def test_an_index_made_anew_reads_all_of_it(repository: Repository, aged: list[Point]) -> None:
    laid_out(repository, *aged)
    held = readback.whole(repository)
    repository.rebuild_index()
    assert readback.whole(repository) == held


def test_all_points_that_were_chosen_are_laid_out(
    repository: Repository, aged: list[Point]
) -> None:
    laid_out(repository, aged[0], aged[-1])
    layout = laid_out(repository, aged[0], aged[-1], dry_run=True).layout
    assert layout is not None
    assert layout.chunks_rewritten == 0


def test_what_was_laid_out_before_it_is_stopped_stays_so(
    repository: Repository, aged: list[Point]
) -> None:
    asked = 0

    def stopped() -> bool:
        nonlocal asked
        asked += 1
        return asked > 4

    request = SynthRequest(points=[aged[-1]], relayout=True, streams=2)
    with pytest.raises(Interrupted):
        synthesize(repository, request, stopped=stopped)
    assert len(repository.points()) == len(aged)
    first = laid_out(repository, aged[-1], dry_run=True).layout
    assert first is not None
    layout = laid_out(repository, aged[-1]).layout
    assert layout is not None
    assert 0 < layout.chunks_rewritten == first.chunks_rewritten < len(order(repository, aged[-1]))
    assert verify(repository, level="data").damages == []


def test_a_missing_chunk_is_told(repository: Repository, aged: list[Point]) -> None:
    chunk = order(repository, aged[-1])[-1].chunk_id
    repository.environment.write(
        lambda txn: repository.places.remove_places(txn, [chunk[:CHUNK_KEY_BYTES]])
    )
    with pytest.raises(Damaged, match="missing"):
        laid_out(repository, aged[-1])


def test_chunks_of_deep_extent_pages_come_in_turn(repository: Repository, tmp_path: Path) -> None:
    source = tmp_path / "large"
    source.mkdir()
    (source / "f").write_bytes(random.Random(1).randbytes(600_000))
    request = IngestRequest(paths=[str(source)], streams=1)
    (point,) = ingest(repository, request).points
    wanted = order(repository, point)
    (entry,) = repository.tree.entries(point.root)
    data = [one.chunk_id for one in wanted if one.segment_class == SegmentClass.DATA]
    assert data == [ChunkId(extent.id) for extent in repository.tree.extents(entry)]
    laid_out(repository, point)
    assert readback.differences(repository, point, source) == []
