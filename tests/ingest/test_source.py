from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from ingest.snapshots.directory import DirectoryProvider
from ingest.snapshots.journal import Journal
from ingest.snapshots.snapshot import Refusal, SnapshotProvider, Terms
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


@pytest.fixture
def terms(tmp_path: Path) -> Terms:
    return Terms(take=True, pin=True, keep=True, journal=Journal(tmp_path / "repository"))


def test_a_path_that_is_no_text_can_be_recorded(tmp_path: Path, terms: Terms) -> None:
    folder = os.fsencode(tmp_path) + b"/\xff"
    os.mkdir(folder)
    identity = SourceIdentity.of(os.fsdecode(folder))
    held = DirectoryProvider().hold(os.fsdecode(folder), terms)
    for text in (identity.id, identity.path, held.snapshot.record()):
        msgspec.msgpack.encode(text)
    assert identity.path.endswith("/\\udcff")
    held.release()


def test_a_directory_is_held_open(tmp_path: Path, terms: Terms) -> None:
    provider: SnapshotProvider = DirectoryProvider()
    (tmp_path / "file").touch()
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "inside").touch()
    (tmp_path / "link").symlink_to("tree")
    held = provider.hold(str(tmp_path / "link"), terms)
    assert held is not None
    assert not isinstance(held, Refusal)
    assert os.listdir(held.root_fd) == ["inside"]
    snapshot = held.snapshot
    assert snapshot.path == str(tmp_path / "tree")
    assert not snapshot.frozen
    assert snapshot.record().provider == "directory"
    assert snapshot.record().consistency == "none"
    held.release()
    held.release()
    for missing in ("file", "nothing", "file/below"):
        with pytest.raises(UsageError, match="directory"):
            provider.hold(str(tmp_path / missing), terms)


def test_a_tree_that_was_exchanged_is_not_alive(tmp_path: Path, terms: Terms) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    held = DirectoryProvider().hold(str(tree), terms)
    assert held.alive()
    tree.rename(tmp_path / "elsewhere")
    assert not held.alive()
    tree.mkdir()
    assert not held.alive()
    held.release()
