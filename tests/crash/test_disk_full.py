"""A full disk, for real: told with what to do, survived, and gone on from when there is space."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from repo.keys import KeyFile
from repo.repository import Repository
from repo.types import KIB, MIB
from repo.upkeep.verify import verify
from tests.crash import scenes, tight
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


# -- operations on what is stored already -------------------------------------------------------


class Stored(NamedTuple):
    """A repository on a small file system, and how much of that is free before it is filled."""

    made: command.Repository
    filler: Path

    def leave(self, size: int) -> None:
        """Take all space but about so many bytes."""
        fill(self.filler)
        os.truncate(self.filler, max(0, self.filler.stat().st_size - size))

    def free(self) -> None:
        self.filler.unlink()


@pytest.fixture(scope="module")
def aged(tmp_path_factory: pytest.TempPathFactory) -> command.Repository:
    """Generations of a source, of which the last has some files of each, and another source."""
    folder = tmp_path_factory.mktemp("aged")
    made = scenes.small_repository(folder / "made")
    for generation in range(5):
        for number in range(900):
            if number % 5 >= generation:
                path = folder / "aged" / f"{number // 30}" / f"{number}"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(random.Random(1000 * generation + number).randbytes(1200))
        made.run("ingest", folder / "aged", "--source-id", "aged", "--streams", "1")
    for number in range(1500):
        path = folder / "many" / f"{number % 50}" / f"{number} of a name that takes some space"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    made.run("ingest", folder / "many", "--source-id", "many")
    return made


@pytest.fixture
def stored(aged: command.Repository, tmp_path: Path) -> Iterator[Stored]:
    with loopfs.mounted("ext4", tmp_path, size_bytes=64 * MIB) as filesystem:
        yield Stored(copy(aged, filesystem.path / "made"), filesystem.path / "filler")


MERGE = command.words("synth", "latest:aged", "latest:many", "--take", "latest:many:0=/aged/0")
RELAYOUT = [sys.executable, tight.__file__, "synth", "latest:aged", "--relayout"]


@pytest.mark.parametrize(
    ("words", "left"),
    [
        pytest.param(MERGE, 40 * KIB, id="merge-40K"),
        pytest.param(RELAYOUT, 0, id="relayout-0K"),
        pytest.param(RELAYOUT, 400 * KIB, id="relayout-400K"),
        pytest.param(MERGE, 0, id="merge-0K", marks=pytest.mark.deep),
        pytest.param(RELAYOUT, 100 * KIB, id="relayout-100K", marks=pytest.mark.deep),
    ],
)
def test_a_full_disk_stops_a_synthesis_and_space_lets_it_go_on(
    stored: Stored, words: list[str], left: int
) -> None:
    """Before its first byte, and in the middle; nothing is published, and nothing is lost."""
    made = stored.made
    before = kept(made)
    stored.leave(left)
    for _ in range(2):
        done = subprocess.run(words, env=made.env, capture_output=True, check=False, text=True)
        assert done.returncode == 12, done.stderr
        assert "No space left on device" in done.stderr
        assert "free space there" in done.stderr
        assert "Traceback" not in done.stderr
        assert kept(made) == before
    stored.free()
    subprocess.run(words, env=made.env, capture_output=True, check=True)
    after = kept(made)
    assert len(after) == len(before) + 1
    assert all(content in after for content in before)
    assert made.run("gc", "--json").summary()["chunks_lost"] == 0
    assert kept(made) == after
    with readback.opened(made) as repository:
        assert verify(repository, level="data").damages == []
    assert health.leftovers(made.path) == []


def test_a_full_origin_can_be_copied_away_from(stored: Stored, tmp_path: Path) -> None:
    """Nothing is written there but a lease, and that can be done without."""
    stored.leave(0)
    words = ("copy", "--to", tmp_path / "there", "--init", "--to-key-file", tmp_path / "key")
    result = stored.made.run(*words)
    assert "until this ends `repo gc` removes nothing" in result.err
    with Repository.open(tmp_path / "there", KeyFile(tmp_path / "key")) as repository:
        copied = [readback.content(repository, point) for point in repository.points()]
    assert copied == kept(stored.made)


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
