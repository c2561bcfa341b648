from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.statx import DirectoryOpener, Stat, open_directory, open_directory_at, stat_at, stat_fd
from repo.types import Kind
from tests.support import need, oddities

KINDS = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFIFO: Kind.FIFO,
    stat.S_IFSOCK: Kind.SOCKET,
    stat.S_IFCHR: Kind.CHARACTER_DEVICE,
    stat.S_IFBLK: Kind.BLOCK_DEVICE,
}


def same(found: Stat, expected: os.stat_result) -> bool:
    return found[:8] + found[9:13] == (
        KINDS[stat.S_IFMT(expected.st_mode)],
        stat.S_IMODE(expected.st_mode),
        expected.st_uid,
        expected.st_gid,
        expected.st_size,
        expected.st_blocks,
        expected.st_mtime_ns,
        expected.st_ctime_ns,
        expected.st_ino,
        expected.st_nlink,
        expected.st_rdev,
        expected.st_dev,
    )


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("odd")
    made = oddities.make(root, many=3)
    yield root
    made.cleanup()


@pytest.fixture
def odd_fd(odd: Path) -> Iterator[int]:
    fd = os.open(odd, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def walk(dirfd: int) -> Iterator[tuple[int, bytes]]:
    """Every entry below, as its directory's descriptor and its name."""
    for name in map(os.fsencode, os.listdir(dirfd)):
        yield dirfd, name
        if stat.S_ISDIR(os.stat(name, dir_fd=dirfd, follow_symlinks=False).st_mode):
            try:
                below = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=dirfd)
            except PermissionError:
                continue
            try:
                yield from walk(below)
            finally:
                os.close(below)


def test_it_says_what_os_stat_says(odd_fd: int) -> None:
    kinds = set()
    for dirfd, name in walk(odd_fd):
        expected = os.stat(name, dir_fd=dirfd, follow_symlinks=False)
        found = stat_at(dirfd, name)
        assert same(found, expected)
        kinds.add(found.kind)
        if found.kind in (Kind.FILE, Kind.DIRECTORY) and os.access(name, os.R_OK, dir_fd=dirfd):
            fd = os.open(name, os.O_RDONLY, dir_fd=dirfd)
            assert stat_fd(fd) == found
            os.close(fd)
    assert kinds == set(Kind) or os.geteuid() != 0


def test_it_says_more_than_os_stat(tmp_path: Path) -> None:
    dirfd = os.open(tmp_path, os.O_RDONLY)
    try:
        (tmp_path / "file").touch()
        found = stat_at(dirfd, b"file")
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
        assert found.mount_id in {int(line.split()[0]) for line in mounts}
        if found.btime_ns:
            assert 0 <= found.ctime_ns - found.btime_ns < 10**9
        os.utime(tmp_path / "file", ns=(1, 2))
        assert stat_at(dirfd, b"file").btime_ns == found.btime_ns
    finally:
        os.close(dirfd)


def test_a_missing_entry_is_an_os_error_with_its_name(odd_fd: int) -> None:
    with pytest.raises(FileNotFoundError) as raised:
        stat_at(odd_fd, b"missing")
    assert raised.value.filename == b"missing"
    with pytest.raises(NotADirectoryError):
        stat_at(odd_fd, b"sizes/1/below")
    closed = os.dup(odd_fd)
    os.close(closed)
    with pytest.raises(OSError, match="Bad file descriptor") as bad:
        stat_fd(closed)
    assert bad.value.errno == errno.EBADF


