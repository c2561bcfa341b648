"""Repairs: nothing that could be read gets lost, what is lost is named, and what is found heals."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from mount.cache import FrameCache
from mount.shelf import Shelf
from repo.errors import Damaged, Interrupted
from repo.index.condemned import Condemned
from repo.repository import Repository
from repo.storage.folder import Folder
from repo.types import MIB, PointId, SegmentClass
from repo.upkeep.copy import CopyRequest, copy
from repo.upkeep.healing import Healer, RepositoryHealer, SourceHealer, Store
from repo.upkeep.losses import STEP
from repo.upkeep.repair import RepairReport, repair
from repo.upkeep.salvage import Salvage
from repo.upkeep.synth import SynthRequest, synthesize
from repo.upkeep.verify import verify
from tests.damage.small import Contents, Small, lost_paths, read_back, segment_of
from tests.repo.upkeep.copying import break_at, by_origin, target_in
from tests.support import readback


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """Two points, which nobody changes."""
    return Small.make(tmp_path_factory.mktemp("original"))


@pytest.fixture(scope="module")
def truth(original: Small) -> Contents:
    with original.open() as repository:
        return read_back(repository)


@pytest.fixture
def hurt(original: Small, tmp_path: Path) -> Small:
    """The like, to be damaged."""
    shutil.copytree(original.home, tmp_path / "hurt", symlinks=True)
    return Small(tmp_path / "hurt")


def repaired(
    made: Small, healers: Callable[[Store], Sequence[Healer]] = lambda _store: ()
) -> RepairReport:
    with made.open() as repository:
        return repair(repository, healers=healers, streams=2)


def class_of(path: Path) -> SegmentClass:
    return SegmentClass(path.read_bytes()[10])


def marks(repository: Repository) -> set[tuple[str, str]]:
    """(point, path) of everything that marks say is lost."""
    return {
        (point.id.hex(), os.fsdecode(problem.path) or ".")
        for point in repository.points()
        for problem in readback.problems(repository, point)
        if problem.step == STEP
    }


def check_repaired(made: Small, truth: Contents, before: Contents) -> set[tuple[str, str]]:
    """What a repair must leave, given what could be read before; what is lost."""
    with made.open() as repository:
        after = read_back(repository)
        assert after.keys() == before.keys()
        for point, contents in before.items():
            for path, data in contents.items():
                if isinstance(data, bytes):
                    assert after[point].get(path) == data == truth[point][path], path
        lost = lost_paths(after)
        assert marks(repository) == lost
        for each in repository.points():
            mine = [path for of, path in lost if of == each.id.hex()]
            assert each.loss.files + each.loss.directories == len(mine)
            assert each.loss.problems == each.problems_total == len(mine)
        report = verify(repository, level="data")
        assert report.damages == []
        assert (report.points_marked > 0) is bool(lost)
        assert report.losses_known == len(lost)
        repository.rebuild_index()
        assert read_back(repository).keys() == after.keys()
        assert lost_paths(read_back(repository)) == lost
    return lost


def check_again(made: Small, report: RepairReport) -> None:
    """A second repair finds the same and changes nothing."""
    before = state(made.path)
    again = repaired(made)
    assert (again.exit_status, again.marked, again.whole) == (report.exit_status, 0, 0)
    assert again.diagnosis.segments == {}
    assert [loss.point.id for loss in again.losses] == [loss.point.id for loss in report.losses]
    assert state(made.path) == before


def state(path: Path) -> dict[str, bytes]:
    """All files of a repository but its leases."""
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and "leases" not in file.parts
    }


# -- damage of each kind --------------------------------------------------------------------------


def _removed(path: Path) -> None:
    path.unlink()


def _emptied(path: Path) -> None:
    path.write_bytes(b"")


def _halved(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _magic(path: Path) -> None:
    break_at(path, 0)


def _salt(path: Path) -> None:
    break_at(path, 50)


def _commitment(path: Path) -> None:
    break_at(path, 90)


def _footer(path: Path) -> None:
    break_at(path, path.stat().st_size - 100)


def _trailer(path: Path) -> None:
    break_at(path, path.stat().st_size - 20)


def _first_frame(path: Path) -> None:
    break_at(path, 300)


def _head(path: Path) -> None:
    break_at(path, 140)


def _head_and_footer(path: Path) -> None:
    break_at(path, 140)
    break_at(path, path.stat().st_size - 100)


def _zeros(path: Path) -> None:
    data = bytearray(path.read_bytes())
    start = len(data) // 3
    data[start : start + 5000] = bytes(len(data[start : start + 5000]))
    path.write_bytes(data)


KINDS = (
    _removed, _emptied, _halved, _magic, _salt, _commitment, _footer, _trailer, _first_frame,
    _head, _head_and_footer, _zeros,
)  # fmt: skip
HARMLESS = (_magic, _commitment, _footer, _trailer)
"""What costs nothing: all frames are there, and the salt that gives their key."""


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("of", [SegmentClass.DATA, SegmentClass.META], ids=lambda of: of.name)
def test_a_repair_keeps_what_can_be_read_and_names_the_rest(
    hurt: Small, truth: Contents, kind: Callable[[Path], None], of: SegmentClass
) -> None:
    segment = max(
        (path for path in hurt.segments() if class_of(path) is of),
        key=lambda path: path.stat().st_size,
    )
    segment.chmod(0o600)
    kind(segment)
    with hurt.open() as repository:
        before = read_back(repository)
    report = repaired(hurt)
    lost = check_repaired(hurt, truth, before)
    assert report.exit_status == (4 if lost else 0)
    if kind in HARMLESS:
        assert not lost
    if kind is not _removed:
        assert [path.name for path in hurt.path.glob("segments/*/*.damaged")] == [
            f"{segment.name}.damaged"
        ]
    check_again(hurt, report)


def test_whoever_looked_up_a_place_before_reads_on(hurt: Small) -> None:
    """Also one that has read nothing yet of the segment, which the index has no more."""
    segment = max(hurt.segments(), key=lambda path: path.stat().st_size)
    _footer(segment)
    with hurt.open() as repository:
        reader = repository.new_reader()
        mounted = repository.new_reader()
        shelf = Shelf(mounted, FrameCache(MIB))
        ids = [
            extent.id
            for point in repository.points()
            for entry in repository.tree.entries(point.root)
            for extent in repository.tree.extents(entry)
            if not extent.is_hole
        ]
        places = reader.places_of(ids)
        moving = [
            place
            for place in places
            if repository.reader.segment(place).segment_id.hex() == segment.name
        ]
        assert moving
        assert shelf.places(ids) == places
        assert repair(repository, streams=1).set_aside
        assert mounted.open_frames(list({place[:2] for place in places})), "in the file set aside"
        for chunk_id, place in zip(ids, places, strict=True):
            data = reader.chunk_at(chunk_id, place)
            assert repository.keys.chunk_id(data) == chunk_id


def test_frames_are_found_behind_damage_without_footer_and_index(
    hurt: Small, truth: Contents
) -> None:
    """Of a segment of which head and tail are broken, everything but one frame is found."""
    shutil.rmtree(hurt.index_dir)
    segment = max(hurt.segments(), key=lambda path: path.stat().st_size)
    with hurt.open() as repository:
        segment_id = segment_of(segment)
        number = repository.places.by_id(segment_id)
        assert number is not None
        frames = len(repository.places.segment(number).frames) // 16
    segment.chmod(0o600)
    _head_and_footer(segment)
    with hurt.open() as repository:
        data = segment.read_bytes()
        salvage = Salvage(
            lambda offset, length: data[offset : offset + length],
            len(data),
            repository.keys,
            segment_id,
        )
        assert len(list(salvage.frames())) == frames - 1
        before = read_back(repository)
    repaired(hurt)
    assert check_repaired(hurt, truth, before)


@pytest.mark.parametrize("seed", range(4))
def test_many_damages_at_once(hurt: Small, truth: Contents, seed: int) -> None:
    rng = random.Random(seed)
    for segment in rng.sample(hurt.segments(), 5):
        segment.chmod(0o600)
        rng.choice(KINDS)(segment)
    with hurt.open() as repository:
        before = read_back(repository)
    check_again(hurt, (report := repaired(hurt)))
    lost = check_repaired(hurt, truth, before)
    assert report.exit_status == (4 if lost else 0)


def test_a_healthy_repository_is_left_as_it_is(hurt: Small) -> None:
    repaired(hurt)
    before = state(hurt.path)
    report = repaired(hurt)
    assert (report.exit_status, report.damaged, report.chunks_salvaged) == (0, False, 0)
    assert report.diagnosis.bytes_read > 100_000
    assert state(hurt.path) == before


def test_a_dry_run_tells_the_same_and_changes_nothing(hurt: Small) -> None:
    data = max(hurt.segments(), key=lambda path: path.stat().st_size)
    break_at(data, 4000)
    with hurt.open() as repository:
        repository.places.count()
    before = state(hurt.path)
    with hurt.open() as repository:
        dry = repair(repository, dry_run=True)
    assert state(hurt.path) == before
    report = repaired(hurt)
    assert dry.losses
    assert dry.exit_status == report.exit_status == 4
    assert dry.chunks_salvaged == report.chunks_salvaged > 0
    told = [(loss.point.id, loss.paths, loss.loss.bytes_lost) for loss in dry.losses]
    assert told == [(loss.point.id, loss.paths, loss.loss.bytes_lost) for loss in report.losses]


def test_an_index_that_is_wrong_is_made_anew(hurt: Small, truth: Contents) -> None:
    with hurt.open() as repository:
        places = repository.places
        keys = [key for key, _ in places.rows()][::3]
        repository.environment.write(lambda txn: places.remove_places(txn, keys))
    report = repaired(hurt)
    assert (report.diagnosis.index != "", report.exit_status) == (True, 0)
    with hurt.open() as repository:
        assert read_back(repository) == truth


def test_it_stops_when_asked(hurt: Small) -> None:
    with hurt.open() as repository, pytest.raises(Interrupted):
        repair(repository, stopped=lambda: True)


def test_readers_go_on_with_what_was_set_aside(hurt: Small, truth: Contents) -> None:
    """A mount that looked its places up before still reads every good frame."""
    segment = max(hurt.segments(), key=lambda path: path.stat().st_size)
    break_at(segment, segment.stat().st_size - 100)
    with hurt.open() as mounted:
        places = dict(mounted.places.rows())
        number = mounted.places.by_id(segment_of(segment))
        assert number is not None
        row = mounted.places.segment(number)
        reader = mounted.new_reader()
        assert repair(mounted).exit_status == 0
        assert not segment.exists()
        found = [place for place in places.values() if place.segment == number]
        assert found
        with pytest.MonkeyPatch.context() as patch:  # as the index was when they were looked up
            patch.setattr(reader.places, "segment", lambda _number, fresh=False: row)
            for place in found:
                assert reader.frame(place.segment, place.frame).chunks
        assert read_back(mounted) == truth


# -- healing --------------------------------------------------------------------------------------


def lose_content(made: Small) -> None:
    """Remove all segments of content."""
    for path in made.segments():
        if class_of(path) is SegmentClass.DATA:
            path.unlink()


def test_a_source_heals_what_it_still_has(tmp_path: Path) -> None:
    made = Small.make(tmp_path / "made")
    with made.open() as repository:
        truth, keys = read_back(repository), repository.keys
    lose_content(made)
    (made.source / "large").write_bytes(b"other" * 18_000)
    report = repaired(made, lambda store: [SourceHealer(made.source, keys, store)])
    assert report.chunks_healed > 50
    first, second = sorted(truth, key=lambda point: len(truth[point]))
    with made.open() as repository:
        after = read_back(repository)
        lost = lost_paths(after)
        assert marks(repository) == lost
        # Of the second point everything is in the source: "large again" has what "large" had.
        assert {path for point, path in lost if point == second} == set()
        assert {path for point, path in lost if point == first} == {"d1/deep/random"}
        assert after[second] == truth[second]
        assert verify(repository, level="data").damages == []


def test_other_content_at_the_same_path_is_not_taken(tmp_path: Path) -> None:
    made = Small.make(tmp_path / "made")
    lose_content(made)
    for file in made.source.rglob("*"):
        if file.is_file() and not file.is_symlink():
            file.write_bytes(b"x" * file.stat().st_size)
    with made.open() as repository:
        keys = repository.keys
    report = repaired(made, lambda store: [SourceHealer(made.source, keys, store)])
    assert report.chunks_healed == 0
    assert report.exit_status == 4


@pytest.mark.parametrize("of", [SegmentClass.DATA, SegmentClass.META, None])
def test_a_second_copy_heals_everything(
    original: Small, hurt: Small, truth: Contents, tmp_path: Path, of: SegmentClass | None
) -> None:
    """Content, nodes, pages and problem lists: all of them have the id again that was lost."""
    with original.open() as repository, target_in(tmp_path / "copy") as second:
        copy(repository, second, CopyRequest())
    for path in hurt.segments():
        if of in {None, class_of(path)}:
            path.unlink()
    assert repaired(hurt).exit_status == 4
    with hurt.open() as repository:
        assert marks(repository)
    with target_in(tmp_path / "copy") as second, hurt.open() as repository:
        report = repair(
            repository, healers=lambda store: [RepositoryHealer(second, repository, store)]
        )
        assert (report.exit_status, report.whole) == (0, 2)
        assert read_back(repository) == truth
        assert marks(repository) == set()
        assert all(point.problems_total == 0 for point in repository.points())
        assert verify(repository, level="data").damages == []


def test_a_copy_is_healed_by_its_origin(original: Small, truth: Contents, tmp_path: Path) -> None:
    with original.open() as repository, target_in(tmp_path / "copy") as second:
        copy(repository, second, CopyRequest())
        for path in list(second.path.glob("segments/*/*"))[::2]:
            path.unlink()
    with original.open() as repository, target_in(tmp_path / "copy") as second:
        assert repair(second).exit_status == 4
        report = repair(second, healers=lambda store: [RepositoryHealer(repository, second, store)])
        assert report.exit_status == 0
        assert by_origin(second) == truth


def test_the_same_content_saved_again_heals(tmp_path: Path) -> None:
    made = Small.make(tmp_path / "made")
    with made.open() as repository:
        truth = read_back(repository)
    lose_content(made)
    assert repaired(made).exit_status == 4
    made.ingest()
    report = repaired(made)
    assert report.whole == 1, "the second point has what the source has"
    with made.open() as repository:
        after = read_back(repository)
        second = max(truth, key=lambda point: len(truth[point]))
        assert after[second] == truth[second]


def test_a_damaged_manifest_is_set_aside_or_brought_back(
    original: Small, hurt: Small, truth: Contents, tmp_path: Path
) -> None:
    with original.open() as repository, target_in(tmp_path / "copy") as second:
        copy(repository, second, CopyRequest())
        lost = repository.points()[0]
    break_at(hurt.path / "points" / lost.id.hex(), 300)
    with hurt.open() as repository:
        report = repair(repository)
        assert (report.points_lost, report.exit_status) == ([lost.id], 4)
        assert len(repository.points()) == 1
        assert (hurt.path / "points" / f"{lost.id.hex()}.damaged").exists()
        assert repair(repository).exit_status == 0
    (hurt.path / "points" / f"{lost.id.hex()}.damaged").rename(hurt.path / "points" / lost.id.hex())
    with target_in(tmp_path / "copy") as second, hurt.open() as repository:
        report = repair(
            repository, healers=lambda store: [RepositoryHealer(second, repository, store)]
        )
        assert (report.points_brought_back, report.exit_status) == ([PointId(lost.id)], 0)
        assert read_back(repository) == truth
        assert repository.points()[0].root == lost.root
        assert Folder.open(hurt.path).remove_aside() == 1


def test_a_point_that_is_forgotten_meanwhile_does_not_come_back(hurt: Small) -> None:
    """The mark exchanges names: where there is no point any more, none is made."""
    with hurt.open() as repository:
        point_id = PointId(repository.points()[0].id)
        data = repository.folder.read_point(point_id)
        repository.folder.remove_point(point_id)
        assert repository.folder.replace_point(point_id, data) is False
        assert len(list(repository.folder.points())) == 1
        repository.folder.write_point(point_id, data)
        assert repository.folder.replace_point(point_id, data[::-1]) is True
        with pytest.raises(Damaged):
            repository.points()
    assert not list(hurt.path.glob("points/.*"))


def test_a_point_made_of_marked_ones_is_marked(hurt: Small) -> None:
    """Nothing that lacks content is published as if it were whole."""
    break_at(max(hurt.segments(), key=lambda path: path.stat().st_size), 4000)
    assert repaired(hurt).exit_status == 4
    with hurt.open() as repository:
        first, second = repository.points()
        alone = synthesize(repository, SynthRequest(points=[second])).point
        both = synthesize(repository, SynthRequest(points=[first, second])).point
        made = {point.id.hex() for point in (alone, both)}
        lost = {(point, path) for point, path in lost_paths(read_back(repository))}
        assert {each for each in lost if each[0] in made}
        assert marks(repository) == lost
        assert all(point.problems_total == point.loss.problems for point in repository.points())
        assert verify(repository, level="data").damages == []
        assert repair(repository).marked == 0


def test_what_garbage_collection_has_condemned_is_not_salvaged(hurt: Small) -> None:
    with hurt.open() as repository:
        segment = max(hurt.segments(), key=lambda path: path.stat().st_size)
        places = repository.places
        number = places.by_id(segment_of(segment))
        assert number is not None
        rows = [key + place.pack() for key, place in places.rows() if place.segment == number]
        condemned = Condemned(places)
        repository.environment.write(lambda txn: condemned.condemn(txn, rows))
        break_at(segment, 4000)
        report = repair(repository)
        assert (report.chunks_salvaged, len(report.diagnosis.segments)) == (0, 1)
        assert not segment.exists()
    with hurt.open() as repository:
        assert repository.places.by_id(segment_of(segment)) is None


def test_a_damaged_segment_that_is_retired_is_only_set_aside(hurt: Small) -> None:
    with hurt.open() as repository:
        segment = max(hurt.segments(), key=lambda path: path.stat().st_size)
        places = repository.places
        number = places.by_id(segment_of(segment))
        assert number is not None
        rows = [key + place.pack() for key, place in places.rows() if place.segment == number]
        condemned = Condemned(places)
        repository.environment.write(lambda txn: condemned.condemn(txn, rows))
        repository.environment.write(lambda txn: condemned.retire(txn, [number]))
        break_at(segment, 4000)
        assert repair(repository).chunks_salvaged == 0
        assert not segment.exists()
        keys = [row[:16] for row in rows]
        assert repository.environment.write(lambda txn: condemned.drop_segment(txn, number, keys))
