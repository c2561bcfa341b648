"""A mount beside garbage collection: what it shows stays readable, also when it was forgotten."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.mount.mounting import ADAPTERS, mounted
from tests.repo.upkeep import collecting
from tests.support import command
from tests.support.template import copy, template

__all__ = ["template"]


def _content(top: Path) -> dict[str, bytes]:
    return {
        os.path.relpath(os.path.join(folder, name), top): Path(folder, name).read_bytes()
        for folder, _, names in os.walk(top)
        for name in names
    }


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_mount_reads_what_is_forgotten_and_collected(
    template: command.Repository, tmp_path: Path, adapter: str
) -> None:
    made = copy(template, tmp_path / "made")
    source = tmp_path / "source"
    collecting.plant(source, 1)
    made.run("ingest", source)
    before = _content(source)
    with mounted(made, tmp_path / "mnt", "--adapter", adapter) as mount:
        some = "folder 1/file 9"
        assert (mount.path / some).read_bytes() == before[some]  # its places are known by now
        collecting.plant(source, 2)
        made.run("ingest", source)
        made.run("forget", "--keep-last", "1", "--yes")
        summary = made.run("gc", "--json").summary()
        assert summary["chunks_dead"] > 0
        assert summary["bytes_removed"] == 0
        assert "mount" in summary["holders"][0]
        assert _content(mount.path) == before
    summary = made.run("gc", "--json").summary()
    assert summary["bytes_freed"] > 0
    assert summary["holders"] == []
    made.run("verify", "--data")
