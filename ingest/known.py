"""The known: what a base says of the entries that one task is about.

An entry that did not change is taken over as it stands, its extents with it, and the file is not
opened. Where the file system itself has said what changed, there is not even a look; elsewhere
the attributes decide: inode, size, mtime and ctime, and a ctime that lies clearly before the base
was read. Extended attributes, permissions and links move the ctime, so it answers for them too.
"""

from __future__ import annotations

from typing import Final

import msgspec

from ingest.statx import Stat, stat_at
from ingest.task import Comparison
from repo.format.node import Entry
from repo.types import Kind

_FILE: Final = Kind.FILE

# Not `parse_entries`: what arrives here was unsealed by the master, and who reads the new node
# checks it; this is done for every file of a source in every run.
_decode = msgspec.msgpack.Decoder(list[Entry]).decode


def same_attributes(stat: Stat, entry: Entry, limit_ns: int, *, stable: bool) -> bool:
    """Whether nothing tells what was found from what the base has. Sizes are the caller's.

    `stable`: whether an inode number stays with its file on this file system.
    """
    ctime = entry.ctime_ns
    return (
        stat.ctime_ns == ctime
        and ctime < limit_ns
        and stat.mtime_ns == entry.mtime_ns
        and (stat.inode == entry.inode or not stable)
        and stat.mode == entry.mode
        and stat.uid == entry.uid
        and stat.gid == entry.gid
        and stat.kind == entry.kind
    )


class Known:
    """The entries of a comparison by name. `own` counts those of the first run."""

    def __init__(self, comparison: Comparison, *, stable: bool) -> None:
        self._stable = stable
        self._exact: dict[bytes, Entry] = {}
        self._compared: dict[bytes, tuple[Entry, int, bool]] = {}
        self.first: list[Entry] = []
        self.taken_of_first = 0
        for number, run in enumerate(comparison.runs):
            entries = _decode(run.entries)
            if not number:
                self.first = entries
            if run.exact:
                self._exact.update({entry.name: entry for entry in entries})
            else:
                limit, first = run.limit_ns, not number
                self._compared.update({e.name: (e, limit, first) for e in entries})
        self._exact_is_first = bool(comparison.runs) and comparison.runs[0].exact
        self._changed: dict[bytes, Entry] = {}
        for name in comparison.changed:
            if (entry := self._exact.pop(name, None)) is not None:
                self._changed[name] = entry
        for name in comparison.forced:
            self._exact.pop(name, None)
            self._compared.pop(name, None)

    def take(self, dirfd: int, name: bytes, inode: int) -> Entry | None:
        """The base's entry of that name, if it holds for what is there now. Raises OSError.

        `inode` is what the listing says.
        """
        entry = self._exact.get(name)
        if entry is not None:
            if entry.inode == inode:
                self.taken_of_first += self._exact_is_first
                return entry
            return None
        known = self._compared.get(name)
        if known is None:
            return None
        entry, limit, first = known
        stat = stat_at(dirfd, name)
        if not same_attributes(stat, entry, limit, stable=self._stable):
            return None
        if stat.size != entry.size and stat.kind is _FILE:
            return None
        self.taken_of_first += first
        return entry

    def of_large(self, stat: Stat, name: bytes) -> tuple[Entry | None, bool]:
        """What a base has of a file that is read now, and whether that is its beginning.

        The beginning is what a run that was not finished left of a large file.
        """
        known = self._compared.get(name)
        if known is None:
            return self._changed.get(name), False
        entry, limit, _ = known
        same = same_attributes(stat, entry, limit, stable=self._stable)
        return entry, same and 0 < entry.size < stat.size
