"""Fixtures: a btrfs with a subvolume in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from repo.types import MIB
from tests.ingest.btrfs.volume import Volume
from tests.support import loopfs
from tests.support.template import made, template

__all__ = ["made", "template"]


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Volume]:
    """A file system of the test's own, with the subvolume `vol`."""
    with loopfs.mounted("btrfs", tmp_path, size_bytes=1024 * MIB) as filesystem:
        yield Volume(filesystem)
