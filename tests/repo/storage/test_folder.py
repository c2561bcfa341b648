"""The folder: made once, opened when it is a repository, listing what is there."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from repo.errors import Damaged, NotARepository, RepositoryFailed, UsageError
from repo.format import layout
from repo.format.magic import KEY_SLOT_MAGIC
from repo.storage.folder import Folder
from repo.types import PointId, SegmentId
from tests.repo import child


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder.create(tmp_path / "repository")
    folder.write_header(b"header")
    return folder


def segment(folder: Folder, segment_id: bytes, *, is_open: bool = False) -> Path:
    path = folder.segment_path(SegmentId(segment_id), is_open)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"segment")
    return path


def test_create_makes_private_directories(folder: Folder) -> None:
    assert set(os.listdir(folder.path)) == {layout.HEADER, *layout.DIRECTORIES}
    for path in (folder.path, *(folder.path / name for name in layout.DIRECTORIES)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_open_needs_a_header(tmp_path: Path, folder: Folder) -> None:
    assert Folder.open(folder.path).read_header() == b"header"
    Folder.create(tmp_path / "unfinished")
    (tmp_path / "file").write_bytes(b"")
    for name in ("missing", "unfinished", "file"):
        with pytest.raises(NotARepository) as caught:
            Folder.open(tmp_path / name)
        assert caught.value.exit_status == 10
        assert "repo init" in caught.value.next_step


def test_create_refuses_a_repository_and_foreign_files(tmp_path: Path, folder: Folder) -> None:
    with pytest.raises(UsageError, match="already"):
        Folder.create(folder.path)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter").write_bytes(b"dear")
    with pytest.raises(UsageError, match="not empty"):
        Folder.create(tmp_path / "home")
    assert os.listdir(tmp_path / "home") == ["letter"]


def test_create_never_takes_over_content_whose_header_is_lost(folder: Folder) -> None:
    segment(folder, b"a" * 16)
    (folder.path / layout.HEADER).unlink()
    folder.write_key("password", b"wrapped")
    with pytest.raises(UsageError, match="not empty"):
        Folder.create(folder.path)
    assert folder.keys() == ["password"]


@pytest.mark.parametrize(
    "name",
    ["keys/server.pem", "keys/folder/key", "points/README", "segments/00/x", "leases/x", "index/x"],
)
def test_create_touches_nothing_of_others_below_names_that_are_ours(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / "app" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"private")
    with pytest.raises(UsageError, match="not empty"):
        Folder.create(tmp_path / "app")
    assert path.read_bytes() == b"private"


def test_create_goes_on_where_a_killed_one_stopped(tmp_path: Path) -> None:
    unfinished = Folder.create(tmp_path / "repository")
    unfinished.write_key("password", KEY_SLOT_MAGIC + b"wraps a root key that nobody has")
    (unfinished.path / layout.KEYS / ".new-01").write_bytes(b"half a slot")
    (unfinished.path / ".new-00").write_bytes(b"half a header")
    again = Folder.create(tmp_path / "repository")
    assert again.keys() == []
    again.write_header(b"header")
    assert Folder.open(again.path).read_header() == b"header"


def test_header_is_written_once(folder: Folder) -> None:
    with pytest.raises(RepositoryFailed, match="exists"):
        folder.write_header(b"another")
    assert folder.read_header() == b"header"


def test_keys(folder: Folder) -> None:
    folder.write_key("two", b"2")
    folder.write_key("one", b"1")
    assert folder.keys() == ["one", "two"]
    assert folder.read_key("two") == b"2"
    with pytest.raises(RepositoryFailed, match="exists"):
        folder.write_key("one", b"other")
    folder.remove_key("one")
    assert folder.keys() == ["two"]
    for act in (folder.remove_key, folder.read_key):
        with pytest.raises(UsageError, match="no such key slot"):
            act("one")
    for name in ("../header", ".hidden", ""):
        with pytest.raises(UsageError, match="cannot have this name"):
            folder.write_key(name, b"")


def test_points(folder: Folder) -> None:
    first, second = PointId(b"\1" * 16), PointId(b"\2" * 16)
    folder.write_point(second, b"manifest 2")
    folder.write_point(first, b"manifest 1")
    (folder.path / layout.POINTS / "README").write_bytes(b"not a point")
    assert list(folder.points()) == [first, second]
    assert folder.read_point(second) == b"manifest 2"
    with pytest.raises(RepositoryFailed, match="exists"):
        folder.write_point(second, b"replaced")
    assert folder.read_point(second) == b"manifest 2"
    folder.remove_point(second)
    folder.remove_point(second)
    with pytest.raises(Damaged, match="point is missing"):
        folder.read_point(second)


def test_segments_lists_ids_and_states(folder: Folder) -> None:
    assert list(folder.segments()) == []
    sealed, growing = b"\1" * 16, b"\2" * 16
    segment(folder, sealed)
    path = segment(folder, growing, is_open=True)
    (path.parent / ".new-00").write_bytes(b"")
    (path.parent / "notes").write_bytes(b"")
    (folder.path / layout.SEGMENTS / "lost+found").mkdir()
    assert list(folder.segments()) == [(sealed, False), (growing, True)]
    path.rename(folder.segment_path(SegmentId(growing)))
    assert list(folder.segments()) == [(sealed, False), (growing, False)]
    for _ in range(2):
        folder.set_segments_aside([SegmentId(sealed)])
        folder.remove_segments_aside([SegmentId(sealed)])
    assert list(folder.segments()) == [(growing, False)]


def test_segments_misses_none_that_is_closed_meanwhile(folder: Folder) -> None:
    ids = [b"\0" + number.to_bytes(15, "big") for number in range(300)]
    for segment_id in ids:
        segment(folder, segment_id, is_open=True)

    def close_all() -> None:
        for segment_id in ids:
            name = SegmentId(segment_id)
            folder.segment_path(name, open=True).rename(folder.segment_path(name))

    closing = threading.Thread(target=close_all)
    closing.start()
    while closing.is_alive():
        assert [segment_id for segment_id, _ in folder.segments()] == ids
    closing.join()
    assert list(folder.segments()) == [(segment_id, False) for segment_id in ids]


def test_sweep_removes_leftovers_everywhere(folder: Folder) -> None:
    shard = segment(folder, b"a" * 16).parent
    for place in (folder.path, folder.path / layout.POINTS, shard):
        (place / ".new-00").write_bytes(b"")
    assert folder.sweep() == 3
    assert folder.sweep() == 0


CREATE = """
import sys
from repo.format.magic import KEY_SLOT_MAGIC
from repo.storage.folder import Folder
folder = Folder.create(sys.argv[1])
folder.write_key("password", KEY_SLOT_MAGIC + b"wrapped")
folder.write_header(b"header")
"""


@pytest.mark.parametrize("when", range(1, 9))
def test_init_killed_at_each_sync_is_repeated(tmp_path: Path, when: int) -> None:
    path = tmp_path / "repository"
    inject = f"inject=fsync:signal=KILL:when={when}"
    before = ("strace", "-qq", "-o", os.devnull, "-e", "trace=fsync", "-e", inject)
    status, _, errors = child.run(CREATE, path, before=before)
    assert status != 0, errors
    with pytest.raises(NotARepository):
        Folder.open(path)
    status, _, errors = child.run(CREATE, path)
    assert (status, errors) == (0, "")
    assert Folder.open(path).keys() == ["password"]
