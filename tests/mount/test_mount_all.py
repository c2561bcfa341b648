"""A mounted repository: its points in folders, new ones as they come, each with its own inodes."""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path

import pytest

from tests.mount.mounting import ADAPTERS, mounted
from tests.support import compare, need
from tests.support.command import Repository

SECONDS_MAX = 60


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    need.fuse()
    for name in ("one", "two"):
        (tmp_path / name / "deep" / "deeper").mkdir(parents=True)
        (tmp_path / name / "file").write_text(name)
        (tmp_path / name / "deep" / "deeper" / "file").write_text(f"deep in {name}")
        os.link(tmp_path / name / "file", tmp_path / name / "deep" / "link")
    return tmp_path


@pytest.fixture
def repository(folder: Path) -> Repository:
    made = Repository.make(folder / "repo")
    made.run("ingest", folder / "one", "--source-id", "a/b:c")
    made.run("ingest", folder / "two", "--source-id", "two")
    return made


def _wait_for(path: Path) -> None:
    end = time.monotonic() + SECONDS_MAX
    while not path.exists():
        assert time.monotonic() < end, f"{path} does not appear"


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_points_show_by_source_by_id_and_as_the_latest(
    folder: Path, repository: Repository, adapter: str
) -> None:
    ids = [point["point"] for point in repository.run("points", "--json").events()]
    with mounted(repository, folder / "mnt", "--adapter", adapter, point="all") as mount:
        assert sorted(os.listdir(mount.path)) == ["by-id", "by-source", "latest"]
        assert sorted(os.listdir(mount.path / "by-id")) == sorted(ids)
        assert sorted(os.listdir(mount.path / "latest")) == ["a_b:c", "two"]
        (time_name,) = os.listdir(mount.path / "by-source" / "a_b:c")
        for shown in (
            mount.path / "by-source" / "a_b:c" / time_name,
            mount.path / "latest" / "a_b:c",
        ):
            assert compare.differences(folder / "one", shown) == []
        trees = {(mount.path / "by-id" / one / "file").read_text() for one in ids}
        assert trees == {"one", "two"}
        for missing in ("by-id/00", f"by-id/{'0' * 32}", "by-source/x", "latest/x", "x"):
            assert not (mount.path / missing).exists()


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_new_points_appear(folder: Path, repository: Repository, adapter: str) -> None:
    with mounted(repository, folder / "mnt", "--adapter", adapter, point="all") as mount:
        latest = mount.path / "latest" / "two" / "new"
        assert not latest.exists()
        assert len(os.listdir(mount.path / "by-source" / "two")) == 1
        (folder / "two" / "new").write_text("new")
        repository.run("ingest", folder / "two", "--source-id", "two")
        repository.run("ingest", folder / "one", "--source-id", "third")
        _wait_for(latest)
        assert latest.read_text() == "new"
        _wait_for(mount.path / "latest" / "third" / "file")
        assert len(os.listdir(mount.path / "by-source" / "two")) == 2
        assert "third" in os.listdir(mount.path / "by-source")
        assert len(os.listdir(mount.path / "by-id")) == 4


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_point_that_is_open_can_be_listed_when_it_is_forgotten(
    folder: Path, repository: Repository, adapter: str
) -> None:
    """Also in the folder of its source, which goes with its last point."""
    ids = [point["point"] for point in repository.run("points", "--json").events()]
    with mounted(repository, folder / "mnt", "--adapter", adapter, point="all") as mount:
        (time_name,) = os.listdir(mount.path / "by-source" / "two")
        views = ("by-id/" + ids[1], "latest/two", f"by-source/two/{time_name}")
        opened = [os.open(mount.path / view, os.O_RDONLY | os.O_DIRECTORY) for view in views]
        try:
            repository.run("forget", ids[1], "--yes")
            repository.run("gc")
            end = time.monotonic() + SECONDS_MAX
            while "two" in os.listdir(mount.path / "by-source"):
                assert time.monotonic() < end, "it does not go"
            for fd in opened:
                assert sorted(os.listdir(fd)) == ["deep", "file"]
        finally:
            for fd in opened:
                os.close(fd)


def test_points_that_came_after_a_rebuild_of_the_index_can_be_read(
    folder: Path, repository: Repository
) -> None:
    """A mount keeps the index that it opened, which nobody else adds anything to any more."""
    with mounted(repository, folder / "mnt", point="all") as mount:
        assert (mount.path / "latest" / "a_b:c" / "file").read_text() == "one"
        repository.run("rebuild-index")
        (folder / "two" / "new").write_text("new")
        repository.run("ingest", folder / "two", "--source-id", "two")
        latest = mount.path / "latest"
        _wait_for(latest / "two" / "new")
        assert compare.differences(folder / "two", latest / "two") == []
        repository.run("rebuild-index")  # and after the next one
        (folder / "one" / "newer").write_text("newer")
        repository.run("ingest", folder / "one", "--source-id", "a/b:c")
        _wait_for(latest / "a_b:c" / "newer")
        assert compare.differences(folder / "one", latest / "a_b:c") == []
        assert compare.differences(folder / "two", latest / "two") == []
        assert mount.log() == ""


