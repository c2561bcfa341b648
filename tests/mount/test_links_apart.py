"""Names that claim one inode number and have different content are different files: a live source
may have given a number away again, and a delta may be newer than the other names in its base.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mount import inodes
from mount.vfs import Branch, Memory
from repo.format.node import Entry, pack_extents
from repo.types import Kind
from tests.mount import treemaking
from tests.mount.mounting import ADAPTERS, mounted
from tests.mount.restoring import Store

ONE, OTHER = b"content of one", b"another's content"
CONTENTS = {"a": ONE, "b": OTHER, "c": ONE, "d": OTHER}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path)
    store.publish([_entry(store, *item) for item in CONTENTS.items()], chunks=[ONE, OTHER])
    return store


def _entry(store: Store, name: str, content: bytes) -> Entry:
    extents = pack_extents([(store.chunk_id(content), len(content))])
    size = len(content)
    return Entry(name.encode(), Kind.FILE, 0o644, 0, 0, 1, 1, 0, 9, 4, size=size, extents=extents)


def _check(top: Path) -> None:
    numbers = {name: os.stat(top / name).st_ino for name in CONTENTS}
    assert numbers["a"] == numbers["c"]
    assert numbers["b"] == numbers["d"]
    assert numbers["a"] != numbers["b"]
    assert {name: (top / name).read_bytes() for name in CONTENTS} == CONTENTS


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("listed", [True, False])
def test_a_mount_shows_each_with_its_own_content(
    store: Store, tmp_path: Path, adapter: str, listed: bool
) -> None:
    with mounted(store.command, tmp_path / "mnt", "--adapter", adapter) as mount:
        if listed:
            numbers = {entry.name: entry.inode() for entry in os.scandir(mount.path)}
            assert numbers["a"] == numbers["c"] != numbers["b"] == numbers["d"]
        _check(mount.path)


@pytest.mark.parametrize("again", [True, False])
def test_a_restore_links_those_that_are_equal(store: Store, tmp_path: Path, again: bool) -> None:
    target = tmp_path / "target"
    if again:  # they were one file there
        target.mkdir()
        (target / "a").write_bytes(ONE)
        for name in "bcd":
            os.link(target / "a", target / name)
    assert store.restore(target).problems == []
    _check(target)


def test_a_number_that_was_given_back_is_another_files() -> None:
    store = treemaking.Store()
    more = {"inode": 9, "nlink": 2}
    files = [
        treemaking.file_entry(store, b"a", ONE, **more),
        treemaking.file_entry(store, b"b", OTHER, **more),
    ]
    branch = Branch(treemaking.directory_entry(store, b"", files), 0, Memory(store))
    for name, content in ((b"a", ONE), (b"b", OTHER)):
        found = branch.lookup(inodes.ROOT, name)
        assert found is not None
        branch.hold(found)
        assert b"".join(branch.content(found.number).read(0, 100, store)) == content
        branch.forget([(found.number, 1)])


def test_a_delta_that_knows_one_name_of_a_changed_file_keeps_its_new_content(
    tmp_path: Path,
) -> None:
    store = Store(tmp_path)
    source = tmp_path / "source"
    source.mkdir()
    (source / "a").write_bytes(ONE)
    os.link(source / "a", source / "b")
    store.ingest(source)
    base = store.command.run("points", "--json").summary()["point"]
    (source / "b").write_bytes(OTHER)
    lists: list[str | Path] = [
        "--files-from",
        tmp_path / "changed",
        "--deleted-from",
        tmp_path / "deleted",
    ]
    (tmp_path / "changed").write_bytes(b"b\0")
    (tmp_path / "deleted").write_bytes(b"")
    store.command.run("ingest", source, "--delta", "--base", base, *lists)
    store.restore(tmp_path / "target")
    assert (tmp_path / "target" / "b").read_bytes() == OTHER
    assert (tmp_path / "target" / "a").read_bytes() == ONE  # nobody said that it changed
    with mounted(store.command, tmp_path / "mnt") as mount:
        assert (mount.path / "a").read_bytes() == ONE
        assert (mount.path / "b").read_bytes() == OTHER
