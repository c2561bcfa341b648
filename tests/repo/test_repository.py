"""A repository's door: how a user names a point, and what opening mends."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ingest.session import IngestRequest, ingest
from repo import keyfile
from repo.errors import UsageError, WrongKey
from repo.format.manifest import Point
from repo.keys import KeyFile
from repo.repository import Repository
from repo.storage import durable
from repo.storage.folder import Folder


@pytest.fixture
def key(tmp_path: Path) -> KeyFile:
    path = tmp_path / "key"
    keyfile.create(path)
    return KeyFile(path)


@pytest.fixture
def repository(tmp_path: Path, key: KeyFile) -> Repository:
    return Repository.create(tmp_path / "repository", key)


def _add(repository: Repository, source: Path, source_id: str = "") -> Point:
    source.mkdir(exist_ok=True)
    (source / "file").write_text(source_id)
    request = IngestRequest(paths=[str(source)], source_ids=[source_id])
    return ingest(repository, request).points[0]


def test_a_point_is_found_by_each_of_its_names(repository: Repository, tmp_path: Path) -> None:
    first = _add(repository, tmp_path / "a", "host:/a")
    other = _add(repository, tmp_path / "b", "host:/b")
    received = datetime.fromtimestamp(first.received_ns / 1e9, tz=UTC).astimezone()
    for spec in (
        first.id.hex(),
        "latest:host:/a",
        f"latest:{tmp_path / 'a'}",
        f"host:/a@{received:%Y-%m-%d}",
        f"host:/a@{received:%Y-%m-%dT%H}",
        f"host:/a@{received:%Y-%m-%dT%H:%M}",
        f"host:/a@{received:%Y-%m-%dT%H:%M:%S}",
    ):
        assert repository.point(spec).id == first.id, spec
    assert repository.point("latest").id == other.id


@pytest.mark.parametrize(
    "spec", ["", "nothing", "latest:nobody", "host:/a@2001-01-01", "host:/a@noon", "ffffffffffff"]
)
def test_a_name_that_no_point_has_is_refused(
    repository: Repository, tmp_path: Path, spec: str
) -> None:
    _add(repository, tmp_path / "a", "host:/a")
    with pytest.raises(UsageError):
        repository.point(spec)


def test_an_ambiguous_prefix_is_refused(repository: Repository, tmp_path: Path) -> None:
    points = [_add(repository, tmp_path / "a") for _ in range(17)]
    first_digits = [point.id.hex()[0] for point in points]
    double = next(digit for digit in first_digits if first_digits.count(digit) > 1)
    with pytest.raises(UsageError, match="points begin with this"):
        repository.point(double)


def test_the_last_key_slot_stays(repository: Repository, tmp_path: Path, key: KeyFile) -> None:
    (only,) = repository.slots()
    with pytest.raises(UsageError, match="last key slot"):
        repository.remove_slot(only.slot_id.hex())
    second = KeyFile(tmp_path / "second")
    keyfile.create(second.path)
    repository.add_slot(second, label="second")
    repository.remove_slot(only.slot_id.hex())
    repository.close()
    with pytest.raises(WrongKey):
        Repository.open(repository.path, key)
    with Repository.open(repository.path, second) as again:
        assert [slot.label for slot in again.slots()] == ["second"]


def test_the_last_intact_key_slot_stays(repository: Repository, tmp_path: Path) -> None:
    (only,) = repository.slots()
    second = KeyFile(tmp_path / "second")
    keyfile.create(second.path)
    name = repository.add_slot(second).slot_id.hex()
    (repository.path / "keys" / name).write_bytes(b"rotten")
    with pytest.raises(UsageError, match="last key slot"):
        repository.remove_slot(only.slot_id.hex())
    repository.remove_slot(name)


def test_of_two_that_remove_the_other_slot_one_is_refused(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = KeyFile(tmp_path / "second")
    keyfile.create(second.path)
    repository.add_slot(second)
    names = [slot.slot_id.hex() for slot in repository.slots()]
    listed = Folder.keys
    first_has_listed, other_is_done = threading.Event(), threading.Event()
    refused: list[UsageError] = []

    def list_and_wait(folder: Folder) -> list[str]:
        found = listed(folder)
        if not first_has_listed.is_set():
            first_has_listed.set()
            other_is_done.wait(1)
        return found

    monkeypatch.setattr(Folder, "keys", list_and_wait)
    first = threading.Thread(target=repository.remove_slot, args=(names[0],))
    first.start()
    first_has_listed.wait()
    try:
        repository.remove_slot(names[1])
    except UsageError as error:
        refused.append(error)
    other_is_done.set()
    first.join()
    assert len(repository.slots()) == 1
    assert "last key slot" in refused[0].what


def test_a_deleted_index_is_built_anew(
    repository: Repository, tmp_path: Path, key: KeyFile
) -> None:
    point = _add(repository, tmp_path / "a", "content")
    repository.close()
    for file in repository.index_path.iterdir():
        file.unlink()
    notices: list[str] = []
    with Repository.open(repository.path, key, on_notice=notices.append) as again:
        entry = again.tree.resolve(point.root, b"file")
        (extent,) = again.tree.extents(entry)
        assert bytes(again.reader.chunk(extent.id)) == b"content"
    assert any("building it anew" in notice for notice in notices)


def test_of_two_that_make_a_repository_in_one_folder_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, other_begun = threading.Event(), threading.Event()
    write_header, make_directory = Folder.write_header, durable.make_directory

    def after_the_other_came(folder: Folder, data: bytes) -> None:
        begun.set()
        assert other_begun.wait(timeout=30)
        time.sleep(0.2)  # so that it could take the slot away, were it let
        write_header(folder, data)

    def noticed(path: str | Path) -> None:
        if begun.is_set():
            other_begun.set()
        make_directory(path)

    monkeypatch.setattr(Folder, "write_header", after_the_other_came)
    monkeypatch.setattr("repo.storage.folder.make_directory", noticed)
    keys = [tmp_path / "key", tmp_path / "other"]
    for path in keys:
        keyfile.create(path)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(Repository.create, tmp_path / "repository", KeyFile(keys[0]))
        assert begun.wait(timeout=30)
        with pytest.raises(UsageError, match="already"):
            Repository.create(tmp_path / "repository", KeyFile(keys[1]))
        made = first.result(timeout=30)
    assert Repository.open(made.path, KeyFile(keys[0])).header == made.header
