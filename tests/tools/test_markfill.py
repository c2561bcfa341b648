"""The fill for garbage collection at scale: what it makes is what a collection is to look at."""

from __future__ import annotations

from pathlib import Path

from repo.keys import KeyFile
from repo.repository import Repository
from repo.upkeep.sweep import collect
from tools.bench.markfill import DEAD_SHARE, fill


def test_the_dead_share_of_a_filled_repository_is_found(tmp_path: Path) -> None:
    alive = fill(tmp_path, 10_000)
    with Repository.open(tmp_path / "repository", KeyFile(tmp_path / "key")) as repository:
        report = collect(repository, dry_run=True)
    assert report.chunks_alive > alive  # nodes as well
    assert report.chunks_dead >= 10_000 - alive
    assert abs(report.chunks_dead / 10_000 - DEAD_SHARE) < 0.01
    assert report.chunks_lost == 0
