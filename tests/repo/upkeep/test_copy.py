"""Copies: equal bit for bit, cheap the second time, and honest about what the origin lacks."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from ingest.delta import DeltaRequest, ingest_delta
from ingest.session import IngestRequest, ingest
from repo.errors import Damaged, Interrupted, UsageError
from repo.format import limits
from repo.format.manifest import Origin, Point
from repo.format.node import (
    EMPTY_RUN,
    Entry,
    Node,
    PageRow,
    Run,
    Totals,
    pack_entries,
    pack_page,
)
from repo.index.condemned import Condemned
from repo.points import read_pin
from repo.repository import Repository
from repo.types import PointId
from repo.upkeep import forget
from repo.upkeep.copy import CopyProgress, CopyReport, CopyRequest, copy
from repo.upkeep.losses import STEP
from repo.upkeep.readback import read_back
from repo.upkeep.repair import repair
from repo.upkeep.verify import verify
from tests.damage.small import HEADER, Contents, Small, lost_paths
from tests.damage.small import read_back as contents_of
from tests.repo import made
from tests.repo.upkeep.copying import break_at, by_origin, target_in
from tests.support import readback

ALL = CopyRequest(streams=2)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """Two points, which nobody changes."""
    return Small.make(tmp_path_factory.mktemp("original"))


@pytest.fixture
def origin(tmp_path: Path) -> Small:
    """The like, to do things to."""
    return Small.make(tmp_path / "origin")


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Repository]:
    with target_in(tmp_path / "target") as repository:
        yield repository


def copied(origin: Small, target: Repository, request: CopyRequest = ALL) -> CopyReport:
    with origin.open() as repository:
        return copy(repository, target, request)


def entries(repository: Repository, point: Point) -> dict[bytes, Entry]:
    """All entries of a point by path, without the ids, which differ between repositories."""
    found = {}
    stack = [(b"", point.root)]
    while stack:
        path, entry = stack.pop()
        found[path] = msgspec.structs.replace(entry, node=b"", extents=b"")
        below = repository.tree.entries(entry) if entry.node else ()
        stack += [(path + b"/" + each.name, each) for each in below]
    return found


def segments(repository: Repository) -> list[Path]:
    return sorted(repository.path.glob("segments/*/*"))


def test_a_copy_holds_the_same_bit_for_bit(original: Small, target: Repository) -> None:
    with original.open() as repository:
        report = copy(repository, target, CopyRequest(streams=2, verify=True))
        assert (len(report.copied), report.there, report.exit_status) == (2, 0, 0)
        pairs = zip(repository.points(), target.points(), strict=True)
        for point, there in pairs:
            assert readback.content(target, there) == readback.content(repository, point)
            assert entries(target, there) == entries(repository, point)
            assert there.origin == Origin(HEADER.repository_id, point.id)
            assert (there.id != point.id, there.received_ns) == (True, point.received_ns)
            assert there.root.node != point.root.node
    assert verify(target, level="data").damages == []
    assert not list(target.path.glob("segments/*/*.open"))
    assert not list(target.path.glob("leases/*"))


def test_the_second_time_nothing_is_read_or_written(original: Small, target: Repository) -> None:
    copied(original, target)
    before = segments(target)
    report = copied(original, target)
    assert (report.copied, report.there, report.bytes_read) == ([], 2, 0)
    assert (segments(target), len(target.points())) == (before, 2)


def test_a_later_point_costs_what_changed(origin: Small, target: Repository) -> None:
    copied(origin, target)
    content = random.Random(7).randbytes(3000)
    (origin.source / "d3" / "deep" / "later").write_bytes(content)
    origin.ingest()
    report = copied(origin, target)
    assert (len(report.copied), report.there) == (1, 2)
    assert report.bytes_read == report.bytes_new == len(content)
    with origin.open() as repository:
        assert by_origin(target) == contents_of(repository)


def test_what_a_killed_run_had_stored_is_found_again(original: Small, target: Repository) -> None:
    steps = 0

    def stopped() -> bool:
        nonlocal steps
        steps += 1
        return steps > 60

    with original.open() as repository, pytest.raises(Interrupted, match="interrupted"):
        copy(repository, target, CopyRequest(streams=1), stopped=stopped)
    assert target.points() == []
    target.recover()
    stored = target.places.count()
    assert stored > 50
    before = target.places.count()
    report = copied(original, target)
    assert len(report.copied) == 2
    assert report.bytes_new < report.bytes_read
    with original.open() as repository:
        assert target.places.count() <= repository.places.count()
        assert before < target.places.count()
        assert by_origin(target) == contents_of(repository)


def test_points_are_chosen_by_source_tag_and_time(origin: Small, target: Repository) -> None:
    with origin.open() as repository:
        first, second = repository.points()
        for request, expected in (
            (CopyRequest(sources=["other"]), []),
            (CopyRequest(sources=[first.source_id]), [first, second]),
            (CopyRequest(tags=["weekly"]), []),
            (CopyRequest(since_ns=second.received_ns), [second]),
            (CopyRequest(until_ns=second.received_ns), [first]),
            (CopyRequest(points=[second.id.hex()[:12]]), [second]),
            (CopyRequest(points=["latest"], sources=["other"]), []),
        ):
            report = copy(repository, target, replace(request, dry_run=True))
            assert [point for point, _ in report.copied] == expected
        assert target.points() == []
        with pytest.raises(UsageError, match="no such point"):
            copy(repository, target, CopyRequest(points=["0123"]))


def test_a_repository_is_not_copied_to_itself(original: Small) -> None:
    with (
        original.open() as one,
        original.open() as other,
        pytest.raises(UsageError, match="the same repository"),
    ):
        copy(one, other, ALL)


def test_a_copy_that_comes_home_is_recognised(
    origin: Small, target: Repository, tmp_path: Path
) -> None:
    copied(origin, target)
    with origin.open() as repository:
        report = copy(target, repository, ALL)
        assert (report.copied, report.there) == ([], 2)
        with target_in(tmp_path / "third") as third:
            third_report = copy(target, third, ALL)
            assert len(third_report.copied) == 2
            assert copy(repository, third, ALL).there == 2, "the origin is told through a copy"
        (gone, _) = repository.points()
        repository.folder.remove_point(PointId(gone.id))
        back = copy(target, repository, ALL)
        assert [point.origin.point for point, _ in back.copied] == [gone.id]
        assert back.bytes_new == 0, "its chunks were all there"


def test_a_clone_takes_over_by_id(origin: Small, tmp_path: Path) -> None:
    """Folder and keys copied by hand: both have the same ids, and no content is read twice."""
    shutil.copytree(origin.home, tmp_path / "clone", symlinks=True)
    clone = Small(tmp_path / "clone")
    content = random.Random(8).randbytes(5000)
    (origin.source / "later").write_bytes(content)
    newest = origin.ingest()
    with origin.open() as one, clone.open() as other:
        report = copy(one, other, ALL)
        assert [point.id for point, _ in report.copied] == [newest]
        assert report.bytes_read == len(content)
        assert report.copied[0][1].root.node == report.copied[0][0].root.node


def test_the_part_that_a_delta_holds_is_not_taken_for_the_whole(
    target: Repository, tmp_path: Path
) -> None:
    """A directory of a later point may be, to the byte, what a delta holds of that directory."""
    origin = Small(tmp_path / "origin")
    origin.make_empty()
    folder = origin.source / "folder"
    folder.mkdir()
    for name in ("gone", "changed"):
        (folder / name).write_bytes(name.encode() * 100)

    def delta(base: Point, changed: bytes, deleted: bytes) -> Point:
        for name, paths in (("changed", changed), ("deleted", deleted)):
            (tmp_path / name).write_bytes(paths)
        request = DeltaRequest(
            path=str(origin.source), base=base.id.hex(), source_id="it",
            files_from=str(tmp_path / "changed"), deleted_from=str(tmp_path / "deleted"),
        )  # fmt: skip
        return ingest_delta(repository, request).point

    with origin.open() as repository:
        request = IngestRequest(paths=[str(origin.source)], source_ids=["it"], base="none")
        (full,) = ingest(repository, request).points
        (folder / "changed").write_bytes(b"other")
        first = delta(full, b"folder/changed\0", b"")
        assert len(copy(repository, target, ALL).copied) == 2
        (folder / "gone").unlink()
        second = delta(first, b"", b"folder/gone\0")
        part = repository.tree.lookup(first.root, b"folder")
        whole = repository.tree.lookup(repository.resolved(second).root, b"folder")
        assert part is not None
        assert whole is not None
        assert part.node == whole.node, "else this test shows nothing"
        ((_, there),) = copy(repository, target, ALL).copied
        assert sorted(readback.content(target, there)) == [b"", b"/folder", b"/folder/changed"]


def test_a_delta_without_its_base_is_told_and_the_rest_copied(
    target: Repository, tmp_path: Path
) -> None:
    origin = Small.make(tmp_path / "origin")
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "none").write_bytes(b"")
    with origin.open() as repository:
        base = repository.points()[0]
        ingest_delta(
            repository,
            DeltaRequest(
                path=str(origin.source), base=base.id.hex(), source_id=base.source_id,
                files_from=str(lists / "none"), deleted_from=str(lists / "none"),
            ),
        )  # fmt: skip
        (origin.path / "points" / base.id.hex()).unlink()
        report = copy(repository, target, ALL)
        assert (len(report.copied), report.exit_status) == (1, 4)
        assert "base of a delta point" in report.damages[0].what


# -- directories of pages -------------------------------------------------------------------------


def paged_point(repository: Repository) -> Point:
    """A point whose root has pages in both runs, with sub-directories on some of them."""
    writer = repository.writer()
    chunks = made.store(repository, writer, made.contents(40))
    sizes = [len(content) for content in made.contents(40)]

    def file(number: int) -> Entry:
        extent = (chunks[number % 40], sizes[number % 40])
        return made.file_entry(b"f%04d" % number, [extent])

    below = made.directory_entry(repository, writer, b"", [file(1), file(2)])
    runs = []
    for start in (0, 500):
        pages = []
        for at in range(start, start + 300, 100):
            entries = [file(number) for number in range(at, at + 100)]
            if start:
                entries[7] = msgspec.structs.replace(below, name=entries[7].name)
            size = sum(entry.bytes_below if entry.node else entry.size for entry in entries)
            count = sum(1 + entry.entries_below for entry in entries)
            page = made.put(repository, writer, pack_page(pack_entries(entries), len(entries)))
            pages.append(PageRow(entries[0].name, page, len(entries), count, size))
        runs.append(Run(300, pages=tuple(pages)))
    totals = Totals(
        sum(page.entries_below for run in runs for page in run.pages),
        sum(page.bytes_below for run in runs for page in run.pages),
    )
    root = made.node_entry(repository, writer, b"", Node(runs[0], runs[1], totals))
    writer.commit(close=True)
    point = made.point_of(root, 1)
    writer.publish(point)
    return point


def test_pages_keep_their_shape(target: Repository, tmp_path: Path) -> None:
    (tmp_path / "paged").mkdir()
    with made.make(tmp_path / "paged") as repository:
        point = paged_point(repository)
        ((_, there),) = copy(repository, target, ALL).copied
        assert entries(target, there) == entries(repository, point)
        assert readback.content(target, there) == readback.content(repository, point)
        one, other = repository.tree.node(point.root), target.tree.node(there.root)
        for run, again in ((one.joined, other.joined), (one.listed, other.listed)):
            assert [p.first_name for p in run.pages] == [p.first_name for p in again.pages]
    assert verify(target, level="data").damages == []


def test_a_deep_tree_is_copied_without_recursion(target: Repository, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    with made.make(tmp_path / "deep") as repository:
        writer = repository.writer()
        entry = made.directory_entry(repository, writer, b"d", [])
        for _ in range(3000):
            entry = made.directory_entry(repository, writer, b"d", [entry])
        root = msgspec.structs.replace(entry, name=b"")
        writer.commit(close=True)
        writer.publish(made.point_of(root, 1))
        ((point, there),) = copy(repository, target, ALL).copied
        assert entries(target, there) == entries(repository, point)


def test_an_empty_run_stays_one(target: Repository, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with made.make(tmp_path / "empty") as repository:
        writer = repository.writer()
        root = made.node_entry(repository, writer, b"", Node(EMPTY_RUN, EMPTY_RUN, Totals()))
        writer.commit(close=True)
        writer.publish(made.point_of(root, 1))
        ((_, there),) = copy(repository, target, ALL).copied
        assert target.tree.node(there.root) == Node(EMPTY_RUN, EMPTY_RUN, Totals())


# -- a damaged origin -----------------------------------------------------------------------------


def problems_named(target: Repository, point: Point) -> set[bytes]:
    return {problem.path for problem in readback.problems(target, point) if problem.step == STEP}


def check_marked(target: Repository, truth: Contents, kept: Contents) -> None:
    """The target serves what the origin could, nothing else, and names all that is missing."""
    found = by_origin(target)
    expected = lost_paths(kept)
    for point in target.points():
        origin = point.origin.point.hex()
        named = {
            path.decode(errors="surrogateescape") or "." for path in problems_named(target, point)
        }
        missing = {path for lost, path in expected if lost == origin}
        assert named == missing
        assert bool(point.loss.noted_ns) is bool(missing)
        assert point.loss.files + point.loss.directories == len(missing)
        assert point.problems_total == len(missing)
        for path, content in kept[origin].items():
            if isinstance(content, bytes):
                assert found[origin].get(path) == content == truth[origin][path]
    assert lost_paths(found) == expected


def test_each_segment_lost_in_turn(original: Small, tmp_path: Path) -> None:
    """Whatever segment of the origin is gone: the rest is copied, and what lacks is marked."""
    with original.open() as repository:
        truth = contents_of(repository)
    lossy = 0
    for number, segment in enumerate(original.segments()):
        origin = Small(tmp_path / f"origin{number}")
        shutil.copytree(original.home, origin.home, symlinks=True)
        (origin.path / segment.relative_to(original.path)).unlink()
        with origin.open() as repository, target_in(tmp_path / f"target{number}") as target:
            kept = contents_of(repository)
            report = copy(repository, target, ALL)
            assert report.exit_status == (4 if lost_paths(kept) else 0)
            check_marked(target, truth, kept)
            lossy += report.exit_status == 4
            again = copy(repository, target, ALL)
            assert (again.copied, again.there) == ([], 2)
    assert lossy > 3


@pytest.mark.parametrize("number", range(3))
def test_flipped_bits_of_every_segment(origin: Small, target: Repository, number: int) -> None:
    with origin.open() as repository:
        truth = contents_of(repository)
    for segment in origin.segments():
        break_at(segment, random.Random(number).randrange(128, segment.stat().st_size * 3 // 4))
    with origin.open() as repository:
        kept = contents_of(repository)
        copy(repository, target, ALL)
    check_marked(target, truth, kept)


def test_a_marked_point_is_copied_with_its_mark(origin: Small, target: Repository) -> None:
    """What was named in the origin is named once in the copy, by lists of its own."""
    break_at(max(origin.segments(), key=lambda path: path.stat().st_size), 4000)
    with origin.open() as repository:
        truth = contents_of(repository)
        repair(repository)
        kept = contents_of(repository)
        assert lost_paths(kept)
        copy(repository, target, ALL)
    check_marked(target, truth, kept)
    assert verify(target, level="data").damages == []


def test_a_marked_copy_is_published_though_garbage_was_collected(
    origin: Small, target: Repository
) -> None:
    """What the target's collection condemned comes back; what is lost cannot, and is marked."""
    copied(origin, target)
    for point in target.points():
        target.folder.remove_point(PointId(point.id))
    break_at(max(origin.segments(), key=lambda path: path.stat().st_size), 4000)
    condemned = Condemned(target.places)
    collected = 0

    def collect(_state: CopyProgress) -> None:
        nonlocal collected
        rows = [key + place.pack() for key, place in target.places.rows()]
        if not collected:
            collected = target.environment.write(lambda txn: condemned.condemn(txn, rows))

    with origin.open() as repository:
        kept = contents_of(repository)
        report = copy(repository, target, ALL, on_progress=collect)
    assert (collected > 50, report.exit_status) == (True, 4)
    assert lost_paths(by_origin(target)) == lost_paths(kept) != set()
    assert verify(target, level="data").damages == []


