"""Scale: a huge folder, a million files, ten thousand points; memory stays where it is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from repo.keys import KeyFile
from repo.repository import Repository as Opened
from repo.types import MIB
from tests.mount import manyfiles
from tests.mount.mounting import mounted
from tests.support import need
from tests.support.command import Repository


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    need.fuse()
    return Repository.make(tmp_path / "repo")


def _open(repository: Repository) -> Opened:
    return Opened.open(repository.path, KeyFile(repository.key_file))


def test_a_folder_of_100_000_entries(tmp_path: Path, repository: Repository) -> None:
    with _open(repository) as opened:
        manyfiles.make_point(opened, 1, 100_000)
    with mounted(repository, tmp_path / "mnt") as mount:
        folder = mount.path / "folder-000000"
        # Before anything else of it is known: names are found by bisection.
        assert (folder / "file-077777").stat().st_mtime_ns == 10**18 + 77_777
        assert "request_readdirplus" not in mount.statistics()
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries]
        assert names == [f"file-{number:06}" for number in range(100_000)]
        inodes = {os.stat(folder / name).st_ino for name in names}
        assert len(inodes) == 100_000
        assert (folder / "file-099999").read_bytes() == b"the content of every file\n"


@pytest.mark.deep
def test_a_million_files_take_little_memory(tmp_path: Path, repository: Repository) -> None:
    with _open(repository) as opened:
        manyfiles.make_point(opened, 1000, 1000)
    with mounted(repository, tmp_path / "mnt") as mount:
        assert len(os.listdir(mount.path)) == 1000
        first = mount.statistics()
        assert first["frames_demanded"] <= 4
        assert sum(len(files) for _, _, files in os.walk(mount.path)) == 1_000_000
        assert mount.statistics()["memory_peak_bytes"] < 300 * MIB


@pytest.mark.deep
def test_ten_thousand_points_cost_nothing_to_mount(tmp_path: Path, repository: Repository) -> None:
    with _open(repository) as opened:
        point = manyfiles.make_point(opened, 3, 10)
        manyfiles.repeat_point(opened, point, 10_000)
    with mounted(repository, tmp_path / "mnt", point="all") as mount:
        assert len(os.listdir(mount.path)) == 3
        latest = mount.path / "by-id" / point.id.hex()
        assert len(os.listdir(latest)) == 3
        assert len(os.listdir(mount.path / "by-id")) == 10_001
        assert len(os.listdir(mount.path / "by-source")) == 51
        numbers = {entry.inode() for entry in os.scandir(mount.path / "by-id")}
        assert len(numbers) == 10_001
