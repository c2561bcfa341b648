from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from ingest.snapshots.directory import DirectoryProvider
from ingest.snapshots.snapshot import SnapshotProvider
from ingest.source import SourceIdentity
from repo.errors import UsageError


def test_the_identity_is_host_and_canonical_path(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to("data")
    direct = SourceIdentity.of(str(tmp_path / "data"), host="venus")
    assert direct == SourceIdentity.of(f"{tmp_path}/link/../link/", host="venus")
    assert direct.id == f"venus:{tmp_path}/data"
    assert direct.host == "venus"
    assert SourceIdentity.of("/").id == f"{os.uname().nodename}:/"


def test_the_users_id_holds_wherever_the_snapshot_lies() -> None:
    monday = SourceIdentity.of("/snap/monday", "mail", host="venus")
    tuesday = SourceIdentity.of("/snap/tuesday", "mail", host="venus")
    assert monday.id == tuesday.id == "mail"


@pytest.mark.parametrize("source_id", ["a\nb", "\0", " a", "a ", "\udcff", "x" * 1025])
def test_an_id_that_nobody_can_type_is_a_usage_error(source_id: str) -> None:
    with pytest.raises(UsageError):
        SourceIdentity.of("/", source_id)


def test_a_path_that_is_no_text_can_be_recorded(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/\xff"
    os.mkdir(folder)
    identity = SourceIdentity.of(os.fsdecode(folder))
    snapshot = DirectoryProvider().adopt(os.fsdecode(folder))
    for text in (identity.id, identity.path, snapshot.record()):
        msgspec.msgpack.encode(text)
    assert identity.path.endswith("/\\udcff")


def test_a_directory_is_adopted_and_opened(tmp_path: Path) -> None:
    provider: SnapshotProvider = DirectoryProvider()
    (tmp_path / "file").touch()
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "inside").touch()
    (tmp_path / "link").symlink_to("tree")
    snapshot = provider.adopt(str(tmp_path / "link"))
    fd = provider.open_root(snapshot)
    try:
        assert os.listdir(fd) == ["inside"]
    finally:
        os.close(fd)
    assert snapshot.path == str(tmp_path / "tree")
    assert not snapshot.frozen
    assert snapshot.record().provider == "directory"
    assert snapshot.record().consistency == "none"
    provider.release(snapshot)
    for missing in ("file", "nothing", "file/below"):
        with pytest.raises(UsageError, match="directory"):
            provider.adopt(str(tmp_path / missing))


def test_a_tree_that_was_exchanged_is_not_alive(tmp_path: Path) -> None:
    provider = DirectoryProvider()
    tree = tmp_path / "tree"
    tree.mkdir()
    snapshot = provider.adopt(str(tree))
    assert provider.alive(snapshot)
    tree.rename(tmp_path / "elsewhere")
    assert not provider.alive(snapshot)
    tree.mkdir()
    assert not provider.alive(snapshot)