def test_a_lost_manifest_is_told_and_the_rest_copied(origin: Small, target: Repository) -> None:
    point = next(iter(sorted((origin.path / "points").iterdir())))
    break_at(point, 200)
    report = copied(origin, target)
    assert (len(report.copied), len(report.damages), report.exit_status) == (1, 1, 4)


def test_a_marked_copy_is_tried_again_when_asked(origin: Small, target: Repository) -> None:
    data = max(origin.segments(), key=lambda path: path.stat().st_size)
    whole = data.read_bytes()
    break_at(data, 4000)
    with origin.open() as repository:
        copy(repository, target, ALL)
        data.write_bytes(whole)
    marked = [point for point in target.points() if point.loss.noted_ns]
    assert marked
    assert copied(origin, target).copied == []
    report = copied(origin, target, CopyRequest(streams=1, again=True))
    assert (len(report.copied), report.exit_status) == (len(marked), 0)
    assert copied(origin, target, CopyRequest(again=True)).copied == []
    with origin.open() as repository:
        truth = contents_of(repository)
    for point, there in report.copied:
        assert contents_of(target)[there.id.hex()] == truth[point.id.hex()]


def test_pins_stay_behind(original: Small, target: Repository) -> None:
    """They say what one repository keeps; the other one has its own."""
    with original.open() as repository:
        point = repository.points()[0]
        forget.pin(repository, point, reason="ours", until_ns=0, made_by="me")
        try:
            assert len(copy(repository, target, ALL).copied) == 2
        finally:
            forget.unpin(repository, point)
    assert [read_pin(target.folder, target.keys, PointId(p.id)) for p in target.points()] == [
        None,
        None,
    ]


