"""A restore into a tree that is there: what differs is written, and nothing else."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from repo.types import KIB, MIB
from tests.mount.restoring import Store, leftovers, make_small
from tests.support import chattr, compare, need, oddities

Change = Callable[[Path], object]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


class Saved(NamedTuple):
    """A tree that nobody changes, and the repository that holds it."""

    store: Store
    source: Path


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """A tree with a little of everything."""
    need.root()
    folder = tmp_path_factory.mktemp("saved")
    store = Store(folder)
    source = folder / "source"
    (source / "directory" / "below").mkdir(parents=True)
    (source / "empty").mkdir()
    for name, size in {"small": 5000, "middle": 700 * KIB, "large": 5 * MIB, "none": 0}.items():
        (source / name).write_bytes(oddities.content(size, size))
    (source / "directory" / "file").write_text("in the directory")
    (source / "directory" / "below" / "file").write_text("further down")
    with (source / "sparse").open("wb") as file:
        file.write(oddities.content(1, 256 * KIB))
        file.seek(2 * MIB)
        file.write(oddities.content(2, 256 * KIB))
        file.truncate(4 * MIB)
    (source / "link").symlink_to("small")
    os.mkfifo(source / "fifo")
    os.mknod(source / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    (source / "several-1").write_text("several names")
    os.link(source / "several-1", source / "directory" / "several-2")
    os.setxattr(source / "small", "user.note", b"recorded")
    os.setxattr(source / "directory", "system.posix_acl_default", oddities.ACL_DEFAULT)
    os.chown(source / "middle", 1234, 5678)
    (source / "middle").chmod(0o6751)
    os.setxattr(source / "middle", "security.capability", oddities.CAPABILITY)
    for at, path in enumerate(sorted([source, *source.rglob("*")], reverse=True)):
        os.utime(path, ns=(1, 10**18 + at), follow_symlinks=False)
    store.ingest(source)
    return Saved(store, source)


@pytest.fixture
def target(saved: Saved, tmp_path: Path) -> Iterator[Path]:
    """The same tree restored."""
    saved.store.restore(tmp_path / "target")
    assert compare.differences(saved.source, tmp_path / "target", holes=True) == []
    yield tmp_path / "target"
    chattr.release(tmp_path)


def _flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def _truncate(path: Path, size: int) -> None:
    os.truncate(path, size)


def _write_at(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def _instead(path: Path, make: Change) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
    make(path)


def _flags(path: Path, *words: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        chattr.change(fd, add=sum(chattr.FLAGS[word] for word in words))
    finally:
        os.close(fd)


def _socket(path: Path) -> None:
    os.mknod(path, stat.S_IFSOCK | 0o600)


def _each(*changes: Change) -> Change:
    def change(path: Path) -> None:
        for one in changes:
            one(path)

    return change


CHANGES: dict[str, Change] = {
    "nothing": lambda t: None,
    "a small file's content": lambda t: _flip(t / "small", 77),
    "a middle file's content": lambda t: _flip(t / "middle", 500_000),
    "a large file's content": lambda t: _flip(t / "large", 3 * MIB),
    "a file is shorter": lambda t: _truncate(t / "large", 2 * MIB + 1),
    "a file is empty": lambda t: _truncate(t / "middle", 0),
    "a file is longer": lambda t: _truncate(t / "large", 9 * MIB),
    "an empty file is not": lambda t: (t / "none").write_text("something"),
    "a hole is filled": lambda t: _write_at(t / "sparse", MIB, b"x" * 300_000),
    "a hole is full of zeros": lambda t: _write_at(t / "sparse", MIB, bytes(300_000)),
    "the hole at the end is filled": lambda t: _write_at(t / "sparse", 3 * MIB, b"x" * 100),
    "data became a hole": _each(
        lambda t: _truncate(t / "large", 0), lambda t: _truncate(t / "large", 5 * MIB)
    ),
    "a time": lambda t: os.utime(t / "small", ns=(1, 1)),
    "a directory's time": lambda t: os.utime(t / "directory", ns=(1, 1)),
    "the root's time": lambda t: os.utime(t, ns=(1, 1)),
    "a symlink's time": lambda t: os.utime(t / "link", ns=(1, 1), follow_symlinks=False),
    "a fifo's time": lambda t: os.utime(t / "fifo", ns=(1, 1)),
    "a mode": lambda t: (t / "small").chmod(0o7777),
    "a directory's mode": lambda t: (t / "directory").chmod(0),
    "a device's mode": lambda t: (t / "device").chmod(0o4777),
    "an owner": lambda t: os.chown(t / "middle", 0, 0),
    "an owner of what had none": lambda t: os.chown(t / "small", 7, 8),
    "a symlink's owner": lambda t: os.chown(t / "link", 7, 8, follow_symlinks=False),
    "a device's owner": lambda t: os.chown(t / "device", 7, 8),
    "an xattr is gone": lambda t: os.removexattr(t / "small", "user.note"),
    "an xattr is another": lambda t: os.setxattr(t / "small", "user.note", b"changed"),
    "an xattr too many": lambda t: os.setxattr(t / "large", "user.new", b"new"),
    "a trusted xattr too many": lambda t: os.setxattr(
        t / "link", "trusted.new", b"new", follow_symlinks=False
    ),
    "an ACL too many": lambda t: os.setxattr(
        t / "large", "system.posix_acl_access", oddities.ACL_ACCESS
    ),
    "a default ACL is gone": lambda t: os.removexattr(t / "directory", "system.posix_acl_default"),
    "a default ACL too many": lambda t: os.setxattr(
        t / "empty", "system.posix_acl_default", oddities.ACL_DEFAULT
    ),
    "a capability is gone": lambda t: os.removexattr(t / "middle", "security.capability"),
    "a flag": lambda t: _flags(t / "small", "nodump"),
    "an immutable file": _each(
        lambda t: _flip(t / "small", 1), lambda t: _flags(t / "small", "immutable")
    ),
    "an append-only file": _each(
        lambda t: _truncate(t / "large", 7 * MIB), lambda t: _flags(t / "large", "append")
    ),
    "an immutable directory": _each(
        lambda t: (t / "directory" / "file").unlink(),
        lambda t: _flags(t / "directory", "immutable", "append"),
    ),
    "an immutable root": _each(lambda t: (t / "fifo").unlink(), lambda t: _flags(t, "immutable")),
    "a file is missing": lambda t: (t / "small").unlink(),
    "a directory is missing": lambda t: shutil.rmtree(t / "directory"),
    "a symlink leads elsewhere": lambda t: _instead(t / "link", lambda p: p.symlink_to("/etc")),
    "a file is a symlink": lambda t: _instead(t / "small", lambda p: p.symlink_to("large")),
    "a file is an immutable other": _each(
        lambda t: _instead(t / "link", lambda p: p.touch()),
        lambda t: _flags(t / "link", "immutable"),
    ),
    "a file is an empty directory": lambda t: _instead(t / "small", lambda p: p.mkdir()),
    "a large file is a fifo": lambda t: _instead(t / "large", os.mkfifo),
    "a symlink is a file": lambda t: _instead(t / "link", lambda p: p.write_text("x")),
    "a fifo is a socket": lambda t: _instead(t / "fifo", _socket),
    "a device is another": lambda t: _instead(
        t / "device", lambda p: os.mknod(p, stat.S_IFCHR | 0o600, os.makedev(1, 5))
    ),
    "a device is a file": lambda t: _instead(t / "device", lambda p: p.touch()),
    "a directory is a file": lambda t: _instead(t / "directory", lambda p: p.write_text("x")),
    "a directory is a symlink": lambda t: _instead(
        t / "directory", lambda p: p.symlink_to(t / "empty")
    ),
    "two names are two files": lambda t: _instead(
        t / "several-1", lambda p: p.write_text("several names")
    ),
    "two names have other content": lambda t: _flip(t / "several-1", 1),
    "two names have another mode": lambda t: (t / "several-1").chmod(0o777),
    "files became one": lambda t: _instead(t / "large", lambda p: os.link(t / "none", p)),
    "devices became one": lambda t: _instead(t / "fifo", lambda p: os.link(t / "device", p)),
    "a third name": lambda t: _instead(t / "small", lambda p: os.link(t / "several-1", p)),
}


@pytest.mark.parametrize("what", CHANGES)
def test_every_difference_is_put_right(saved: Saved, target: Path, what: str) -> None:
    CHANGES[what](target)
    summary = saved.store.restore(target)
    assert summary.problems == []
    assert compare.differences(saved.source, target, holes=True) == []
    assert leftovers(target) == []
    if what == "nothing":
        assert (summary.bytes_written, summary.files_unchanged) == (0, 8 + 1)


def test_all_differences_at_once_with_several_workers(
    saved: Saved, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_small(monkeypatch)
    for what in (
        "a middle file's content", "a large file's content", "a hole is filled", "a mode",
        "an xattr is gone", "a default ACL is gone", "an immutable directory",
        "a symlink leads elsewhere", "a fifo is a socket", "a device is a file",
        "two names have other content", "an owner of what had none",
    ):  # fmt: skip
        CHANGES[what](target)
    summary = saved.store.restore(target, streams=2)
    assert summary.problems == []
    assert compare.differences(saved.source, target, holes=True) == []


@pytest.mark.parametrize("streams", [1, 2])
def test_of_a_large_file_only_the_chunk_that_differs_is_written(
    saved: Saved, target: Path, streams: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_small(monkeypatch)
    inode = (target / "large").stat().st_ino
    _flip(target / "large", 3 * MIB)
    summary = saved.store.restore(target, streams=streams)
    assert summary.problems == []
    assert 0 < summary.bytes_written <= MIB
    assert summary.files_unchanged == 8
    assert (target / "large").stat().st_ino == inode
    assert compare.differences(saved.source, target, holes=True) == []


@pytest.mark.parametrize("streams", [1, 2])
def test_new_content_is_never_shown_to_more_than_it_is_meant_for(
    saved: Saved, target: Path, streams: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_small(monkeypatch)
    modes: list[int] = []
    truncate = os.ftruncate

    def watched(fd: int, size: int) -> None:  # the first change of its content
        modes.append(stat.S_IMODE(os.fstat(fd).st_mode))
        truncate(fd, size)

    monkeypatch.setattr(os, "ftruncate", watched)
    (target / "large").write_bytes(b"x")
    (target / "large").chmod(0o6777)
    assert saved.store.restore(target, streams=streams).problems == []
    assert modes == [0o644]
    assert compare.differences(saved.source, target, holes=True) == []


def test_what_is_as_recorded_is_not_touched(saved: Saved, target: Path) -> None:
    paths = [target, *target.rglob("*")]
    before = [path.lstat() for path in paths]
    saved.store.restore(target)
    for path, was in zip(paths, before, strict=True):
        now = path.lstat()
        assert (now.st_ino, now.st_ctime_ns) == (was.st_ino, was.st_ctime_ns), path


def test_names_that_the_point_has_not_are_left_alone(saved: Saved, target: Path) -> None:
    (target / "directory" / "mine").write_text("mine")
    (target / "more" / "of").mkdir(parents=True)
    saved.store.restore(target)
    assert (target / "directory" / "mine").read_text() == "mine"
    shutil.rmtree(target / "more")
    (target / "directory" / "mine").unlink()
    saved.store.restore(target)
    assert compare.differences(saved.source, target, holes=True) == []


def test_a_directory_in_the_way_that_is_not_empty_is_a_problem(saved: Saved, target: Path) -> None:
    _instead(
        target / "small", _each(lambda p: p.mkdir(), lambda p: (p / "mine").write_text("mine"))
    )
    _instead(target / "link", _each(lambda p: p.mkdir(), lambda p: (p / "mine").write_text("mine")))
    summary = saved.store.restore(target)
    assert [(p.path, p.step) for p in summary.problems] == [
        (b"link", "replace"), (b"small", "replace")
    ]  # fmt: skip
    assert summary.damaged == 0
    assert (target / "small" / "mine").read_text() == "mine"
    assert leftovers(target) == []


def test_a_file_outside_is_not_written_through_a_hard_link(
    saved: Saved, target: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.write_text("not yours")
    outside.chmod(0o640)
    for name in ("small", "several-1", "large"):
        _instead(target / name, lambda p: os.link(outside, p))
    assert saved.store.restore(target).problems == []
    assert outside.read_text() == "not yours"
    assert outside.stat().st_mode & 0o7777 == 0o640
    assert compare.differences(saved.source, target, holes=True) == []


def test_nothing_outside_is_reached_through_a_symlink(
    saved: Saved, target: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    (outside / "below").mkdir(parents=True)
    (outside / "file").write_text("not yours")
    shutil.rmtree(target / "directory")
    (target / "directory").symlink_to(outside)
    (target / "small").unlink()
    (target / "small").symlink_to(outside / "file")
    assert saved.store.restore(target).problems == []
    assert (outside / "file").read_text() == "not yours"
    assert sorted(path.name for path in outside.iterdir()) == ["below", "file"]
    assert compare.differences(saved.source, target, holes=True) == []


def test_a_program_that_runs_is_replaced(store: Store, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    shutil.copy("/bin/cat", source / "program")
    store.ingest(source)
    store.restore(target)
    _flip(target / "program", (target / "program").stat().st_size - 1)
    with subprocess.Popen([target / "program"], stdin=subprocess.PIPE) as running:
        try:
            assert store.restore(target).problems == []
        finally:
            running.communicate(b"")
    assert compare.differences(source, target) == []


def test_a_socket_somebody_listens_at_stays(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        fd = os.open(source, os.O_RDONLY)
        listener.bind(f"/proc/self/fd/{fd}/socket")
        os.close(fd)
        store.ingest(source)
        before = (source / "socket").lstat()
        assert store.restore(source).problems == []
        assert (source / "socket").lstat() == before
