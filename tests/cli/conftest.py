"""What the tests of the command line share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.run import Runner


@pytest.fixture
def repo(tmp_path: Path) -> Runner:
    """A runner whose home is a fresh folder."""
    return Runner(tmp_path)
