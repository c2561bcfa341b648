"""The btrfs change source: the file system's own generation numbers say what changed, exactly.

Every inode item carries the transaction of its last change. Of two snapshots of one subvolume,
what the newer one's tree holds with a transaction above the older one's is what changed between
them, in whatever way; leaves that were not written since are never looked at, so the cost follows
the change. That is so only as long as both belong to one history. What proves it is checked here;
any doubt declines the base.
"""

from __future__ import annotations

from collections.abc import Mapping

from ingest.btrfs import lookup
from ingest.btrfs.generation import changes_since
from ingest.btrfs.ioctl import BtrfsError, Subvolume, file_system_uuid, subvolume
from ingest.changes.changesource import Changes, Declined, Range, Verdict
from ingest.extents import differing
from ingest.snapshots.snapshot import Snapshot
from repo.format.manifest import Point


class BtrfsPlan:
    """What changed between two states of a subvolume; `held` is the older one, if it is there."""

    kind = "btrfs"
    verdict = Verdict.EXACT

    def __init__(
        self, fd: int, tree: int, changes: Mapping[int, Changes], held: Subvolume | None
    ) -> None:
        self._fd = fd
        self._tree = tree
        self._changes = changes
        self._held = held

    def changes_in(self, inode: int) -> Changes | None:
        """As the protocol says."""
        return self._changes.get(inode)

    def ranges(self, base_inode: int, inode: int, size: int) -> list[Range] | None:
        """By comparing what both snapshots say the file is made of."""
        held = self._held
        if held is None:
            return None
        try:
            before = lookup.extents_of(self._fd, held.tree, base_inode)
            size_before = lookup.size_of(self._fd, held.tree, base_inode)
            now = lookup.extents_of(self._fd, self._tree, inode)
            if size_before is None or size != lookup.size_of(self._fd, self._tree, inode):
                return None
            # Balance moves extents. Where the older file still is what it was, its places meant
            # the same all the while, and the older snapshot was there to hold on to them.
            if before != lookup.extents_of(self._fd, held.tree, base_inode):
                return None
            if not _as_held(lookup.by_tree(self._fd, held.tree), held):
                return None
        except (OSError, BtrfsError):
            return None
        return differing(before, now, size_before, size)

    def close(self) -> None:
        """The descriptor is the session's."""


class BtrfsChanges:
    """Makes exact plans for two snapshots of one subvolume."""

    kind = "btrfs"

    def plan(self, base: Point, snapshot: Snapshot, root_fd: int) -> BtrfsPlan | Declined | None:
        """As the protocol says; the descriptor must stay open as long as the plan is used."""
        if snapshot.provider != self.kind:
            return None
        try:
            return _plan(base, snapshot, root_fd)
        except OSError as error:
            return Declined(f"the file system did not answer: {error.strerror}")
        except BtrfsError as error:
            return Declined(f"the file system's answer is not understood: {error}")


def _plan(base: Point, snapshot: Snapshot, fd: int) -> BtrfsPlan | Declined:
    before = base.snapshot.identity
    if reason := _strangers(base, snapshot):
        return Declined(reason)
    present = subvolume(fd)
    if not present.untouched:
        return Declined("the snapshot is writable, or was")
    if file_system_uuid(fd).hex() != before["fs"]:
        return Declined("the base lies on another file system")
    since = int(before["transid"])
    if not anchor_stands(fd, base.base_record.anchor, since):
        return Declined(
            "the mark left on the file system after the base is gone: "
            "it may be an older image of itself"
        )
    held = _held(fd, base.base_record.anchor, since)
    found = changes_since(fd, present.tree, since, held.tree if held is not None else None)
    if isinstance(found, str):
        return Declined(found)
    if held is not None and not _as_held(lookup.by_tree(fd, held.tree), held):
        return Declined("the snapshot of the base vanished while it was compared")
    return BtrfsPlan(fd, present.tree, found, held)


def _strangers(base: Point, snapshot: Snapshot) -> str:
    """Why two states do not belong to one history; "" when they do."""
    before, now = base.snapshot.identity, snapshot.identity
    if base.unfinished:
        return "the base is not finished"
    if base.snapshot.provider != snapshot.provider:
        return "the base was not read from a btrfs snapshot"
    if not (before.get("transid", "").isdecimal() and now.get("transid", "").isdecimal()):
        return "one of the snapshots was written to, received, or has no origin"
    if before.get("fs") != now.get("fs"):
        return "the base lies on another file system"
    if before.get("origin") != now.get("origin"):
        return "the base is of another subvolume"
    if int(now["transid"]) < int(before["transid"]):
        return "the snapshot is older than the base"
    if now["transid"] == before["transid"] and now.get("snapshot") != before.get("snapshot"):
        return "the snapshot is as old as the base, and another"
    return ""


def anchor_stands(fd: int, anchor: Mapping[str, str], since: int) -> bool:
    """Whether the empty subvolume made after a base is there: an older image of the file system
    would not have it.
    """
    if "uuid" not in anchor:
        return False
    found = lookup.by_uuid(fd, bytes.fromhex(anchor["uuid"]))
    return (
        found is not None and str(found.otransid) == anchor["transid"] and found.otransid >= since
    )


def _held(fd: int, anchor: Mapping[str, str], since: int) -> Subvolume | None:
    """The snapshot that the base was read from, if it is there and as it was."""
    if "held" not in anchor:
        return None
    found = lookup.by_uuid(fd, bytes.fromhex(anchor["held"]))
    if found is None or not found.untouched or found.otransid < since:
        return None
    return found


def _as_held(found: Subvolume | None, held: Subvolume) -> bool:
    return found is not None and found.uuid == held.uuid and found.untouched
