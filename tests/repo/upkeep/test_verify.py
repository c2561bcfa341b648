"""Verification: what it looks at, what it names, and how it goes on where reading fails."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import msgspec
import pytest

from repo.errors import NotARepository, RepositoryFailed
from repo.format import limits
from repo.format.manifest import Problem, pack_problems
from repo.format.node import (
    EMPTY_RUN,
    HOLE,
    Entry,
    Node,
    PageRow,
    Run,
    Totals,
    pack_entries,
    pack_extent_page,
    pack_extents,
    pack_page,
)
from repo.index.environment import Transaction
from repo.index.scratch import Scratch
from repo.points import write_point
from repo.reader import Reader
from repo.repository import Repository
from repo.storage.fetcher import Fetcher
from repo.storage.folder import Folder
from repo.types import ChunkId, SegmentId
from repo.upkeep import damage as damage_module
from repo.upkeep.damage import Damage
from repo.upkeep.report import VerifyProgress, VerifyReport
from repo.upkeep.verify import verify
from repo.writer import Writer
from tests.repo import made


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    with made.make(tmp_path) as repository:
        yield repository


@pytest.fixture
def writer(repository: Repository) -> Iterator[Writer]:
    writer = repository.writer()
    yield writer
    writer.abandon()


def test_what_an_unfinished_run_relies_on_is_checked_and_told_apart(
    repository: Repository, writer: Writer
) -> None:
    chunks = made.contents(2)
    ids = made.store(repository, writer, chunks[:1])
    writer.commit(close=True)
    ids += made.store(repository, writer, chunks[1:])
    files = [
        made.file_entry(name, [(chunk_id, len(chunk))])
        for name, chunk_id, chunk in zip((b"one", b"two"), ids, chunks, strict=True)
    ]
    point = made.directory_entry(repository, writer, b"", files[:1])
    more = made.directory_entry(repository, writer, b"", files)
    published(repository, writer, point)
    run = msgspec.structs.replace(made.point_of(more, 7), unfinished=True)
    write_point(repository.folder, repository.keys, repository.header, run)
    report = verify(repository, level="data")
    assert (report.damages, report.points, report.points_unfinished) == ([], 1, 1)
    row = repository.places.segment(repository.reader.place(ids[1]).segment)
    path = repository.folder.segment_path(row.segment_id)
    data = path.read_bytes()
    path.write_bytes(data[:200] + bytes([data[200] ^ 1]) + data[201:])
    for damage in verify(repository, level="data").damages:
        assert (damage.points_total, damage.paths, damage.unfinished) == (0, [], [run.id.hex()])
    path.unlink()
    repository.close()
    (damage,) = verify(repository, level="structure").damages[-1:]
    assert (damage.points_total, damage.unfinished) == (0, [run.id.hex()])


def test_a_damaged_checkpoint_is_found_with_and_without_a_key(
    repository: Repository, writer: Writer
) -> None:
    root = made.directory_entry(repository, writer, b"", [])
    published(repository, writer, root)
    run = msgspec.structs.replace(made.point_of(root, 7), unfinished=True)
    write_point(repository.folder, repository.keys, repository.header, run)
    (path,) = repository.path.glob("points/*.unfinished")
    data = path.read_bytes()
    path.write_bytes(data[:150] + bytes([data[150] ^ 1]) + data[151:])
    for level in ("structure", "keyless"):
        (damage,) = verify(repository, level=level).damages
        assert damage.where == f"points/{path.name}"
        assert damage.unfinished == [run.id.hex()]
        assert "repo forget" in damage.next_step


def published(repository: Repository, writer: Writer, *roots: Entry) -> None:
    """Points with these roots, numbered from 0."""
    writer.commit(close=True)
    for number, root in enumerate(roots):
        writer.publish(made.point_of(root, number))


def stored_file(repository: Repository, writer: Writer, name: bytes, data: bytes) -> Entry:
    """A file of one chunk."""
    (chunk_id,) = made.store(repository, writer, [data])
    return made.file_entry(name, [(chunk_id, len(data))])


def only(report: VerifyReport) -> Damage:
    (damage,) = report.damages
    return damage


def node_of(
    repository: Repository, writer: Writer, entries: Sequence[Entry], totals: Totals
) -> Entry:
    """A directory that says of itself what it likes."""
    node = Node(EMPTY_RUN, Run(len(entries), pack_entries(entries)), totals)
    return made.node_entry(repository, writer, b"", node)


# What it looks at


@pytest.mark.parametrize("level", ["structure", "data", "keyless"])
def test_a_new_repository_is_sound(
    repository: Repository, level: Literal["structure", "data", "keyless"]
) -> None:
    report = verify(repository, level=level)
    assert report.damages == []
    assert report.exit_status == 0
    assert (report.segments, report.points, report.level) == (0, 0, level)


def test_figures_are_those_of_the_repository(repository: Repository, writer: Writer) -> None:
    contents = made.contents(30)
    ids = made.store(repository, writer, contents)
    files = [
        made.file_entry(b"%02d" % n, [(i, len(data))])
        for n, (i, data) in enumerate(zip(ids, contents, strict=True))
    ]
    published(repository, writer, made.directory_entry(repository, writer, b"", files))
    size = sum(path.stat().st_size for path in repository.path.glob("segments/*/*"))
    steps: list[VerifyProgress] = []
    for level in ("structure", "data"):
        report = verify(repository, level=level, streams=2, on_progress=steps.append)
        assert (report.segments, report.open_segments, report.points) == (2, 0, 1)
        assert (report.frames, report.chunks) == (11, 31)
        assert report.seconds > 0
        assert (0 < report.bytes_read < size) == (level == "data")
    assert {step.doing for step in steps} == {"checking segments", "checking points"}
    last = [step for step in steps if step.doing == "checking segments"][-1]
    assert (last.items, last.items_expected) == (2, 2)
    assert steps[-1].damages == 0


def test_open_segments_of_a_living_job_are_no_damage(
    repository: Repository, writer: Writer
) -> None:
    file = stored_file(repository, writer, b"file", b"data of a job that goes on")
    root = made.directory_entry(repository, writer, b"", [file])
    writer.commit()
    writer.publish(made.point_of(root))  # as another job's point may rely on this one's chunks
    stored_file(repository, writer, b"later", b"behind the checkpoint")
    notices: list[str] = []
    for level in ("structure", "data"):
        report = verify(repository, level=level, on_notice=notices.append)
        assert report.damages == []
        assert (report.segments, report.open_segments) == (0, 2)
        assert report.frames == 2
    assert notices == []
    report = verify(repository, level="keyless", on_notice=notices.append)
    assert (report.damages, report.open_segments) == ([], 2)
    assert "2 open segments are passed over" in notices[0]


def test_damage_in_an_open_segment_is_named(repository: Repository, writer: Writer) -> None:
    file = stored_file(repository, writer, b"file", b"data of a job that goes on")
    root = made.directory_entry(repository, writer, b"", [file])
    writer.commit()
    writer.publish(made.point_of(root))
    place = repository.reader.place(ChunkId(file.extents[:32]))
    segment_id = repository.reader.segment(place).segment_id
    path = repository.folder.segment_path(segment_id, open=True)
    with path.open("r+b") as opened:
        opened.seek(-1, os.SEEK_END)
        opened.write(b"?")
    damage = only(verify(repository, level="data"))
    assert (damage.segment, damage.frame, damage.paths) == (segment_id.hex(), 0, ["file"])


def test_a_subtree_that_points_share_is_looked_at_once(
    repository: Repository, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = made.directory_entry(
        repository, writer, b"shared", [stored_file(repository, writer, b"file", b"data")]
    )
    roots = [
        made.directory_entry(
            repository,
            writer,
            b"",
            [stored_file(repository, writer, b"own", b"own %d" % number), shared],
        )
        for number in range(5)
    ]
    published(repository, writer, *roots)
    frames: list[int] = []
    parse = Node.parse

    def count(data: memoryview, *, where: str) -> Node:
        frames.append(1)
        return parse(data, where=where)

    monkeypatch.setattr("repo.upkeep.treecheck.Node.parse", count)
    assert verify(repository, level="structure").damages == []
    assert len(frames) == 6


def test_memory_does_not_follow_the_number_of_nodes(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What it has seen goes into a file: the set in memory is bounded.
    held: list[int] = []
    flush = Scratch._flush

    def note(scratch: Scratch) -> None:
        held.append(len(scratch._held))
        flush(scratch)

    monkeypatch.setattr(Scratch, "_flush", note)
    monkeypatch.setattr("repo.index.scratch.HELD_MAX", 10)
    writer = repository.writer()
    directories = [
        made.directory_entry(
            repository, writer, b"%03d" % n, [made.file_entry(b"sparse", [(HOLE, n + 1)])]
        )
        for n in range(100)
    ]
    published(repository, writer, made.directory_entry(repository, writer, b"", directories))
    writer.abandon()
    assert verify(repository, level="structure").damages == []
    assert held == [10] * 10


# What it names


def damage_frame(repository: Repository, chunk_id: ChunkId) -> tuple[str, int]:
    """Turn over a bit of the frame that holds a chunk; segment and frame."""
    reader = repository.new_reader()
    place = reader.place(chunk_id)
    segment = reader.segment(place)
    start = 16 * place.frame
    offset = int.from_bytes(segment.frames[start : start + 8], "little")
    path = repository.folder.segment_path(segment.segment_id)
    data = bytearray(path.read_bytes())
    data[offset + 70] ^= 4
    path.chmod(0o600)
    path.write_bytes(data)
    return segment.segment_id.hex(), place.frame


def test_a_file_is_named_in_every_point_and_place(repository: Repository, writer: Writer) -> None:
    twice = stored_file(repository, writer, b"file", b"data that several rely on")
    good = stored_file(repository, writer, b"good", b"data of another frame")
    copy = msgspec.structs.replace(good, name=b"a good one")
    inner = made.directory_entry(repository, writer, b"inner", [twice])
    roots = [
        made.directory_entry(repository, writer, b"", [twice, good]),
        made.directory_entry(repository, writer, b"", [copy, inner]),
        made.directory_entry(repository, writer, b"", [good, inner]),
        made.directory_entry(repository, writer, b"", [good]),
    ]
    published(repository, writer, *roots)
    segment, frame = damage_frame(repository, ChunkId(twice.extents[:32]))
    damage = only(verify(repository, level="data"))
    assert (damage.segment, damage.frame) == (segment, frame)
    assert damage.points == [made.point_of(good, number).id.hex() for number in (0, 1, 2)]
    assert damage.points_total == 3
    assert damage.paths == ["file", "inner/file"]
    assert damage.paths_total == 3
    assert verify(repository, level="structure").damages == []  # content is not looked at


def test_lists_of_names_are_capped_and_counted(
    repository: Repository, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(damage_module, "NAMED_MAX", 3)
    file = stored_file(repository, writer, b"", b"data")
    files = [msgspec.structs.replace(file, name=b"%02d" % number) for number in range(10)]
    root = made.directory_entry(repository, writer, b"", files)
    published(repository, writer, *[root] * 5)
    damage_frame(repository, ChunkId(file.extents[:32]))
    damage = only(verify(repository, level="data"))
    assert (damage.paths, damage.paths_total) == (["00", "01", "02"], 50)
    assert (len(damage.points), damage.points_total) == (3, 5)


def test_beyond_so_many_frames_the_segment_is_told(
    repository: Repository, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(damage_module, "FRAMES_MAX", 2)
    files = [stored_file(repository, writer, b"%d" % n, b"data %d" % n) for n in range(6)]
    published(repository, writer, made.directory_entry(repository, writer, b"", files))
    for file in files[:5]:
        damage_frame(repository, ChunkId(file.extents[:32]))
    report = verify(repository, level="data")
    assert [damage.frame for damage in report.damages] == [0, 1, None]
    assert {path for damage in report.damages for path in damage.paths} >= set("01234")


def test_a_directory_whose_node_is_lost_is_named(repository: Repository, writer: Writer) -> None:
    inner = made.directory_entry(repository, writer, b"inner", [])
    writer.commit()  # so that the root lies in another frame
    published(repository, writer, made.directory_entry(repository, writer, b"", [inner]))
    damage_frame(repository, ChunkId(inner.node))
    for level in ("structure", "data"):
        damage = only(verify(repository, level=level))
        assert (damage.frame, damage.paths, damage.points_total) == (0, ["inner"], 1)


def test_pages_of_directories_and_extents_are_looked_at(
    repository: Repository, writer: Writer
) -> None:
    def put(data: bytes) -> ChunkId:
        chunk_id = made.put(repository, writer, data)
        writer.commit()  # a frame of its own
        return chunk_id

    chunk = made.store(repository, writer, [b"data"])[0]
    low = put(pack_extent_page(pack_extents([(chunk, 4), (HOLE, 6)]), 0))
    high = put(pack_extent_page(pack_extents([(low, 10)]), 1))
    large = msgspec.structs.replace(made.file_entry(b"large", [(high, 10)]), extent_level=2)
    file = made.file_entry(b"small", [(chunk, 4)])
    pages = [
        PageRow(entry.name, put(pack_page(pack_entries([entry]), 1)), 1, 1, entry.size)
        for entry in (large, file)
    ]
    root = made.node_entry(
        repository, writer, b"", Node(Run(2, pages=tuple(pages)), EMPTY_RUN, Totals(2, 14))
    )
    published(repository, writer, root, root)
    assert verify(repository, level="data").damages == []
    expected = {low: ["large"], high: ["large"], ChunkId(pages[0].id): ["."]}
    for chunk_id, paths in expected.items():
        with kept(repository):
            damage_frame(repository, chunk_id)
            damage = only(verify(repository, level="structure"))
            assert (damage.paths, damage.points_total) == (paths, 2)
    damage_frame(repository, chunk)
    assert only(verify(repository, level="data")).paths == ["large", "small"]


class kept:  # noqa: N801 (used like a function)
    """Puts the segments back when the block ends."""

    def __init__(self, repository: Repository) -> None:
        self._path = repository.path / "segments"

    def __enter__(self) -> None:
        shutil.copytree(self._path, self._path.with_name("kept"))

    def __exit__(self, *exception: object) -> None:
        shutil.rmtree(self._path)
        self._path.with_name("kept").rename(self._path)


def test_problem_lists_are_looked_at(repository: Repository, writer: Writer) -> None:
    problems = made.put(repository, writer, pack_problems([Problem(b"path", "read", 5)]))
    no_list = made.put(repository, writer, b"no list")
    root = made.directory_entry(repository, writer, b"", [])
    writer.commit(close=True)
    for number, chunk_id in enumerate((problems, no_list, bytes(31) + b"\1")):
        point = msgspec.structs.replace(made.point_of(root, number), problems=(chunk_id,))
        writer.publish(point)
    wrong, missing = verify(repository, level="structure").damages
    assert "problem list" in wrong.what
    assert "missing" in missing.what
    assert (wrong.points, missing.points) == ([bytes(15).hex() + "01"], [bytes(15).hex() + "02"])


# A writer with a defect: all that is sealed is authentic, and yet it makes no sense


def wrong_trees(repository: Repository, writer: Writer) -> dict[str, Callable[[], Entry]]:
    data = b"data of a file that is no node and not a page".ljust(50)
    file = stored_file(repository, writer, b"file", data)
    replace = msgspec.structs.replace

    def paged(page: PageRow, content: bytes) -> Entry:
        row = replace(page, id=made.put(repository, writer, content))
        totals = Totals(page.entries_below, page.bytes_below)
        node = Node(EMPTY_RUN, Run(page.count, pages=(row,)), totals)
        return made.node_entry(repository, writer, b"", node)

    page = PageRow(b"file", b"", 1, 1, 50)
    return {
        "totals do not add up": lambda: node_of(repository, writer, [file], Totals(2, 50)),
        "totals are not those of its entry": lambda: replace(
            node_of(repository, writer, [file], Totals(1, 50)), bytes_below=51
        ),
        "count is wrong": lambda: made.node_entry(
            repository, writer, b"", Node(EMPTY_RUN, Run(2, pack_entries([file])), Totals(1, 50))
        ),
        "out of order": lambda: made.node_entry(
            repository,
            writer,
            b"",
            Node(Run(1, pack_entries([file])), Run(1, pack_entries([file])), Totals(2, 100)),
        ),
        "not a node": lambda: replace(
            node_of(repository, writer, [], Totals()), node=file.extents[:32]
        ),
        "not a page": lambda: paged(page, b"no page"),
        "something else than its node": lambda: paged(
            page, pack_page(pack_entries([replace(file, size=51)]), 1)
        ),
        "begins with another name": lambda: paged(
            replace(page, first_name=b"a"), pack_page(pack_entries([file]), 1)
        ),
        "do not cover its size": lambda: node_of(
            repository, writer, [replace(file, size=51)], Totals(1, 51)
        ),
        "impossible place": lambda: node_of(
            repository,
            writer,
            [made.file_entry(b"file", [(file.extents[:32], 51)])],
            Totals(1, 51),
        ),
        "not an extent page": lambda: node_of(
            repository, writer, [replace(file, extent_level=1)], Totals(1, 50)
        ),
        "does not cover its length": lambda: node_of(
            repository,
            writer,
            [
                replace(
                    made.file_entry(
                        b"file",
                        [(made.put(repository, writer, pack_extent_page(file.extents, 0)), 51)],
                    ),
                    extent_level=1,
                )
            ],
            Totals(1, 51),
        ),
        "chunks are missing": lambda: node_of(
            repository, writer, [made.file_entry(b"file", [(b"?" * 32, 50)])], Totals(1, 50)
        ),
    }


def test_trees_that_make_no_sense_are_damage(repository: Repository, writer: Writer) -> None:
    trees = wrong_trees(repository, writer)
    for number, (what, make) in enumerate(trees.items()):
        published(repository, writer, make())
        damage = only(verify(repository, level="structure"))
        assert what in damage.what, number
        assert damage.points == [bytes(16).hex()]
        assert damage.paths in (["."], ["file"])
        repository.folder.remove_point(made.point_of(make(), 0).id)  # type: ignore[arg-type]


def test_directories_nested_without_end_are_damage(
    repository: Repository, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "TREE_DEPTH_MAX", 20)
    entry = made.directory_entry(repository, writer, b"d", [])
    for depth in range(25):
        name = b"" if depth == 24 else b"d"
        entry = made.directory_entry(repository, writer, name, [entry])
    published(repository, writer, entry)
    damage = only(verify(repository, level="structure"))
    assert "nested" in damage.what
    assert damage.paths == ["/".join("d" * 20)]


# Where reading fails


class Sick:
    """Makes reads of one segment fail, from an offset on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, segment_id: SegmentId, start: int) -> None:
        read = Fetcher.read

        def fail(fetcher: Fetcher, wanted: SegmentId, offset: int, length: int) -> bytes:
            if wanted == segment_id and offset <= start < offset + length:
                raise RepositoryFailed(
                    f"cannot read a segment: {os.strerror(errno.EIO)}", where=segment_id.hex()
                )
            return read(fetcher, wanted, offset, length)

        monkeypatch.setattr(Fetcher, "read", fail)


