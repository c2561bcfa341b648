"""The walk: the change source that knows nothing: everything is looked at, little is read."""

from __future__ import annotations

from ingest.changes.changesource import Changes, Range, Verdict
from ingest.snapshots.snapshot import Snapshot
from repo.format.manifest import Point


class WalkPlan:
    """Compare every entry with the base."""

    kind = "walk"
    verdict = Verdict.HINT

    def changes_in(self, inode: int) -> Changes | None:
        """Never asked: a walk is no exact plan."""
        raise AssertionError(f"the walk was asked about inode {inode}")

    def ranges(self, base_inode: int, inode: int, size: int) -> list[Range] | None:
        """Nothing is known of the inside of a file."""
        return None

    def close(self) -> None:
        """Nothing is held."""


class Walk:
    """Makes walks of anything."""

    kind = "walk"

    def plan(self, base: Point, snapshot: Snapshot, root_fd: int) -> WalkPlan:
        """A walk needs no more than a base."""
        return WalkPlan()
