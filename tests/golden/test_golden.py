"""Repositories made by earlier versions stay readable, byte for byte."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from repo.keys import KeyFile
from repo.repository import Repository
from tests.golden.contents import contents

_HERE = Path(__file__).parent
_VERSIONS = sorted(path.parent for path in _HERE.glob("*/contents.json"))


@pytest.mark.parametrize("version", _VERSIONS, ids=lambda path: path.name)
def test_a_golden_repository_reads_as_when_it_was_made(version: Path, tmp_path: Path) -> None:
    key = tmp_path / "key"
    shutil.copy(version / "key", key)
    key.chmod(0o600)  # git keeps no modes but the x bit
    shutil.copytree(version / "repository", tmp_path / "repository")
    expected = json.loads((version / "contents.json").read_text())
    with Repository.open(tmp_path / "repository", KeyFile(key)) as repository:
        (point,) = repository.points()
        assert (point.source_id, point.tags) == ("golden:/source", ("golden",))
        found = json.loads(json.dumps(contents(repository, point)))
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []


def test_there_is_one_for_each_version() -> None:
    assert [version.name for version in _VERSIONS] == ["v1"]
