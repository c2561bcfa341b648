"""A scratch: a set like Python's, but on disk, and without a trace."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from repo.errors import RepositoryFailed
from repo.index import scratch
from repo.index.scratch import HELD_MAX, Scratch

KEYS = st.lists(st.binary(min_size=1, max_size=60), max_size=60)


@given(KEYS, KEYS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_it_holds_what_was_added_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, added: list[bytes], asked: list[bytes]
) -> None:
    monkeypatch.setattr(scratch, "HELD_MAX", 7)
    with Scratch.make(tmp_path) as found:
        for key in added:
            found.add(key)
            assert key in found
        for key in added + asked:
            assert (key in found) == (key in set(added))


def test_it_grows_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scratch, "MAP_BYTES_FIRST", 1 << 16)
    folder = tmp_path / "made"
    with Scratch.make(folder) as found:
        assert os.listdir(folder) == []
        for number in range(3 * HELD_MAX):
            found.add(b"%040d" % number)
        assert all(b"%040d" % number in found for number in range(0, 3 * HELD_MAX, 97))
        assert b"%040d" % (3 * HELD_MAX) not in found
    found.close()


def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RepositoryFailed, match="cannot make scratch space"):
        Scratch.make(tmp_path / "file")
