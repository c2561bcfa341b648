"""An examination of one broken file: found, named, and nothing of it served."""

from __future__ import annotations

from pathlib import Path

from repo.types import SegmentId
from repo.upkeep.damage import Damage
from repo.upkeep.keyless import verify_keyless
from repo.upkeep.verify import verify
from tests.damage.small import Contents, Small, lost_paths, read_back, wrongly_served


def examine(small: Small, truth: Contents, path: Path) -> list[Damage]:
    """What verify says of a repository in which the file at `path` alone is broken.

    Asserts what holds for every such file: with and without the key damage is found, in this
    file and in no other; what cannot be read is named, each file of each point, and nothing
    else is; what can be read is as it was written.
    """
    where = str(path.relative_to(small.path))
    blind = verify_keyless(small.path, streams=1)
    assert {damage.where for damage in blind.damages} == {where}
    assert blind.exit_status == 4
    with small.open() as repository:
        _ = repository.environment
        report = verify(repository, level="data", streams=1)
        found = read_back(repository)
    assert {damage.where for damage in report.damages} == {where}
    assert report.exit_status == 4
    assert all(damage.what and damage.next_step for damage in report.damages)
    assert wrongly_served(found, truth) == []
    lost = lost_paths(found)
    damages = list(report.damages)
    assert {name for damage in damages for name in damage.paths} == {name for _, name in lost}
    assert {point for damage in damages for point in damage.points} == {point for point, _ in lost}
    return damages


def of_segment(damages: list[Damage], segment_id: SegmentId) -> bool:
    """Whether all damages name that segment."""
    return {damage.segment for damage in damages} == {segment_id.hex()}
