"""A snapshot: a frozen view of a source, made or adopted by a snapshot provider."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from ingest.snapshots.journal import Journal
from repo.format import manifest


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A view that can be read. `path`: where, now; `identity`: what the provider knows it by.

    `consistency` is what was reached: crash, fs, app, or none for a live tree. `frozen`: nothing
    in it changes while it is read. `device` and `inode` are those of its root. `taken_ns`: when
    it was frozen, at the latest, by the clock that stamps its files (0: it is not, or unknown).
    `adopted`: somebody else made it, so that its path says nothing of its source. `anchor`: what
    was left on the file system for the next run, as the base record of the point keeps it.
    `live_path`: where what it is a view of lies ("": nowhere that is known), and `live_device`,
    its st_dev: the same inodes are found there. `placeholder`: the inode number of the empty
    directories that stand for what it does not hold (0: it has none).
    """

    provider: str
    path: str
    identity: Mapping[str, str] = field(default_factory=dict)
    consistency: str = "none"
    frozen: bool = False
    device: int
    inode: int
    taken_ns: int = 0
    adopted: bool = False
    anchor: Mapping[str, str] = field(default_factory=dict)
    live_path: str = ""
    live_device: int = 0
    placeholder: int = 0

    def record(self) -> manifest.Snapshot:
        """What a backup point keeps of it."""
        return manifest.Snapshot(
            provider=self.provider, identity=dict(self.identity), consistency=self.consistency
        )


Quiet = Callable[[], AbstractContextManager[bool]]


def _as_it_is() -> AbstractContextManager[bool]:
    return nullcontext(False)


class SubSource(NamedTuple):
    """What lies inside a source and not in its snapshot: another subvolume.

    path: where it is found live. `snapshot`: it is read-only, somebody's snapshot.
    """

    path: str
    snapshot: bool


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What a provider may do for a job. `take`: make snapshots; `pin`: make a clone of those of
    others; `keep`: leave the last one in place as the base of the next run. `journal` is told of
    each before it exists. `quiet` surrounds the moment in which a snapshot of something live is
    made, and yields whether the applications were told to hold still (QuiesceFailed when
    they did not). `lineage`: what the provider said of a snapshot when it was queued; what it is a
    snapshot of may be gone now.
    """

    take: bool
    pin: bool
    keep: bool
    journal: Journal
    quiet: Quiet = _as_it_is
    lineage: Mapping[str, str] = field(default_factory=dict)


class Refusal(NamedTuple):
    """A provider knows this kind of source and yet can make or pin nothing, and why."""

    reason: str


class Held(Protocol):
    """A snapshot that a job holds, with its root open."""

    snapshot: Snapshot
    root_fd: int
    """A descriptor of its root directory; all reading goes by it."""
    children: Sequence[SubSource]
    notices: Sequence[str]
    """What the user is to be told."""

    def alive(self) -> bool:
        """Whether the view is still there and what it was: asked after the last read, before the
        point is made.
        """

    def keep(self, tag: str, point_id: bytes) -> None:
        """A point of it is published: leave what the next run can build on, in place of what
        was left before. `tag` stands for the source in its names. Never raises.
        """

    def release(self) -> None:
        """Give up what was made for this job, unless it was kept, and close the root. Never
        raises for what is gone already.
        """


class SnapshotProvider(Protocol):
    """Whoever makes the views that a job reads."""

    name: str

    def hold(self, path: str, terms: Terms) -> Held | Refusal | None:
        """A view of what lies at `path`; None when that is nothing of this provider's kind.

        Raises UsageError when there is nothing to read, JobFailed when it cannot be looked at.
        """
