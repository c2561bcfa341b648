from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ingest.filereader import (
    flags_fd,
    open_file,
    open_file_stat,
    read_small,
    torn,
    xattrs_at,
    xattrs_fd,
)
from ingest.statx import stat_at
from tests.support import chattr, loopfs, need, oddities


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


# -- opening ------------------------------------------------------------------------------------


def test_a_file_is_opened_and_told_about(tmp_path: Path, folder: int) -> None:
    (tmp_path / "file").write_bytes(b"content")
    fd, found = open_file_stat(folder, b"file")
    assert found == stat_at(folder, b"file")
    assert os.read(fd, 100) == b"content"
    assert not os.get_inheritable(fd)
    os.close(fd)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.fspath(path))


def _device(path: Path) -> None:
    need.root()
    os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))


@pytest.mark.parametrize(
    ("make", "number"),
    [
        (os.mkfifo, errno.EINVAL),
        (os.mkdir, errno.EISDIR),
        (lambda path: os.symlink("other", path), errno.ELOOP),
        (_socket, errno.ENXIO),
        (_device, errno.EINVAL),
        (lambda path: None, errno.ENOENT),
    ],
)
def test_what_is_no_file_is_refused_at_once(
    tmp_path: Path, folder: int, make: Callable[[Path], None], number: int
) -> None:
    (tmp_path / "other").touch()
    make(tmp_path / "entry")
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match="entry") as raised:
        open_file(folder, b"entry")
    assert raised.value.errno == number
    assert os.listdir("/proc/self/fd") == before


HOLDER = """
import fcntl, os, signal, sys
fd = os.open(sys.argv[1], os.O_RDWR)
def give_in(*_):
    print("asked", flush=True)
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    sys.exit()
signal.signal(signal.SIGIO, give_in)
fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("held", flush=True)
signal.pause()
"""


def test_the_holder_of_a_lease_is_asked_to_give_in(tmp_path: Path, folder: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"leased")
    words = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        fd = open_file(folder, b"file")
        assert os.read(fd, 100) == b"leased"
        os.close(fd)
        assert holder.stdout.read() == "asked\n"


def test_reading_leaves_the_access_time_where_we_may(tmp_path: Path, folder: int) -> None:
    need.root()
    path = tmp_path / "file"
    path.write_bytes(b"content")
    tmp_path.chmod(0o755)
    path.chmod(0o644)
    os.utime(path, ns=(1, 10**18))
    fd = open_file(folder, b"file")
    assert read_small(fd, 7) == b"content"
    os.close(fd)
    assert path.stat().st_atime_ns == 1
    os.seteuid(65534)
    try:
        os.close(open_file(folder, b"file"))
    finally:
        os.seteuid(0)


# -- content ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "content", "read"),
    [
        (0, b"", b""),
        (7, b"content", b"content"),
        (7, b"cont", b"cont"),
        (7, b"content and more", b"content "),
        (0, b"more", b"m"),
    ],
)
def test_a_small_file_that_changed_its_size_is_noticed(
    tmp_path: Path, said: int, content: bytes, read: bytes
) -> None:
    (tmp_path / "file").write_bytes(content)
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    assert read_small(fd, said) == read
    os.close(fd)


def test_short_reads_are_no_end_of_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"content")
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    whole = os.read
    monkeypatch.setattr(os, "read", lambda fd, size: whole(fd, min(size, 3)))
    assert read_small(fd, 7) == b"content"
    os.close(fd)


