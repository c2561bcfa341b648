"""A probe: it dies in the place of whoever would have read a damaged index."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from repo.errors import RepositoryFailed
from repo.format.place import Place
from repo.index.environment import DATA_FILE, Environment
from repo.index.failure import IndexUnusable
from repo.index.places import Places
from repo.index.probe import probe, read_rows
from repo.types import SegmentClass, SegmentId


def make(path: Path) -> None:
    with Environment.open(path, bytes(16), create=True) as environment:
        places = Places(environment)
        number = environment.write(
            lambda txn: places.add_segment(txn, SegmentId(bytes(16)), SegmentClass.DATA)
        )
        rows = [(bytes(12) + n.to_bytes(4), Place(number, n, 0, 1).pack()) for n in range(2000)]
        environment.write(lambda txn: places.add_places(txn, rows))


def test_a_good_index_is_read_to_its_end(tmp_path: Path) -> None:
    make(tmp_path)
    probe(tmp_path)
    read_rows(str(tmp_path))


def test_what_lmdb_notices_itself_is_left_to_the_reader(tmp_path: Path) -> None:
    (tmp_path / DATA_FILE).write_bytes(b"no LMDB file" * 1000)
    probe(tmp_path)
    probe(tmp_path / "missing")


@pytest.mark.parametrize("name", ["BUS", "SEGV", "ABRT"])
def test_an_index_that_kills_its_reader_is_unusable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    # Which bit of which page does it depends on LMDB: here an interpreter dies as by such a one.
    reader = tmp_path / "python"
    reader.write_text(f"#!/bin/sh\nulimit -c 0\nkill -{name} $$\n", encoding="ascii")
    reader.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(reader))
    with pytest.raises(IndexUnusable, match=f"SIG{name}"):
        probe(tmp_path)


def test_an_interpreter_that_does_not_start_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    with pytest.raises(RepositoryFailed, match="cannot be started"):
        probe(tmp_path)
