"""The reflink change source: two clones of one image file share the blocks that did not change.

Both clones are held, so what lies in the same place is the same. Nothing else is asked: neither
times nor generations.
"""

from __future__ import annotations

import os
from typing import Final

from ingest.changes.changesource import Changes, Declined, Range, Verdict
from ingest.extents import differing, mapped
from ingest.snapshots import folder as folders
from ingest.snapshots.reflink import mark_of
from ingest.snapshots.snapshot import Snapshot
from repo.format.manifest import Point

_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY: Final = _FILE | os.O_DIRECTORY


class ReflinkPlan:
    """One file changed; which of its blocks did is asked when it is read."""

    kind = "reflink"
    verdict = Verdict.EXACT

    def __init__(self, name: bytes, before_fd: int, mark: str, now_fd: int) -> None:
        """Takes the descriptors over."""
        self._changes = Changes(frozenset([name]), listed=True)
        self._before_fd = before_fd
        self._mark = mark
        self._now_fd = now_fd

    def changes_in(self, inode: int) -> Changes | None:
        """As the protocol says: there is but one directory."""
        return self._changes

    def ranges(self, base_inode: int, inode: int, size: int) -> list[Range] | None:
        """By comparing where both clones lie."""
        try:
            before = mapped(self._before_fd, side=0)
            now = mapped(self._now_fd, side=1)
            found = os.fstat(self._before_fd)
            # Defragmentation moves blocks: where the older clone still is what it was, its places
            # meant the same all the while.
            if before is None or now is None or before != mapped(self._before_fd, side=0):
                return None
            if mark_of(found) != self._mark or not found.st_nlink:
                return None
            present = os.fstat(self._now_fd)
            if (present.st_ino, present.st_size) != (inode, size):
                return None
        except OSError:
            return None
        return differing(before, now, found.st_size, size)

    def close(self) -> None:
        """Let both clones go."""
        os.close(self._before_fd)
        os.close(self._now_fd)


class ReflinkChanges:
    """Makes plans for two clones of one image."""

    kind = "reflink"

    def plan(self, base: Point, snapshot: Snapshot, root_fd: int) -> ReflinkPlan | Declined | None:
        """As the protocol says."""
        if snapshot.provider != self.kind:
            return None
        if base.snapshot.provider != self.kind or base.unfinished:
            return Declined("the base was not read from a clone")
        if base.snapshot.identity != snapshot.identity:
            return Declined("the base is of another file")
        mark = base.base_record.anchor.get("held", "")
        if not mark:
            return Declined("the clone of the base was not kept")
        name = os.path.basename(snapshot.live_path)
        try:
            before_fd = _open_held(snapshot, base, name)
        except OSError as error:
            return Declined(f"the clone of the base is gone: {error.strerror}")
        if mark_of(os.fstat(before_fd)) != mark:
            os.close(before_fd)
            return Declined("the clone of the base was changed")
        now_fd = os.open(name, _FILE, dir_fd=root_fd)
        return ReflinkPlan(os.fsencode(name), before_fd, mark, now_fd)


def _open_held(snapshot: Snapshot, base: Point, name: str) -> int:
    folder = os.open(os.path.dirname(snapshot.path), _DIRECTORY)
    try:
        for held in os.listdir(folder):
            if held.startswith(folders.HELD_PREFIX) and held.endswith(f"-{base.id.hex()}"):
                inner = os.open(held, _DIRECTORY, dir_fd=folder)
                try:
                    return os.open(name, _FILE, dir_fd=inner)
                finally:
                    os.close(inner)
    finally:
        os.close(folder)
    raise FileNotFoundError(2, os.strerror(2), name)
