"""A snapshot: a frozen view of a source, made or adopted by a snapshot provider."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from repo.format import manifest


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A view that can be read. `path`: where, now; `identity`: what the provider knows it by.

    `consistency` is what was reached: crash, fs, app, or none for a live tree. `frozen`: nothing
    in it changes while it is read. `device` and `inode` are those of its root. `taken_ns`: when
    it was frozen, at the latest, by the clock that stamps its files (0: it is not, or unknown).
    """

    provider: str
    path: str
    identity: Mapping[str, str] = field(default_factory=dict)
    consistency: str = "none"
    frozen: bool = False
    device: int
    inode: int
    taken_ns: int = 0

    def record(self) -> manifest.Snapshot:
        """What a backup point keeps of it."""
        return manifest.Snapshot(
            provider=self.provider, identity=dict(self.identity), consistency=self.consistency
        )


class SnapshotProvider(Protocol):
    """What a job needs of whoever makes the views that it reads."""

    name: str

    def adopt(self, path: str) -> Snapshot:
        """Take what lies at `path` for the view to read: somebody else made it."""

    def open_root(self, snapshot: Snapshot) -> int:
        """A descriptor of the root directory, which the caller closes; all reading goes by it."""

    def alive(self, snapshot: Snapshot) -> bool:
        """Whether the view is still there: asked after the last read, before the point is made."""

    def release(self, snapshot: Snapshot) -> None:
        """Give up what was held or made for this job. Never raises for what is gone already."""