def test_what_another_run_has_copied_meanwhile_is_not_published_again(
    original: Small, target: Repository
) -> None:
    """The other one is faster: it begins when the first point is in work, and ends before."""
    others: list[CopyReport] = []

    with original.open() as repository:

        def meanwhile(state: CopyProgress) -> None:
            if state.bytes_new and not others:
                others.append(copy(repository, target, ALL))

        report = copy(repository, target, ALL, on_progress=meanwhile)
    (other,) = others
    assert (len(other.copied), other.there) == (2, 0)
    assert (report.copied, report.there) == ([], 2)
    assert by_origin(target).keys() == {point.origin.point.hex() for point in target.points()}
    assert len(target.points()) == 2


def test_a_whole_copy_is_published_beside_a_marked_one_of_another_run(
    origin: Small, target: Repository
) -> None:
    data = max(origin.segments(), key=lambda path: path.stat().st_size)
    whole = data.read_bytes()
    others: list[CopyReport] = []

    with origin.open() as repository:

        def meanwhile(state: CopyProgress) -> None:
            if state.doing and not others:
                break_at(data, 4000)
                others.append(copy(repository, target, ALL))
                data.write_bytes(whole)

        report = copy(repository, target, ALL, on_progress=meanwhile)
    with origin.open() as repository:
        truth = contents_of(repository)
    (other,) = others
    marked = [point for point, there in other.copied if there.loss.noted_ns]
    assert len(marked) == 2
    assert [point for point, _ in report.copied] == marked[:1]
    assert report.there == 1, "what was not begun yet waits for `again`, as ever"
    for point, there in report.copied:
        assert contents_of(target)[there.id.hex()] == truth[point.id.hex()]