def test_a_change_between_two_stats_is_torn(tmp_path: Path, folder: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    os.utime(path, ns=(1, 10**18))
    before = stat_at(folder, b"file")
    assert not torn(before, stat_at(folder, b"file"))
    path.read_bytes()
    assert not torn(before, stat_at(folder, b"file"))
    changes: list[Callable[[], object]] = [
        lambda: path.write_bytes(b"changed"),
        lambda: os.utime(path, ns=(1, 10**18)),
        lambda: os.truncate(path, 3),
        lambda: path.chmod(0o600),
        lambda: (tmp_path / "new").write_bytes(b"another") and (tmp_path / "new").rename(path),
    ]
    for change in changes:
        before = stat_at(folder, b"file")
        while before.ctime_ns == stat_at(folder, b"file").ctime_ns:
            change()  # until the clock of the file system, which has ticks, tells them apart
        assert torn(before, stat_at(folder, b"file"))


# -- attributes ---------------------------------------------------------------------------------


def test_xattrs_of_every_readable_namespace_are_found(tmp_path: Path, folder: int) -> None:
    need.root()
    (tmp_path / "file").touch()
    fd = open_file(folder, b"file")
    assert xattrs_fd(fd) == ()
    for name, value in reversed(oddities.XATTRS.items()):
        os.setxattr(fd, name, value)
    assert xattrs_fd(fd) == tuple(sorted(oddities.XATTRS.items()))
    os.close(fd)


def test_xattrs_of_what_cannot_be_opened_are_found(tmp_path: Path, folder: int) -> None:
    need.root()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "target").touch()
    os.setxattr(tmp_path / "target", "trusted.of", b"the target")
    (tmp_path / "link").symlink_to("target")
    for name in (b"fifo", b"link"):
        assert xattrs_at(folder, name) == ()
        path = os.fsencode(tmp_path) + b"/" + name
        os.setxattr(path, "trusted.of", name, follow_symlinks=False)
        assert xattrs_at(folder, name) == ((b"trusted.of", name),)
    with pytest.raises(FileNotFoundError):
        xattrs_at(folder, b"missing")


def test_the_largest_xattrs_are_read_whole(tmp_path: Path) -> None:
    with loopfs.mounted("xfs", tmp_path) as filesystem:
        path = filesystem.path / "file"
        path.touch()
        expected = {b"user.%03d" % n + b"-" * 240: b"v" * n for n in range(200)}
        expected[b"user.large"] = oddities.content(1, 65536)
        for name, value in expected.items():
            os.setxattr(path, name, value)
        fd = os.open(path, os.O_RDONLY)
        assert xattrs_fd(fd) == tuple(sorted(expected.items()))
        os.close(fd)


def test_an_xattr_that_goes_meanwhile_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    os.setxattr(fd, "user.stays", b"1")
    monkeypatch.setattr(os, "listxattr", lambda _fd: ["user.gone", "user.stays"])
    assert xattrs_fd(fd) == ((b"user.stays", b"1"),)
    os.close(fd)


def test_flags_are_those_that_chattr_can_set(tmp_path: Path) -> None:
    need.root()
    with loopfs.mounted("ext4", tmp_path, size_bytes=64 << 20) as filesystem:
        path = filesystem.path / "file"
        path.touch()
        fd = os.open(path, os.O_RDONLY)
        assert chattr.get(fd) != 0  # ext4 says here that it stores extents
        assert flags_fd(fd) == 0
        for flag in chattr.FLAGS.values():
            chattr.change(fd, add=flag)
            assert flags_fd(fd) == flag
            chattr.change(fd, remove=flag)
        os.close(fd)
        fd = os.open(filesystem.path, os.O_RDONLY)
        chattr.change(fd, add=chattr.FLAGS["nodump"])
        assert flags_fd(fd) == chattr.FLAGS["nodump"]
        os.close(fd)


def test_a_file_system_without_attributes_has_none() -> None:
    fd = os.open("/proc/self/status", os.O_RDONLY)
    assert xattrs_fd(fd) == ()
    assert flags_fd(fd) == 0
    os.close(fd)


def test_a_failing_device_is_not_taken_for_a_lack_of_attributes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_words: object) -> None:
        raise OSError(errno.EIO, "failing")

    monkeypatch.setattr(os, "listxattr", fail)
    monkeypatch.setattr("ingest.filereader._ioctl", fail)
    fd = os.open("/", os.O_RDONLY)
    for read in (xattrs_fd, flags_fd):
        with pytest.raises(OSError, match="failing"):
            read(fd)
    os.close(fd)
