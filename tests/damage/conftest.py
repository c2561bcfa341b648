"""One small repository for all tests that put it together again, and what it holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.damage.small import Contents, Small, lost_paths, read_back


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """A repository that every test leaves as it found it."""
    return Small.make(tmp_path_factory.mktemp("damage"))


@pytest.fixture(scope="session")
def truth(small: Small) -> Contents:
    """What its points hold."""
    with small.open() as repository:
        found = read_back(repository)
    assert not lost_paths(found)
    return found


@pytest.fixture
def own(tmp_path: Path) -> Small:
    """A repository of the test's own."""
    return Small.make(tmp_path / "own")
