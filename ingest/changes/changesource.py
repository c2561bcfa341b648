"""A change source: says what changed in a source since the point that is its base.

An ingest goes down the tree of its base and the new view of the source side by side. What it
need not look at is decided by a plan. There are two kinds of word that a plan can give:

EXACT  The file system itself says what changed, and rules prove that nothing is missed. A
       directory of which the plan knows nothing is taken over from the base with all that is
       below it, without being looked at.
HINT   Every entry's attributes are compared with the base's: a file counts as unchanged when
       inode, size, mtime and ctime are the same. Directories are listed, but for those of which
       a survey finds that no name can have come or gone.

Without a base there is no plan: everything is read (FULL).
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple, Protocol

from ingest.snapshots.snapshot import Snapshot
from repo.format.manifest import Point


class Verdict(StrEnum):
    """How far it is known what changed; the weakest first."""

    FULL = "FULL"
    HINT = "HINT"
    EXACT = "EXACT"


class Changes(NamedTuple):
    """What changed in one directory, or somewhere below it.

    names: its entries that changed (their inode, in whatever way), and its sub-directories in
    which something changed at any depth. listed: the directory itself changed: its attributes
    or its list of names; it is listed again, and of its entries those that the base has under
    the same name with the same inode, and that are not among `names`, are taken over.
    """

    names: frozenset[bytes]
    listed: bool


class Range(NamedTuple):
    """The bytes [start, stop) of a file."""

    start: int
    stop: int


class Plan(Protocol):
    """What a change source knows of one source of a job: held until the job has read it."""

    kind: str
    """Of the change source: `walk`, `btrfs`, ..."""

    verdict: Verdict

    def changes_in(self, inode: int) -> Changes | None:
        """What changed in, or below, the directory of that inode; None: nothing at all.

        Asked only when the verdict is EXACT, and only for directories on the file system of the
        source's root; the answer is about the new view. Must cost no more than a look-up.
        """

    def ranges(self, base_inode: int, inode: int, size: int) -> list[Range] | None:
        """The parts of a changed file that may differ from the base's file, sorted, not touching.

        [] when its content is the same; None when nothing is known: it is read as a whole. Must
        be right under HINT as under EXACT. May take some milliseconds.
        """

    def close(self) -> None:
        """Give up what is held."""


class Declined(NamedTuple):
    """A change source has nothing to say of this base and this snapshot, and why."""

    reason: str


class ChangeSource(Protocol):
    """Makes plans."""

    kind: str

    def plan(self, base: Point, snapshot: Snapshot, root_fd: int) -> Plan | Declined | None:
        """What changed from `base` (its `snapshot` and `base_record` tell which state it is) to
        `snapshot`, whose root is open as `root_fd`.

        None when the snapshot is none of its kind, Declined when it is and yet no plan can be
        trusted: the reason is told to the user. Never raises for what the file system answers:
        any doubt is a reason to decline.
        """