def test_points_that_another_index_knows_can_be_read(folder: Path, repository: Repository) -> None:
    """Another machine has an index of its own."""
    with mounted(repository, folder / "mnt", point="all") as mount:
        assert (mount.path / "latest" / "two" / "file").read_text() == "two"
        (folder / "two" / "new").write_text("new")
        elsewhere = ("--index-dir", folder / "elsewhere")
        repository.run("ingest", folder / "two", "--source-id", "two", *elsewhere)
        latest = mount.path / "latest" / "two"
        _wait_for(latest / "new")
        assert compare.differences(folder / "two", latest) == []
        assert mount.log() == ""


def _inodes(top: Path) -> dict[str, int]:
    found = {}
    for above, folders, files in os.walk(top):
        for name in [*folders, *files]:
            path = os.path.join(above, name)
            found[os.path.relpath(path, top)] = os.lstat(path).st_ino
    return found


def test_inodes_are_unique_and_the_same_after_a_remount(
    folder: Path, repository: Repository
) -> None:
    told = []
    for _ in range(2):
        with mounted(repository, folder / "mnt", point="all") as mount:
            told.append(_inodes(mount.path))
    assert told[0] == told[1]
    one = {path: number for path, number in told[0].items() if not path.endswith(("file", "link"))}
    assert len(set(one.values())) == len(one)
    by_number: dict[int, set[str]] = {}
    for path, number in told[0].items():
        by_number.setdefault(number, set()).add(path)
    shared = [paths for paths in by_number.values() if len(paths) > 1]
    # Two sources, each seen through three folders, with one pair of hard links.
    assert len(shared) == 6
    assert all(len(paths) == 2 for paths in shared)


class _Handle(ctypes.Structure):
    _fields_ = (("bytes", ctypes.c_uint), ("kind", ctypes.c_int), ("data", ctypes.c_char * 128))


_libc = ctypes.CDLL(None, use_errno=True)


def _name_to_handle(path: Path) -> _Handle:
    handle = _Handle(bytes=128)
    mount_id = ctypes.c_int()
    done = _libc.name_to_handle_at(
        -100, os.fsencode(path), ctypes.byref(handle), ctypes.byref(mount_id), 0
    )
    assert done == 0, os.strerror(ctypes.get_errno())
    return handle


def _open_by_handle(mount: Path, handle: _Handle) -> bytes:
    top = os.open(mount, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fd = _libc.open_by_handle_at(top, ctypes.byref(handle), os.O_RDONLY)
        if fd < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        try:
            return os.pread(fd, 100, 0)
        finally:
            os.close(fd)
    finally:
        os.close(top)


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("point", ["latest:two", "all"])
def test_a_handle_from_before_a_remount_opens_the_file(
    folder: Path, repository: Repository, adapter: str, point: str
) -> None:
    """What an NFS server does with the handle of a client that slept meanwhile."""
    need.root()
    top = "." if point != "all" else "latest/two"
    names = ("deep/deeper/file", "file", "deep/link")
    with mounted(repository, folder / "mnt", "--adapter", adapter, point=point) as mount:
        handles = [_name_to_handle(mount.path / top / name) for name in names]
    with mounted(repository, folder / "mnt", "--adapter", adapter, point=point) as mount:
        assert [_open_by_handle(mount.path, handle) for handle in handles] == [
            b"deep in two",
            b"two",
            b"two",
        ]


def test_a_handle_of_nothing_is_stale(folder: Path, repository: Repository) -> None:
    need.root()
    with mounted(repository, folder / "mnt") as mount:
        handle = _name_to_handle(mount.path / "file")
    (folder / "empty").mkdir()
    repository.run("ingest", folder / "empty")
    with (
        mounted(repository, folder / "mnt") as mount,
        pytest.raises(OSError, match="Stale"),
    ):
        _open_by_handle(mount.path, handle)


def test_a_damaged_manifest_hides_its_point_only(folder: Path, repository: Repository) -> None:
    ids = [point["point"] for point in repository.run("points", "--json").events()]
    path = repository.path / "points" / ids[0]
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)
    with mounted(repository, folder / "mnt", point="all") as mount:
        assert os.listdir(mount.path / "by-id") == [ids[1]]
        assert os.listdir(mount.path / "latest") == ["two"]
        assert ids[0] in mount.log()
