"""A delta tree: the directories between a source's root and what changed in it.

It is made from a list of paths in the order of a walk. What the list does not name is not looked
at, except for the directories on the way. What is gone by the time it is looked at is recorded as
gone: that is the truth by then.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator
from errno import ELOOP, ENOENT, ENOTDIR
from typing import Final

import msgspec
from xxhash import xxh32_intdigest

from ingest.deltalist import Names, Told
from ingest.filereader import open_file_stat, torn
from ingest.outcome import Deferred, Failed, Saved, Torn, Vanished
from ingest.saver import Saver, directory_entry
from ingest.statx import open_directory_at, stat_at, stat_fd
from repo.directory import DirectoryMaker, PutMeta
from repo.format import limits
from repo.format.manifest import Problem
from repo.format.node import (
    EXTENT_ROW,
    REMOVED,
    Entry,
    pack_extent_page,
    pack_extents,
)
from repo.types import MIB, Kind

RANGE_BYTES: Final = 64 * MIB
EXTENT_PAGE_ROWS: Final = 1024
_PAGE_BYTES: Final = EXTENT_PAGE_ROWS * EXTENT_ROW.size


class _Folder:
    """A directory of which some entries are in the delta."""

    def __init__(
        self, names: Names, fd: int, entry: Entry, device: int, put_meta: PutMeta, *, marked: bool
    ) -> None:
        self.names = names
        self.fd = fd
        self.entry = entry
        self.device = device
        self.marked = marked
        self.maker = DirectoryMaker(put_meta)


class DeltaTree:
    """Makes the tree of a delta. Use `make` once."""

    def __init__(
        self,
        root_fd: int,
        saver: Saver,
        put_meta: PutMeta,
        *,
        excluded: Collection[tuple[int, int]] = (),
    ) -> None:
        """excluded: (st_dev, inode) of directories that are never entered."""
        self._root_fd = root_fd
        self._excluded = excluded
        self._saver = saver
        self._put_meta = put_meta
        self._way: list[_Folder] = []
        self.files = 0
        self.directories = 0
        self.removed = 0
        self.bytes_read = 0
        self.bytes_source = 0
        self.has_xattrs = False
        self.owners: set[tuple[int, int]] = set()
        self.problems: list[Problem] = []

    def make(
        self, told: Iterable[tuple[Names, Told]], on_step: Callable[[], None] = lambda: None
    ) -> Entry:
        """The root of the tree, its nodes stored. Raises OSError when the root cannot be read."""
        stat = stat_fd(self._root_fd)
        entry = directory_entry(b"", self._root_fd, stat, 0)
        self._enter((), os.dup(self._root_fd), entry, stat.device, marked=False)
        done: Names | None = None
        try:
            for names, said in told:
                on_step()
                if done is not None and names[: len(done)] == done:
                    continue  # something above it was taken as a whole, or is gone
                done = self._take(names, said)
            while len(self._way) > 1:
                self._leave()
            return self._left()
        finally:
            while self._way:
                os.close(self._way.pop().fd)

    def _take(self, names: Names, said: Told) -> Names | None:
        """Record a path; returns what needs no second look: the path, or one above it."""
        while self._way[-1].names != names[: len(self._way[-1].names)]:
            self._leave()
        if not names:
            if not said.whole:
                return None
            self._way[-1].marked = True
            self._whole()
            return ()
        while len(self._way[-1].names) < len(names) - 1:
            above = names[: len(self._way[-1].names) + 1]
            if not self._open(above, marked=False):
                return above
        if names == self._way[-1].names:
            return None
        # What was said to be deleted and is there all the same is something new.
        whole = said.whole or not said.changed
        if not self._open(names, marked=whole or said.deleted):
            return names
        if whole:
            self._whole()
            return names
        return None

    # Directories

    def _open(self, names: Names, *, marked: bool) -> bool:
        """Enter a directory of the one entered last; False when something else is there, which
        is then recorded.
        """
        above, name = self._way[-1], names[-1]
        try:
            fd = open_directory_at(above.fd, name)
        except OSError as error:
            if error.errno == ENOENT:
                self._gone(name)
            elif error.errno in (ENOTDIR, ELOOP):
                self._save(name)
            else:
                self._failed(names, "list", error.errno or 0, error.strerror or "")
            return False
        try:
            stat = stat_fd(fd)
            volume = above.entry.volume
            if stat.device != above.device:
                volume = xxh32_intdigest(b"/".join(names)) or 1
            entry = directory_entry(name, fd, stat, volume)
        except OSError as error:
            os.close(fd)
            self._failed(names, "list", error.errno or 0, error.strerror or "")
            return False
        if (stat.device, stat.inode) in self._excluded:
            os.close(fd)
            above.maker.add(msgspec.structs.replace(entry, absent="the repository"))
            return False
        self._enter(names, fd, entry, stat.device, marked=marked)
        return True

    def _enter(self, names: Names, fd: int, entry: Entry, device: int, *, marked: bool) -> None:
        self.directories += 1
        self._met(entry)
        self._way.append(_Folder(names, fd, entry, device, self._put_meta, marked=marked))

    def _leave(self) -> None:
        entry = self._left()
        self._way[-1].maker.add(entry)

    def _left(self) -> Entry:
        folder = self._way.pop()
        os.close(folder.fd)
        entry = folder.maker.finish(folder.entry)
        return msgspec.structs.replace(entry, absent=REMOVED) if folder.marked else entry

    def _whole(self) -> None:
        """Everything in the directory entered last, and below; it is left again when that was
        not the root.
        """
        bottom = len(self._way)
        pending = [self._listed()]
        while pending:
            name = next(pending[-1], None)
            if name is None:
                pending.pop()
                if len(self._way) > bottom:
                    self._leave()
                continue
            names = (*self._way[-1].names, name)
            if len(names) <= limits.TREE_DEPTH_MAX and self._open(names, marked=False):
                pending.append(self._listed())

    def _listed(self) -> Iterator[bytes]:
        folder = self._way[-1]
        try:
            return iter(sorted(os.fsencode(name) for name in os.listdir(folder.fd)))
        except OSError as error:
            self._failed(folder.names, "list", error.errno or 0, error.strerror or "")
            return iter(())

    # Entries

    def _gone(self, name: bytes) -> None:
        self.removed += 1
        self._way[-1].maker.add(Entry(name, Kind.DIRECTORY, 0, 0, 0, 0, 0, 0, 0, 0, absent=REMOVED))

    def _save(self, name: bytes) -> None:
        """Save an entry that is no directory."""
        folder = self._way[-1]
        names = (*folder.names, name)
        try:
            regular = stat_at(folder.fd, name).kind == Kind.FILE
        except OSError as error:
            if error.errno == ENOENT:
                self._gone(name)
            else:
                self._failed(names, "stat", error.errno or 0, error.strerror or "")
            return
        outcome = self._saver.save(folder.fd, name, regular=regular)
        match outcome:
            case Saved(entry, read):
                self._add(entry, read)
            case Torn(entry, read, detail):
                self._add(entry, read)
                self.problems.append(Problem(b"/".join(names), "read", 0, detail))
            case Deferred(entry):
                self._large(names, entry)
            case Vanished():
                self._gone(name)
            case Failed(_, step, errno, detail):
                self._failed(names, step, errno, detail)

    def _large(self, names: Names, entry: Entry) -> None:
        """Save a file whose extents need pages."""
        pages: list[tuple[bytes, int]] = []
        size = 0
        try:
            fd, stat = open_file_stat(self._way[-1].fd, entry.name)
        except OSError as error:
            self._failed(names, "open", error.errno or 0, error.strerror or "")
            return
        detail = ""
        try:
            for start in range(0, stat.size, RANGE_BYTES):
                stop = min(stat.size, start + RANGE_BYTES)
                rows, covered, detail = self._saver.content_range(fd, start, stop, stat)
                for at in range(0, len(rows), _PAGE_BYTES):
                    page = rows[at : at + _PAGE_BYTES]
                    length = sum(each for _, each in EXTENT_ROW.iter_unpack(page))
                    pages.append((self._put_meta(pack_extent_page(page, 0)), length))
                size += covered
                if detail:
                    break
            if not detail and torn(stat, stat_fd(fd)):
                detail = "changed while it was read"
        except OSError as error:
            self._failed(names, "read", error.errno or 0, error.strerror or "")
            return
        finally:
            os.close(fd)
        if detail:
            self.problems.append(Problem(b"/".join(names), "read", 0, detail))
        level = 1
        while len(pages) > limits.EXTENT_ROWS_INLINE:
            parts = [
                pages[at : at + EXTENT_PAGE_ROWS] for at in range(0, len(pages), EXTENT_PAGE_ROWS)
            ]
            pages = [
                (
                    self._put_meta(pack_extent_page(pack_extents(part), level)),
                    sum(n for _, n in part),
                )
                for part in parts
            ]
            level += 1
        packed = pack_extents(pages)
        whole = msgspec.structs.replace(entry, size=size, extents=packed, extent_level=level)
        self._add(whole, size)

    def _add(self, entry: Entry, read: int) -> None:
        self.files += 1
        self.bytes_read += read
        self.bytes_source += entry.size
        self._met(entry)
        self._way[-1].maker.add(entry)

    def _met(self, entry: Entry) -> None:
        self.has_xattrs = self.has_xattrs or bool(entry.xattrs)
        self.owners.add((entry.uid, entry.gid))

    def _failed(self, names: Names, step: str, errno: int, detail: str) -> None:
        self.problems.append(Problem(b"/".join(names), step, errno, detail))
