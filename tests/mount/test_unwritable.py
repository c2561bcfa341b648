"""A repository that nothing can be written to: what only reads works, and gc leaves it alone."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from repo.storage import lease
from repo.storage.folder import Folder
from repo.types import KIB, MIB
from tests.mount.mounting import mounted
from tests.repo.upkeep import collecting
from tests.support import command, loopfs, need
from tests.support.template import copy, template

__all__ = ["template"]


def content_of(top: Path) -> dict[str, bytes]:
    return {
        os.path.relpath(os.path.join(folder, name), top): Path(folder, name).read_bytes()
        for folder, _, names in os.walk(top)
        for name in names
    }


@pytest.fixture
def source(tmp_path: Path) -> Path:
    collecting.plant(tmp_path / "source", 1)
    return tmp_path / "source"


@pytest.fixture
def made(template: command.Repository, tmp_path: Path, source: Path) -> command.Repository:
    made = copy(template, tmp_path / "made")
    made.run("ingest", source)
    return made


@pytest.fixture
def read_only(made: command.Repository, tmp_path: Path) -> Iterator[command.Repository]:
    """The same repository at another place, where it is mounted read-only."""
    need.root()
    place = tmp_path / "read-only"
    place.mkdir()
    subprocess.run(["mount", "--bind", made.path, place], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", place], check=True)
        there = command.Repository(tmp_path / "made")
        there.path = place
        there.env |= {"REPO_LOCATION": str(place), "REPO_INDEX_DIR": str(tmp_path / "index")}
        yield there
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def _everything_reads(made: command.Repository, source: Path, to: Path) -> None:
    made.run("points")
    assert "folder 1" in made.run("ls", "latest").out
    assert "file 9" in made.run("find", "file 9").out
    made.run("versions", "folder 1/file 9")
    made.run("stats")
    told = made.run("restore", "latest", "--to", to).err
    assert f"nothing can be written to {made.path}" in told
    assert content_of(to) == content_of(source)
    with mounted(made, to.with_name("mnt")) as mount:
        assert content_of(mount.path) == content_of(source)


def test_all_that_reads_works_on_a_read_only_file_system(
    read_only: command.Repository, source: Path, tmp_path: Path
) -> None:
    _everything_reads(read_only, source, tmp_path / "back")
    read_only.run("verify", "--data")
    told = read_only.run("ingest", source, status=12).err
    assert "Read-only file system" in told


def test_without_a_place_for_the_index_there_is_the_cache_folder(
    read_only: command.Repository, tmp_path: Path
) -> None:
    read_only.env["REPO_INDEX_DIR"] = ""
    # Another machine's cache folder, so to speak.
    cache = tmp_path / "cache"
    cache.mkdir()
    inside = 'mkdir -p /var/cache && mount --bind "$0" /var/cache && exec "$@"'
    words = [need.tool("unshare"), "--mount", "sh", "-c", inside, str(cache)]
    subprocess.run([*words, *command.words("ls", "latest")], env=read_only.env, check=True)
    assert len(list(cache.glob("repo/*/data.mdb"))) == 1


def test_all_that_reads_works_on_a_full_disk(
    template: command.Repository, source: Path, tmp_path: Path
) -> None:
    with loopfs.mounted("ext4", tmp_path, size_bytes=64 * MIB) as filesystem:
        made = copy(template, filesystem.path / "made")
        made.run("ingest", source)
        with open(filesystem.path / "filler", "wb", buffering=0) as file:
            for size in (MIB, 4 * KIB, 1):
                with suppress(OSError):
                    while file.write(bytes(size)):
                        pass
        _everything_reads(made, source, tmp_path / "back")


def test_gc_takes_nothing_from_who_cannot_write(
    made: command.Repository, read_only: command.Repository, source: Path, tmp_path: Path
) -> None:
    before = content_of(source)
    with mounted(read_only, tmp_path / "mnt") as mount:
        assert [info.epoch for info in lease.live(Folder.open(made.path))] == [0]
        collecting.plant(source, 2)
        made.run("ingest", source)
        made.run("forget", "--keep-last", "1", "--yes")
        summary = made.run("gc", "--json").summary()
        assert summary["chunks_dead"] > 0
        assert summary["bytes_removed"] == 0
        assert content_of(mount.path) == before
    summary = made.run("gc", "--json").summary()
    assert summary["bytes_removed"] > 0
