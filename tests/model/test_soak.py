"""The soak: everything at once, with somebody killed all the time; no chunk is ever lost."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.crash import scenes
from tests.model.soak import Soak
from tests.support import need

SECONDS: Final = [
    20,
    pytest.param(120, marks=pytest.mark.deep),
    pytest.param(3600, marks=pytest.mark.deep),
]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """How long: as `--soak SECONDS` says, else short, and with --deep long and very long, too."""
    asked = metafunc.config.getoption("--soak")
    metafunc.parametrize("seconds", [asked] if asked else SECONDS)


def test_everything_at_once_loses_nothing(tmp_path: Path, seconds: int) -> None:
    need.fuse()
    seed = random.SystemRandom().randrange(1 << 32) if seconds > 60 else 7
    here, there = (scenes.small_repository(tmp_path / f"{n}", n) for n in (1, 2))
    soak = Soak(here, there, tmp_path, seed)
    soak.run(seconds)
    sys.stdout.write(f"seed {seed}; {soak.ended=}; {soak.killed=}; {soak.read=}\n")
    assert soak.killed["mount"]
    assert soak.killed.total() - soak.killed["mount"]
    assert soak.ended["copy", 0]
    assert soak.read["files"]
    soak.check()
