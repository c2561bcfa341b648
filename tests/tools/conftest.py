"""What the tests of the tools share."""

from __future__ import annotations

from pathlib import Path

import pytest

from repo.types import MIB


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two folders, four files, one of them large enough for sequential reading, and a link."""
    top = tmp_path / "source"
    (top / "folder" / "below").mkdir(parents=True)
    (top / "folder" / "one").write_bytes(b"1" * 1000)
    (top / "folder" / "below" / "two").write_bytes(b"2" * 2000)
    (top / "lost").write_bytes(b"3" * 3000)
    with (top / "large").open("wb") as file:
        file.truncate(64 * MIB)
    (top / "link").symlink_to("folder/one")
    return top
