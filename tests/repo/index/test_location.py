"""Where the index lies: beside the repository only where maps and locks can be trusted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from repo.errors import RepositoryFailed
from repo.index.location import index_folder, is_local
from repo.types import RepositoryId
from tests.support import loopfs

ID = RepositoryId(bytes(range(16)))


@pytest.mark.parametrize(("kind", "size"), [("ext4", 4), ("tmpfs", 1), ("xfs", 320)])
def test_beside_the_repository_on_a_local_file_system(tmp_path: Path, kind: str, size: int) -> None:
    with loopfs.mounted(kind, tmp_path, size_bytes=size << 20) as disk:
        assert index_folder(disk.path, ID) == disk.path / "index"


def test_elsewhere_when_the_file_system_is_not_known_as_local(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not is_local("/proc")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert index_folder("/proc", ID) == Path("/var/cache/repo") / ID.hex()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert index_folder("/proc", ID) == Path("/cache/repo") / ID.hex()
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/user")
    assert index_folder("/proc", ID) == Path("/home/user/.cache/repo") / ID.hex()


def test_where_the_user_says(tmp_path: Path) -> None:
    assert index_folder("/proc", ID, tmp_path) == tmp_path / ID.hex()


def test_a_repository_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RepositoryFailed, match="No such file"):
        index_folder(tmp_path / "missing", ID)