def test_a_chunk_of_other_content_than_its_id_is_not_copied(
    target: Repository, tmp_path: Path
) -> None:
    """Sealed so by a defect: authentic, and yet not what the tree means."""
    (tmp_path / "wrong").mkdir()
    with made.make(tmp_path / "wrong") as repository:
        writer = repository.writer()
        sealer_keys = repository.keys
        wrong = sealer_keys.chunk_id(b"what it should be")
        real = type(sealer_keys).chunk_id
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(sealer_keys), "chunk_id", lambda _self, _data: wrong)
            made.store(repository, writer, [b"what it is really"])
            patch.setattr(type(sealer_keys), "chunk_id", real)
        root = made.directory_entry(
            repository, writer, b"", [made.file_entry(b"file", [(wrong, 17)])]
        )
        writer.commit(close=True)
        writer.publish(made.point_of(root, 1))
        ((_, there),) = copy(repository, target, ALL).copied
    assert there.loss.files == 1
    assert problems_named(target, there) == {b"file"}


# -- reading back ---------------------------------------------------------------------------------


def test_reading_back_finds_what_is_wrong(original: Small, target: Repository) -> None:
    copied(original, target)
    read_back(target, target.points())
    break_at(max(segments(target), key=lambda path: path.stat().st_size), 5000)
    with pytest.raises(Damaged, match="authentication failed"):
        read_back(target, target.points())


def test_limits_hold_for_every_target(target: Repository) -> None:
    """Chunks need never be cut again: no reader asks for the chunk sizes of its header."""
    assert target.header.chunk_maximum < limits.CHUNK_BYTES_MAX
    assert limits.CHUNKER_BYTES_MAX <= limits.CHUNK_BYTES_MAX