def test_threads_do_not_disturb_one_another(odd_fd: int) -> None:
    names = [b"sizes", b"sizes/4096", b"symlinks/dangling", b"special/fifo"]
    expected = {name: stat_at(odd_fd, name) for name in names}
    wrong: list[bytes] = []

    def look(name: bytes) -> None:
        wrong.extend(name for _ in range(3000) if stat_at(odd_fd, name) != expected[name])

    threads = [threading.Thread(target=look, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# -- directories --------------------------------------------------------------------------------


def deepest(odd_fd: int) -> list[bytes]:
    parts = [b"deep"]
    while True:
        fd = open_directory(odd_fd, parts)
        try:
            below = sorted(os.listdir(fd))
        finally:
            os.close(fd)
        if not below[0].endswith("d"):
            return parts
        parts.append(os.fsencode(below[0]))


def test_a_path_longer_than_path_max_is_opened(odd_fd: int) -> None:
    parts = deepest(odd_fd)
    assert len(b"/".join(parts)) > 4096
    fd = open_directory(odd_fd, parts)
    opener = DirectoryOpener(odd_fd)
    assert stat_fd(opener.open(parts)) == stat_fd(fd)
    assert set(os.listdir(fd)) == {"at the bottom", "link", "fifo"}
    opener.close()
    os.close(fd)


@pytest.mark.parametrize(
    "path", [b"symlinks/to-directory", b"sizes/1", b"missing", b"special/fifo"]
)
def test_only_directories_are_opened_and_no_descriptor_is_lost(odd_fd: int, path: bytes) -> None:
    parts = path.split(b"/")
    opener = DirectoryOpener(odd_fd)
    before = os.listdir("/proc/self/fd")
    for attempt in (open_directory, lambda _fd, parts: opener.open(parts)):
        with pytest.raises(OSError, match=r"Not a directory|No such file"):
            attempt(odd_fd, [*parts, b"below"])
        with pytest.raises(OSError, match=r"Not a directory|No such file"):
            attempt(odd_fd, parts)
    opener.open([])
    assert len(os.listdir("/proc/self/fd")) == len(before)
    opener.close()


def test_no_parts_are_the_root_with_a_position_of_its_own(odd_fd: int) -> None:
    opener = DirectoryOpener(odd_fd)
    fd = open_directory(odd_fd, [])
    for root in (fd, opener.open([])):
        assert stat_fd(root).inode == stat_fd(odd_fd).inode
        assert root != odd_fd
    os.close(fd)
    opener.close()


TREE = ["a", "a/b", "a/b/c", "a/b/c/d", "a/b/e", "a/f", "g", "g/b", "g/b/c"]


@given(
    order=st.lists(st.sampled_from(["", *TREE, "missing", "a/missing/c"]), max_size=20),
    depth_max=st.integers(1, 5),
)
def test_an_opener_opens_what_is_asked_for(
    tmp_path_factory: pytest.TempPathFactory, order: list[str], depth_max: int
) -> None:
    root = tmp_path_factory.getbasetemp() / "tree"
    for path in TREE:
        (root / path).mkdir(parents=True, exist_ok=True)
    root_fd = os.open(root, os.O_RDONLY)
    before = len(os.listdir("/proc/self/fd"))
    opener = DirectoryOpener(root_fd, depth_max=depth_max)
    for path in order:
        parts = [os.fsencode(part) for part in path.split("/") if part]
        if "missing" in path:
            with pytest.raises(FileNotFoundError):
                opener.open(parts)
        else:
            assert os.fstat(opener.open(parts)).st_ino == (root / path).stat().st_ino
        assert len(os.listdir("/proc/self/fd")) <= before + 1 + depth_max
    opener.close()
    assert len(os.listdir("/proc/self/fd")) == before
    os.close(root_fd)


def test_access_times_stay_where_we_may_and_reading_works_where_we_may_not(tmp_path: Path) -> None:
    need.root()
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o755)
    tmp_path.chmod(0o755)
    os.utime(folder, ns=(1, 10**18))
    root_fd = os.open(tmp_path, os.O_RDONLY)
    fd = open_directory_at(root_fd, b"folder")
    os.listdir(fd)
    os.close(fd)
    assert folder.stat().st_atime_ns == 1
    os.seteuid(65534)
    try:
        os.close(open_directory_at(root_fd, b"folder"))
    finally:
        os.seteuid(0)
        os.close(root_fd)
