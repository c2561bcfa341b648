"""Durable files: whole or absent, private, never replaced; errors with the fitting next step."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repo.errors import RepositoryFailed
from repo.storage import durable
from tests.repo import child
from tests.support import loopfs, need


def test_write_new_makes_the_file_and_nothing_else(tmp_path: Path) -> None:
    durable.write_new(tmp_path, "name", b"content")
    assert (tmp_path / "name").read_bytes() == b"content"
    assert os.listdir(tmp_path) == ["name"]


def test_write_new_never_replaces(tmp_path: Path) -> None:
    durable.write_new(tmp_path, "name", b"first")
    with pytest.raises(RepositoryFailed, match="exists") as caught:
        durable.write_new(tmp_path, "name", b"second")
    assert caught.value.next_step
    assert (tmp_path / "name").read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["name"]


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o277, 0o777])
def test_modes_do_not_depend_on_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        durable.make_directory(tmp_path / "folder")
        durable.write_new(tmp_path / "folder", "file", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "folder" / "file").stat().st_mode) == 0o600


def test_make_directory_leaves_one_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir(mode=0o750)
    durable.make_directory(tmp_path / "folder")
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o750


@given(data=st.binary(max_size=300), step=st.integers(1, 7))
def test_write_all_goes_on_after_short_writes(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, step: int
) -> None:
    real_write = os.write
    path = tmp_path_factory.getbasetemp() / "short"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "write", lambda fd, view: real_write(fd, view[:step]))
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        durable.write_all(fd, data)
        os.close(fd)
    assert path.read_bytes() == data


def test_read_all_stops_at_its_limit(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 100)
    assert durable.read_all(tmp_path / "file", limit_bytes=100) == b"x" * 100
    with pytest.raises(OSError, match="too large"):
        durable.read_all(tmp_path / "file", limit_bytes=99)


@pytest.mark.parametrize(
    ("number", "step"),
    [
        (errno.ENOSPC, "free space"),
        (errno.EDQUOT, "quota"),
        (errno.EIO, "repo verify"),
        (errno.EROFS, "for writing"),
        (errno.EACCES, "owner"),
        (errno.ESTALE, "mount it again"),
        (errno.EMFILE, "ulimit -n"),
        (errno.ELOOP, "kernel log"),
    ],
)
def test_an_error_says_what_where_and_what_next(number: int, step: str) -> None:
    with (
        pytest.raises(RepositoryFailed) as caught,
        durable.repository_io("cannot write", "/r/points"),
    ):
        raise OSError(number, os.strerror(number))
    assert caught.value.exit_status == 12
    assert caught.value.what == f"cannot write: {os.strerror(number)}"
    assert caught.value.where == "/r/points"
    assert step in caught.value.next_step


def test_other_exceptions_pass_through() -> None:
    with pytest.raises(KeyError), durable.repository_io("cannot write", "x"):
        raise KeyError


def test_sweep_takes_what_the_dead_left_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / ".new-0011").write_bytes(b"left by the dead")
    (tmp_path / "content").write_bytes(b"ours")
    fd, living = durable.create_temporary(tmp_path)
    assert durable.sweep_temporaries(tmp_path) == 1
    assert {tmp_path / "content", Path(living)} == set(tmp_path.iterdir())
    os.close(fd)
    assert durable.sweep_temporaries(tmp_path) == 1


def test_a_full_disk_leaves_no_name(tmp_path: Path) -> None:
    with loopfs.mounted("tmpfs", tmp_path, size_bytes=1 << 20) as disk:
        with pytest.raises(RepositoryFailed, match="No space left") as caught:
            durable.write_new(disk.path, "large", bytes(2 << 20))
        assert "free space" in caught.value.next_step
        assert os.listdir(disk.path) == []
        durable.write_new(disk.path, "small", bytes(1000))


WRITE = """
import sys
from repo.storage.durable import write_new
write_new(sys.argv[1], "name", b"content" * 1000)
"""


@pytest.mark.parametrize(
    "call",
    ["fchmod", "flock", "write", "fsync", "?link,linkat", "?unlink,unlinkat", "fsync:when=2"],
)
def test_killed_at_any_call_the_file_is_whole_or_absent(tmp_path: Path, call: str) -> None:
    need.tool("strace")
    calls, _, when = call.partition(":when=")
    inject = f"inject={calls}:signal=KILL:when={when or 1}"
    before = ("strace", "-qq", "-o", os.devnull, "-e", f"trace={calls}", "-e", inject)
    status, _, errors = child.run(WRITE, tmp_path, before=before)
    assert status != 0, errors
    name = tmp_path / "name"
    assert not name.exists() or name.read_bytes() == b"content" * 1000
    durable.sweep_temporaries(tmp_path)
    assert set(os.listdir(tmp_path)) <= {"name"}


def test_the_order_of_calls_is_that_of_the_durability_page(tmp_path: Path) -> None:
    need.tool("strace")
    log = tmp_path / "log"
    (tmp_path / "r").mkdir()
    traced = "trace=write,fsync,?link,linkat,?unlink,unlinkat"
    subprocess.run(
        ["strace", "-qq", "-y", "-o", log, "-e", traced, *child.words(WRITE, tmp_path / "r")],
        cwd=child.PROJECT,
        check=True,
    )
    ours = [line for line in log.read_text().splitlines() if str(tmp_path / "r") in line]
    assert [line.split("(")[0].removesuffix("at") for line in ours] == [
        "write",
        "fsync",
        "link",
        "unlink",
        "fsync",
    ]
