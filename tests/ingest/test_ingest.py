"""Ingest, as a user runs it: everything a tree may hold is in the point, and is stored once."""

from __future__ import annotations

import errno
import os
import random
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingest import worker
from repo.format import limits
from repo.format.manifest import Problem
from repo.types import KIB, MIB, TIB, Kind
from tests.support import command, loopfs, need, oddities, readback


def content(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def check(made: command.Repository, source: Path) -> None:
    """The newest point is like the source."""
    with readback.opened(made) as repository:
        assert readback.differences(repository, repository.points()[-1], source) == []


def counted(source: Path) -> tuple[int, int]:
    """How many entries that are no directories a tree has, and how many that are."""
    files = directories = 0
    for _, below, others, fd in os.fwalk(source):
        links = sum(stat.S_ISLNK(os.stat(n, dir_fd=fd, follow_symlinks=False)[0]) for n in below)
        files += len(others) + links
        directories += 1
    return files, directories


@pytest.mark.parametrize("streams", ["1", "3"])
def test_every_oddity_is_in_the_point(
    made: command.Repository, tmp_path: Path, streams: str
) -> None:
    need.root()
    source = tmp_path / "source"
    source.mkdir()
    tree = oddities.make(source)
    summary = made.run("ingest", source, "--streams", streams, "--json").summary()
    assert summary["problems"] == 0
    assert (summary["files"], summary["directories"]) == counted(source)
    assert TIB < summary["bytes_source"] < TIB + 30 * MIB
    check(made, source)
    tree.cleanup()


@pytest.mark.parametrize("kind", ["xfs", "btrfs", "tmpfs"])
def test_every_oddity_of_other_file_systems_is_in_the_point(
    made: command.Repository, tmp_path: Path, kind: str
) -> None:
    with loopfs.mounted(kind, tmp_path) as filesystem:
        source = filesystem.path / "odd"
        source.mkdir()
        tree = oddities.make(source, many=20)
        made.run("ingest", source)
        check(made, source)
        tree.cleanup()


@pytest.mark.parametrize(
    "entries", [10_000, pytest.param(100_000, marks=pytest.mark.deep)], ids=str
)
def test_a_directory_of_very_many_entries(
    made: command.Repository, tmp_path: Path, entries: int
) -> None:
    source = tmp_path / "source" / "many"
    source.mkdir(parents=True)
    for number in range(entries):
        (source / f"{number * 7919 % entries:x}").write_bytes(b"%d" % (number % 100))
    (source / "directory").mkdir()
    result = made.run("ingest", tmp_path / "source", "--streams", "2", "--json")
    assert result.summary()["files"] == entries
    check(made, tmp_path / "source")
    with readback.opened(made) as repository:
        root = repository.points()[-1].root
        many = repository.tree.resolve(root, b"many")
        assert len(repository.tree.node(many).listed.pages) > 2


def test_a_large_file_is_cut_into_ranges_for_several_workers(
    made: command.Repository, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    with open(source / "large", "wb") as file:
        file.writelines(content(48 * MIB, seed) for seed in range(3))
    shutil.copy(source / "large", source / "the same")
    summary = made.run("ingest", source, "--streams", "3", "--json").summary()
    assert summary["streams"] > 1
    assert (summary["files"], summary["bytes_source"]) == (2, 2 * 144 * MIB)
    assert summary["bytes_new"] < 145 * MIB, "ranges of two files that are alike meet"
    with readback.opened(made) as repository:
        point = repository.points()[-1]
        assert readback.differences(repository, point, source) == []
        entry = repository.tree.resolve(point.root, b"large")
        assert entry.extent_level == 1
        ends, position = set(), 0
        for extent in repository.tree.extents(entry):
            position += extent.length
            ends.add(position)
        assert {64 * MIB, 128 * MIB} <= ends, "chunks end where ranges do"


def test_a_sparse_file_of_a_tebibyte_takes_no_room(
    made: command.Repository, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    with open(source / "sparse", "wb") as file:
        file.truncate(TIB)
        for place in (0, TIB // 3, TIB - 5000):
            file.seek(place)
            file.write(content(5000, place))
    summary = made.run("ingest", source, "--json").summary()
    assert summary["bytes_source"] == TIB
    assert summary["bytes_read"] < MIB
    assert summary["bytes_stored"] < MIB
    check(made, source)


@pytest.mark.parametrize("size", [36 * MIB, 72 * MIB], ids=["whole", "ranges"])
def test_a_file_in_tatters(made: command.Repository, tmp_path: Path, size: int) -> None:
    """More extents than an entry holds: once, such a point was published and could not be read."""
    source = tmp_path / "source"
    source.mkdir()
    with open(source / "file", "wb") as file:
        for number, place in enumerate(range(0, size, 8 * KIB)):
            file.seek(place)
            file.write(number.to_bytes(4, "big") * KIB)
    (source / "other").touch()
    made.run("ingest", source)
    with readback.opened(made) as repository:
        point = repository.points()[-1]
        extents = repository.tree.extents(repository.tree.resolve(point.root, b"file"))
        assert len(list(extents)) > limits.EXTENT_ROWS_MAX
        assert readback.differences(repository, point, source) == []


def test_times_that_nanoseconds_cannot_hold(made: command.Repository, tmp_path: Path) -> None:
    """Once, a single such file ended the whole job."""
    beyond = {"2262": 1 << 63, "2554": 1 << 64, "1677": -(1 << 63) - 1, "far": 10**22}
    with loopfs.mounted("tmpfs", tmp_path) as filesystem:
        source = filesystem.path / "source"
        (source / "directory").mkdir(parents=True)
        (source / "good").touch()
        for name, when in beyond.items():
            (source / name).write_text(name)
            touch(source / name, when)
        with open(source / "large", "wb") as file:
            file.truncate(70 * MIB)
        touch(source / "large", 10**22)
        touch(source / "directory", 10**22)
        touch(source, 10**22)
        made.run("ingest", source, status=3)
    with readback.opened(made) as repository:
        point = repository.points()[-1]
        found = readback.problems(repository, point)
        changed = {name.encode() for name in beyond} | {b".", b"directory", b"large"}
        assert sorted(problem.path for problem in found) == sorted(changed)
        held = {entry.name: entry for entry in repository.tree.entries(point.root)}
        assert set(held) == (changed - {b"."}) | {b"good"}
        assert held[b"1677"].mtime_ns == -(1 << 63)
        assert held[b"2554"].mtime_ns == held[b"large"].mtime_ns == (1 << 63) - 1


def touch(path: Path, when_ns: int) -> None:
    """Set a time that Python's own calls refuse."""
    seconds, rest = divmod(when_ns, 10**9)
    words = ["touch", "--date", f"@{seconds}.{rest:09}", str(path)]
    subprocess.run(words, check=True, capture_output=True)


def test_more_attributes_than_a_node_can_hold(made: command.Repository, tmp_path: Path) -> None:
    with loopfs.mounted("tmpfs", tmp_path) as filesystem:
        source = filesystem.path / "source"
        (source / "directory").mkdir(parents=True)
        (source / "directory" / "below").touch()
        (source / "file").touch()
        (source / "good").touch()
        for number in range(140):
            os.setxattr(source / "directory", f"user.{number}", content(65_000, number))
            os.setxattr(source / "file", f"user.{number}", content(65_000, number))
        made.run("ingest", source, status=3)
    with readback.opened(made) as repository:
        point = repository.points()[-1]
        found = [(problem.path, problem.step) for problem in readback.problems(repository, point)]
        assert sorted(found) == [(b"directory", "xattr"), (b"file", "xattr")]
        held = readback.content(repository, point)
        assert held.keys() == {b"", b"/directory", b"/directory/below", b"/good"}


def test_names_longer_than_a_node_can_hold() -> None:
    """The kernel lets FUSE file systems have them."""
    problems: list[Problem] = []
    assert worker._named_well(b"n" * 255, (b"a",), problems)
    assert problems == []
    assert not worker._named_well(b"n" * 256, (b"a",), problems)
    assert [(problem.path, problem.errno) for problem in problems] == [
        (b"a/" + b"n" * 256, errno.ENAMETOOLONG)
    ]


@pytest.fixture
def deep_folder() -> Iterator[Path]:
    """A folder of its own: pytest's, cleared by recursion, would end a later run of all tests."""
    folder = Path(tempfile.mkdtemp(prefix="repo-deep-"))
    try:
        yield folder
    finally:
        subprocess.run(["rm", "--recursive", folder], check=True)


def test_a_very_deep_tree(made: command.Repository, deep_folder: Path) -> None:
    fd = os.open(deep_folder, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)
    summary = made.run("ingest", deep_folder, "--json").summary()
    assert (summary["files"], summary["directories"]) == (1, 1501)
    with readback.opened(made) as repository:
        point = repository.points()[-1]
        assert readback.content(repository, point).keys() >= {b"/d" * 1500 + b"/file"}


def test_what_is_stored_already_is_not_stored_again(
    made: command.Repository, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    for name in ("one", "two", "two/three"):
        (source / name).mkdir(parents=True)
        (source / name / "big").write_bytes(content(3 * MIB))
        (source / name / "small").write_bytes(content(10 * KIB, 2))
    first = made.run("ingest", source, "--json").summary()
    assert 3 * MIB < first["bytes_new"] < 4 * MIB
    for _ in range(2):
        again = made.run("ingest", source, "--json").summary()
        assert again["bytes_new"] == again["bytes_stored"] == 0
    (source / "two" / "another").write_bytes(content(20 * KIB, 3))
    changed = made.run("ingest", source, "--json").summary()
    assert 20 * KIB <= changed["bytes_new"] < 30 * KIB
    check(made, source)


def test_an_empty_directory_listed_after_all_was_known_does_not_hang(
    made: command.Repository, tmp_path: Path
) -> None:
    (tmp_path / "source" / "a" / "b" / "c").mkdir(parents=True)
    (tmp_path / "source" / "a" / "file").write_bytes(content(100 * KIB))
    for _ in range(2):
        made.run("ingest", tmp_path / "source")
    check(made, tmp_path / "source")


def test_an_empty_source(made: command.Repository, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    summary = made.run("ingest", tmp_path / "empty", "--json").summary()
    assert (summary["files"], summary["directories"]) == (0, 1)
    check(made, tmp_path / "empty")


def test_a_dry_run_stores_nothing(made: command.Repository, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_bytes(content(2 * MIB))
    (source / "again").write_bytes(content(2 * MIB))
    summary = made.run("ingest", "--dry-run", source, "--json").summary()
    assert summary["files"] == 2
    assert 2 * MIB <= summary["bytes_new"] < 3 * MIB
    assert not list(made.path.glob("segments/*/*"))
    assert not list(made.path.glob("points/*"))
    assert "Would save 2 files" in made.run("ingest", "--dry-run", source).out
    assert made.run("ingest", source, "--json").summary()["bytes_new"] >= 2 * MIB


def test_levels_of_compression(made: command.Repository, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    words = [b"%x" % number for number in range(5000)]
    stored = {}
    for seed, level in enumerate(("off", "1", "19")):
        text = b" ".join(random.Random(seed).choices(words, k=100_000))
        (source / "text").write_bytes(text)
        summary = made.run("ingest", "--compression", level, source, "--json").summary()
        stored[level] = summary["bytes_stored"] / summary["bytes_new"]
        check(made, source)
    assert stored["19"] < stored["1"] < 0.9
    assert 1 <= stored["off"] < 1.01


def test_a_point_tells_where_it_comes_from(made: command.Repository, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").touch()
    made.run("ingest", source, "--source-id", "the source", "--tag", "first", "--tag", "x")
    with readback.opened(made) as repository:
        (point,) = repository.points()
        assert (point.source_id, point.source_path) == ("the source", str(source))
        assert point.tags == ("first", "x")
        assert point.users.get("0", "root") == "root"
        assert not point.has_xattrs or os.listxattr(source / "file")
        assert point.root.kind == Kind.DIRECTORY
        assert point.statistics.files == 1
        assert repository.point("latest:the source") == point
