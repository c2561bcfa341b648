"""Mountpoints as the kernel lists them, whatever their names; and what may be mounted on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mount import mountpoint
from repo.errors import UsageError


def test_names_in_the_list_are_read_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (
        rb"36 35 98:0 / /mnt/a\040b\134c\011d\012e rw,noatime master:1 - ext4 /dev/x rw" + b"\n"
        rb"37 35 0:51 / /mnt/plain ro,nosuid - fuse.repo /srv/re\040po ro,fd=3,user_id=1000" + b"\n"
        rb"38 35 0:52 / /mnt/plain ro shared:1 propagate_from:2 - tmpfs none rw" + b"\n"
    )
    monkeypatch.setattr(Path, "read_bytes", lambda _path: lines)
    first, second, third = mountpoint.mounts()
    assert first == ("/mnt/a b\\c\td\ne", "98:0", "ext4", "/dev/x", 0)
    assert second == ("/mnt/plain", "0:51", "fuse.repo", "/srv/re po", 1000)
    assert mountpoint.mount_at("/mnt/./x/../plain") == third
    assert mountpoint.mount_at("/mnt") is None


def test_links_in_the_way_are_followed_but_not_the_last(tmp_path: Path) -> None:
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to("folder")
    real = os.path.realpath(tmp_path)
    assert mountpoint.plain(tmp_path / "link" / "deep") == f"{real}/folder/deep"
    assert mountpoint.plain(tmp_path / "link") == f"{real}/link"


@pytest.mark.parametrize(("name", "said"), [("missing", "make the folder"), ("file", "a folder")])
def test_what_is_no_folder_cannot_be_mounted_on(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError) as caught:
        mountpoint.check(tmp_path / name)
    assert said in str(caught.value)


def test_a_folder_can(tmp_path: Path) -> None:
    assert mountpoint.check(tmp_path) == os.path.realpath(tmp_path)


def test_only_mounts_of_ours_are_taken_away(tmp_path: Path) -> None:
    for path in (tmp_path, "/proc"):
        with pytest.raises(UsageError, match="no backup is mounted"):
            mountpoint.unmount(path)


def test_whoever_uses_a_folder_is_found(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        assert mountpoint._uses("/proc/self", str(tmp_path), "255:255")
        assert not mountpoint._uses("/proc/self", str(tmp_path / "below"), "255:255")
    finally:
        os.close(fd)
