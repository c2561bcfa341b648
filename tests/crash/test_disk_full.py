"""A full disk, for real: told with what to do, survived, and gone on from when there is space."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from repo.types import KIB, MIB
from tests.crash import scenes
from tests.support import command, health, loopfs, readback
from tests.support.template import copy


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 MiB that do not compress."""
    top = tmp_path_factory.mktemp("source")
    for number in range(20):
        (top / f"{number}").mkdir()
        (top / f"{number}" / "file").write_bytes(random.Random(number).randbytes(2 * MIB))
    return top


@pytest.fixture
def small(template: command.Repository, tmp_path: Path) -> Iterator[command.Repository]:
    """A repository with a point on a file system of 64 MiB, of which most is taken."""
    with loopfs.mounted("ext4", tmp_path, size_bytes=64 * MIB) as filesystem:
        made = copy(template, filesystem.path / "made")
        scenes.plant(tmp_path / "first", 1)
        made.run("ingest", tmp_path / "first")
        status = os.statvfs(filesystem.path)
        take(filler(made), status.f_bavail * status.f_frsize - 15 * MIB)
        yield made


def filler(made: command.Repository) -> Path:
    return made.path.parent / "filler"


def take(path: Path, size: int) -> None:
    """Take space from the file system that a path is on."""
    with open(path, "ab") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, size))


def fill(path: Path) -> None:
    """Take all that is left, to the last byte."""
    with open(path, "ab", buffering=0) as file:
        for size in (MIB, 4 * KIB, 1):
            with suppress(OSError):
                while file.write(bytes(size)):
                    pass


def kept(made: command.Repository) -> list[readback.Content]:
    with readback.opened(made) as repository:
        return [readback.content(repository, point) for point in repository.points()]


@pytest.mark.parametrize("streams", ["1", "2"])
def test_a_full_disk_stops_an_ingest_and_space_lets_it_go_on(
    small: command.Repository, source: Path, streams: str
) -> None:
    before = kept(small)
    for _ in range(3):  # it stays full: recovery itself has no space
        result = small.run("ingest", source, "--streams", streams, status=12)
        assert "No space left on device" in result.err
        assert "free space there and run the same command again" in result.err
        assert "Traceback" not in result.err
        assert kept(small) == before
        small.run("points")
    with readback.opened(small) as repository:
        stored = health.stored_bytes(repository)
    assert stored > 10 * MIB, "what was stored stays"
    filler(small).unlink()
    summary = small.run("ingest", source, "--json").summary()
    assert summary["problems"] == 0
    assert summary["bytes_stored"] < 40 * MIB - stored // 2, "and is found again"
    health.recovers(small, source, kept=[*before, *kept(small)[1:]])


def test_a_disk_that_is_full_to_the_last_byte(small: command.Repository, source: Path) -> None:
    before = kept(small)
    fill(filler(small))
    result = small.run("ingest", source, status=12)
    assert "free space there" in result.err
    assert kept(small) == before
    filler(small).unlink()
    small.run("ingest", source)
    health.recovers(small, source, kept=[*before, *kept(small)[1:]])


def test_an_index_on_a_full_file_system_of_its_own(
    made: command.Repository, tmp_path: Path, source: Path
) -> None:
    with loopfs.mounted("tmpfs", tmp_path, size_bytes=64 * KIB) as filesystem:
        index = ("--index-dir", filesystem.path / "index")
        result = made.run("ingest", source, *index, status=12)
        assert "cannot" in result.err
        assert str(filesystem.path) in result.err
        assert "free space there" in result.err
        assert kept(made) == []
        filesystem.unmount()
    made.run("ingest", source)
    health.recovers(made, source, kept=kept(made))


def test_a_file_system_without_inodes(
    template: command.Repository, tmp_path: Path, source: Path
) -> None:
    with loopfs.mounted("tmpfs", tmp_path, options="nr_inodes=40") as filesystem:
        made = copy(template, filesystem.path / "made")
        number = 0
        try:
            while True:
                (filesystem.path / f"taken{number}").touch()
                number += 1
        except OSError:
            assert number
        result = made.run("ingest", source, status=12)
        assert "No space left on device" in result.err
        for taken in range(number):
            (filesystem.path / f"taken{taken}").unlink()
        made.run("ingest", source)
        health.recovers(made, source, kept=kept(made))


def test_init_on_a_full_disk_leaves_no_repository(tmp_path: Path) -> None:
    with loopfs.mounted("ext4", tmp_path, size_bytes=8 * MIB) as filesystem:
        made = command.Repository(filesystem.path / "made")
        made.home.mkdir(parents=True)
        status = os.statvfs(filesystem.path)
        take(filesystem.path / "filler", status.f_bavail * status.f_frsize)
        options = ("init", "--key-file", tmp_path / "key")
        result = made.run(*options, status=None)
        assert result.status in (0, 12)
        if result.status == 12:
            assert "free space" in result.err
            assert not (made.path / "header").exists()
            (filesystem.path / "filler").unlink()
            made.run(*options)