def test_a_failed_read_is_damage_of_its_frame(
    repository: Repository, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [stored_file(repository, writer, b"%d" % n, b"data %d" % n) for n in range(4)]
    published(repository, writer, made.directory_entry(repository, writer, b"", files))
    place = repository.reader.place(ChunkId(files[2].extents[:32]))
    segment = repository.reader.segment(place)
    offset = int.from_bytes(segment.frames[16 * place.frame :][:8], "little")
    Sick(monkeypatch, segment.segment_id, offset + 50)
    damage = only(verify(repository, level="data", streams=1))
    assert (damage.frame, damage.offset, damage.paths) == (place.frame, offset, ["2"])
    assert "Input/output error" in damage.what
    assert "check the disk" in damage.next_step
    blind = only(verify(repository, level="keyless"))
    assert (blind.segment, blind.offset) == (segment.segment_id.hex(), 0)
    assert "Input/output error" in blind.what


@pytest.mark.parametrize("level", ["structure", "data", "keyless"])
@pytest.mark.parametrize("part", ["header", "footer"])
def test_a_failed_read_of_header_or_footer(
    repository: Repository,
    writer: Writer,
    monkeypatch: pytest.MonkeyPatch,
    level: Literal["structure", "data", "keyless"],
    part: str,
) -> None:
    file = stored_file(repository, writer, b"file", b"data")
    published(repository, writer, made.directory_entry(repository, writer, b"", [file]))
    segment = repository.reader.segment(repository.reader.place(ChunkId(file.extents[:32])))
    size = repository.folder.segment_path(segment.segment_id).stat().st_size
    Sick(monkeypatch, segment.segment_id, 5 if part == "header" else size - 5)
    damage = only(verify(repository, level=level))
    assert damage.segment == segment.segment_id.hex()
    assert "Input/output error" in damage.what
    lost = part == "header" and level != "keyless"
    assert damage.paths == (["file"] if lost else [])


def test_a_failed_read_of_a_node(
    repository: Repository, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    published(repository, writer, made.directory_entry(repository, writer, b"", []))

    def fail(reader: Reader, segment: int, number: int) -> None:
        raise RepositoryFailed("cannot read a segment: Input/output error")

    monkeypatch.setattr(Reader, "frame", fail)
    damage = only(verify(repository, level="structure"))
    assert (damage.frame, damage.paths) == (0, ["."])
    assert "check the disk" in damage.next_step


def test_a_failed_read_of_a_point(
    repository: Repository, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    published(repository, writer, made.directory_entry(repository, writer, b"", []))

    def fail(folder: Folder, point_id: object, *, unfinished: bool = False) -> None:
        raise RepositoryFailed("cannot read a point: Input/output error")

    monkeypatch.setattr(Folder, "read_point", fail)
    for level in ("structure", "keyless"):
        damage = only(verify(repository, level=level))
        assert damage.where == f"points/{bytes(16).hex()}"
        assert damage.points == [bytes(16).hex()]


@pytest.mark.parametrize("level", ["structure", "data", "keyless"])
def test_a_repository_that_vanishes_is_no_damage(
    repository: Repository,
    writer: Writer,
    monkeypatch: pytest.MonkeyPatch,
    level: Literal["structure", "data", "keyless"],
) -> None:
    file = stored_file(repository, writer, b"file", b"data")
    published(repository, writer, made.directory_entry(repository, writer, b"", [file]))
    read = Fetcher.read

    def vanish(fetcher: Fetcher, segment_id: SegmentId, offset: int, length: int) -> bytes:
        (repository.path / "header").unlink(missing_ok=True)
        raise RepositoryFailed("cannot read a segment: Stale file handle")

    assert read is Fetcher.read
    monkeypatch.setattr(Fetcher, "read", vanish)
    with pytest.raises((NotARepository, RepositoryFailed)):
        verify(repository, level=level)


def test_a_missing_repository_is_no_damage(tmp_path: Path) -> None:
    from repo.upkeep.keyless import verify_keyless

    with pytest.raises(NotARepository):
        verify_keyless(tmp_path / "none")
    (tmp_path / "header").write_bytes(b"of something else")
    with pytest.raises(NotARepository):
        verify_keyless(tmp_path)


# Index against footers


@pytest.mark.parametrize("what", ["lost", "moved", "astray", "numbers"])
def test_an_index_that_differs_from_the_footers(
    repository: Repository, writer: Writer, what: str
) -> None:
    files = [stored_file(repository, writer, b"%d" % n, b"data %d" % n) for n in range(4)]
    published(repository, writer, made.directory_entry(repository, writer, b"", files))
    places = repository.places
    key = files[1].extents[:16]
    place = places.find(key)
    assert place is not None

    def change(txn: Transaction) -> None:
        match what:
            case "lost":
                places.remove_places(txn, [key])
            case "moved":
                places.move_places(txn, [(key, place._replace(frame=place.frame + 1).pack())])
            case "astray":
                places.move_places(txn, [(key, place._replace(segment=99).pack())])
            case "numbers":
                meta = repository.environment.table(b"meta")
                txn.put(b"next segment", bytes(8), db=meta)

    repository.environment.table(b"meta")
    repository.environment.write(change)
    report = verify(repository, level="structure")
    assert {damage.where for damage in report.damages} == {"index"}
    assert all("rebuild-index" in damage.next_step for damage in report.damages)
    paths = {path for damage in report.damages for path in damage.paths}
    assert paths == (set() if what == "numbers" else {"1"})
    repository.rebuild_index()
    assert verify(repository, level="structure").damages == []


def test_a_chunk_stored_twice_is_no_damage(repository: Repository, writer: Writer) -> None:
    file = stored_file(repository, writer, b"file", b"data")
    again = stored_file(repository, writer, b"file", b"data")
    assert file == again
    published(repository, writer, made.directory_entry(repository, writer, b"", [file]))
    other = repository.writer()
    stored_file(repository, other, b"file", b"data")
    other.commit(close=True)
    report = verify(repository, level="data")
    assert report.damages == []
    assert report.chunks == repository.places.count() + 2
