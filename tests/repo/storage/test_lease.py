"""Leases: alive as long as their holder, however that ends; never a matter of clocks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from repo.errors import RepositoryFailed
from repo.format import layout
from repo.storage import lease
from repo.storage.folder import Folder
from repo.storage.lease import Lease
from tests.repo import child
from tests.support import loopfs


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder.create(tmp_path / "repository")


def files(folder: Folder) -> list[str]:
    return os.listdir(folder.path / layout.LEASES)


def test_a_lease_tells_who_holds_it(folder: Folder) -> None:
    with Lease.acquire(folder, "mount", 7) as held:
        (info,) = lease.live(folder)
        assert info == held.info
        assert (info.pid, info.purpose, info.epoch) == (os.getpid(), "mount", 7)
        assert info.started.endswith("+00:00")
        assert lease.sweep(folder) == 0
    assert lease.live(folder) == []
    assert files(folder) == []
    held.release()


def test_the_oldest_epoch_comes_first(folder: Folder) -> None:
    with Lease.acquire(folder, "ingest", 9), Lease.acquire(folder, "mount", 3):
        assert [info.epoch for info in lease.live(folder)] == [3, 9]


HOLD = """
import sys
from repo.storage.folder import Folder
from repo.storage.lease import Lease
held = Lease.acquire(Folder(sys.argv[1]), "ingest", 5)
print("ready", flush=True)
sys.stdin.readline()
"""


def test_a_killed_holders_lease_dies_with_it(folder: Folder) -> None:
    with child.running(HOLD, folder.path) as holder:
        assert [(info.pid, info.epoch) for info in lease.live(folder)] == [(holder.pid, 5)]
        holder.kill()
        holder.wait()
        assert lease.live(folder) == []
        assert len(files(folder)) == 1
        assert lease.sweep(folder) == 1
        assert files(folder) == []


def test_a_stopped_holder_is_alive(folder: Folder) -> None:
    with child.running(HOLD, folder.path) as holder:
        os.kill(holder.pid, 19)  # SIGSTOP: stopped is not dead
        assert [info.epoch for info in lease.live(folder)] == [5]
        assert lease.sweep(folder) == 0


def test_a_live_lease_that_cannot_be_read_holds_everything_back(folder: Folder) -> None:
    with Lease.acquire(folder, "ingest", 5) as held:
        assert held.path is not None
        held.path.write_bytes(b"{")
        assert [info.epoch for info in lease.live(folder)] == [0]


def test_foreign_files_are_no_leases(folder: Folder) -> None:
    (folder.path / layout.LEASES / "README").write_bytes(b"")
    assert lease.live(folder) == []
    lease.sweep(folder)
    assert files(folder) == ["README"]


def test_a_repository_without_the_folder_has_no_leases(tmp_path: Path) -> None:
    (tmp_path / "copied").mkdir()
    folder = Folder(tmp_path / "copied")
    assert lease.live(folder) == []
    assert lease.sweep(folder) == 0
    with Lease.acquire(folder, "mount", 1):
        assert len(lease.live(folder)) == 1


def test_a_full_disk_gives_no_lease(tmp_path: Path) -> None:
    with loopfs.mounted("tmpfs", tmp_path, size_bytes=1 << 20) as disk:
        folder = Folder.create(disk.path / "repository")
        free = os.statvfs(disk.path)
        (disk.path / "ballast").write_bytes(bytes(free.f_bavail * free.f_frsize))
        with pytest.raises(RepositoryFailed, match="No space left"):
            Lease.acquire(folder, "ingest", 1)
        assert files(folder) == []
