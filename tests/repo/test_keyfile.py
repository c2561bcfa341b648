"""Key files: both forms, slips, modes, and never replacing one."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repo import keyfile
from repo.errors import JobFailed, UsageError, WrongKey
from repo.types import Secret

KEY = bytes(range(32))
LINE = f"repo-key-1 {KEY.hex()} 630dcd29"


def written(path: Path, data: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(data)
    path.chmod(mode)
    return path


@given(st.binary(min_size=32, max_size=32))
def test_parse_gives_back_what_pack_wrote(key: bytes) -> None:
    assert keyfile.parse(keyfile.pack(Secret(key)), where="x").reveal() == key
    assert keyfile.parse(key, where="x").reveal() == key


@pytest.mark.parametrize(
    "text",
    [
        LINE,
        f"\n  {LINE}\r\n\n",
        f"# comment\n{LINE}\n# end",
        LINE.upper().replace("REPO-KEY-1", "repo-key-1"),
        LINE.replace(" ", "\n"),
    ],
)
def test_the_text_form_survives_copying(text: str) -> None:
    assert keyfile.parse(text.encode(), where="x").reveal() == KEY


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "holds no key"),
        (KEY[:31], "holds no key"),
        (KEY + b"\n", "holds no key"),
        (b"\xff" * 100, "holds no key"),
        (b"x" * 5000, "too long"),
        (LINE.replace("repo-key-1", "repo-key-2").encode(), "holds no key"),
        (LINE.replace("0001", "0101").encode(), "check digits"),
        (LINE.replace("630d", "630e").encode(), "check digits"),
        (LINE.replace("0001", "").encode(), "check digits"),
        (LINE.replace("0001", "zz01").encode(), "not hexadecimal"),
        ((LINE + "é").encode(), "check digits"),
        (f"{LINE}\n{LINE}".encode(), "holds no key"),
    ],
)
def test_anything_else_holds_no_key(data: bytes, message: str) -> None:
    with pytest.raises(WrongKey, match=message) as caught:
        keyfile.parse(data, where="the file")
    assert caught.value.exit_status == 11
    assert caught.value.where == "the file"
    assert KEY.hex()[8:40] not in str(caught.value)


def test_a_made_file_is_private_and_holds_the_key(tmp_path: Path) -> None:
    path = tmp_path / "key"
    before = os.umask(0)
    try:
        key = keyfile.create(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert keyfile.read(path).reveal() == key.reveal()
    assert key.reveal() not in path.read_bytes()
    assert keyfile.create(tmp_path / "other").reveal() != key.reveal()


def test_an_existing_file_is_never_replaced(tmp_path: Path) -> None:
    path = written(tmp_path / "key", KEY)
    (tmp_path / "link").symlink_to(tmp_path / "missing")
    for taken in (path, tmp_path / "link"):
        with pytest.raises(UsageError, match="exists already"):
            keyfile.create(taken)
    assert path.read_bytes() == KEY
    assert not (tmp_path / "missing").exists()


def test_a_file_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    with pytest.raises(JobFailed, match="No such file"):
        keyfile.create(tmp_path / "nowhere" / "key")


def test_a_half_written_file_is_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_fd: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(JobFailed, match="No space left"):
        keyfile.create(tmp_path / "key")
    assert not (tmp_path / "key").exists()


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o644, 0o666])
def test_a_file_open_to_everybody_is_refused(tmp_path: Path, mode: int) -> None:
    path = written(tmp_path / "key", KEY, mode)
    with pytest.raises(UsageError, match="everybody") as caught:
        keyfile.read(path)
    assert "chmod 600" in caught.value.next_step


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640, 0o440])
def test_a_file_open_to_its_group_at_most_is_read(tmp_path: Path, mode: int) -> None:
    assert keyfile.read(written(tmp_path / "key", KEY, mode)).reveal() == KEY


def test_a_missing_file_or_a_folder_is_a_usage_error(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(UsageError, match="cannot read the key file"):
            keyfile.read(path)


def test_a_key_comes_through_a_pipe() -> None:
    read_end, write_end = os.pipe()
    try:
        os.write(write_end, keyfile.pack(Secret(KEY)))
        os.close(write_end)
        assert keyfile.read(Path(f"/dev/fd/{read_end}")).reveal() == KEY
    finally:
        os.close(read_end)
