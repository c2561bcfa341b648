"""Ingest, as a user runs it: everything a tree may hold is in the point, and is stored once."""

from __future__ import annotations

import os
import random
import shutil
import stat
from pathlib import Path

import pytest

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
