"""The views of a mounted repository: its points by source and time, by id, and the latest ones.

    by-source/<source>/<time>    by-id/<id>    latest/<source>

A point shows as a folder in each view. The kernel knows a folder by one path only, so the
same point has other inode numbers in each view. Points come and go: what these folders list
is good for a second, what lies in a point for ever.
"""

from __future__ import annotations

import enum
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Final

from xxhash import xxh3_64_intdigest

from mount import inodes
from mount.catalogue import Catalogue, Summary
from mount.content import Content
from mount.inodes import Slots
from mount.vfs import Branch, Found, Listed, Memory
from repo.format.node import Entry
from repo.repository import Repository
from repo.types import Kind

FRESH_SECONDS: Final = 1.0
"""How old the list of points may be when somebody looks at it."""


class View(enum.IntEnum):
    """A folder through which points are seen: part of the inode numbers of all below it."""

    BY_SOURCE = 1
    BY_ID = 2
    LATEST = 3


FOLDERS: Final = {b"by-id": View.BY_ID, b"by-source": View.BY_SOURCE, b"latest": View.LATEST}

_FOLDER_NUMBERS: Final = {inodes.ROOT + view: view for view in View}
_SOURCES_FROM: Final = 1 << (inodes.LOW_BITS - 1)


class RepositoryTree:
    """All points of a repository as one tree. A FileTree (mount/vfs.py)."""

    def __init__(self, repository: Repository, memory: Memory) -> None:
        self._catalogue = Catalogue(repository)
        self._memory = memory
        self._slots = Slots()
        self._branches: dict[int, Branch] = {}
        self._source_names: dict[bytes, bytes] = {}  # of points shown by source, forgotten or not
        self._sources: dict[int, bytes] = {}
        self._folder = _folder_entry(time.time_ns())
        self._listed = float("-inf")
        self._scanned = float("-inf")

    # -- FileTree -----------------------------------------------------------------------------

    def found(self, number: int) -> Found:
        """See FileTree."""
        branch = self._branch(number)
        if branch is None:
            self._check_folder(number)
            return Found(number, self._folder, changes=number != inodes.ROOT)
        return branch.found(number)

    def lookup(self, number: int, name: bytes) -> Found | None:
        """See FileTree."""
        branch = self._branch(number)
        if branch is not None:
            return branch.lookup(number, name)
        if number == inodes.ROOT:
            view = FOLDERS.get(name)
            return None if view is None else Found(number + view, self._folder)
        if number == inodes.ROOT + View.BY_ID:
            return self._point_of_id(name)
        if number == inodes.ROOT + View.BY_SOURCE:
            self._scan()
            if name not in self._catalogue.names.by_source:
                return None
            return Found(self._source_number(name), self._folder, changes=True)
        view, names = self._points_in(number)
        point_id = names.get(name)
        if point_id is not None and view == View.BY_SOURCE:
            self._source_names[point_id] = self._sources[number]
        return None if point_id is None else self._point(view, point_id)

    def children(self, number: int, position: int) -> Iterator[Listed]:
        """See FileTree."""
        branch = self._branch(number)
        if branch is not None:
            yield from branch.children(number, position)
            return
        for name, find in self._members(number)[position:]:
            found = find()
            if found is not None:
                yield name, found

    def parent(self, number: int) -> Found:
        """See FileTree."""
        branch = self._branch(number)
        if branch is None:
            below_root = number == inodes.ROOT or number in _FOLDER_NUMBERS
            return self.found(inodes.ROOT if below_root else inodes.ROOT + View.BY_SOURCE)
        if number != branch.base + inodes.ROOT:
            return branch.parent(number)
        view = View(inodes.view_of(branch.base))
        if view == View.BY_SOURCE:
            return self.found(self._source_number(self._source_of(branch.base)))
        return self.found(inodes.ROOT + view)

    def path(self, number: int) -> bytes:
        """See FileTree."""
        branch = self._branch(number)
        if branch is None:
            if number in self._sources:
                return b"/by-source/" + self._sources[number]
            view = _FOLDER_NUMBERS.get(number)
            return b"/" if view is None else b"/" + _NAMES[view]
        point_id = self._slots.point(branch.base) or b""
        return b"/by-id/" + point_id.hex().encode() + branch.path(number)

    def content(self, number: int) -> Content:
        """See FileTree."""
        branch = self._branch(number)
        if branch is None:
            raise KeyError(number)
        return branch.content(number)

    def branch(self, number: int) -> Branch | None:
        """See FileTree."""
        return self._branch(number)

    def hold(self, found: Found) -> None:
        """See FileTree."""
        if found.link is not None:
            self._memory.links.hold(found.number, *found.link)

    def forget(self, forgotten: Iterable[tuple[int, int]]) -> None:
        """See FileTree."""
        self._memory.links.forget(forgotten)

    def figures(self) -> tuple[int, int]:
        """Bytes and entries of all points whose manifests were read."""
        roots = [summary.root for summary in self._catalogue.summaries()]
        entries = sum(root.entries_below + 1 for root in roots)
        return sum(root.bytes_below for root in roots), entries + len(FOLDERS) + 1

    # -- folders ------------------------------------------------------------------------------

    def _check_folder(self, number: int) -> None:
        if number == inodes.ROOT or number in _FOLDER_NUMBERS or number in self._sources:
            return
        # A number from before a remount: the names of all sources are asked for it.
        self._scan()
        for name in self._catalogue.names.by_source:
            self._source_number(name)
        if number not in self._sources:
            raise KeyError(number)

    def _members(self, number: int) -> list[tuple[bytes, Callable[[], Found | None]]]:
        """The names in a folder, and how to find what each stands for."""
        if number == inodes.ROOT:
            return [(name, partial(self.lookup, number, name)) for name in FOLDERS]
        if number == inodes.ROOT + View.BY_SOURCE:
            self._scan()
            names = sorted(self._catalogue.names.by_source)
            return [(name, partial(self.lookup, number, name)) for name in names]
        view, points = self._points_in(number)
        if view == View.BY_SOURCE:
            self._source_names |= dict.fromkeys(points.values(), self._sources[number])
        return [(name, partial(self._point, view, points[name])) for name in sorted(points)]

    def _points_in(self, number: int) -> tuple[View, Mapping[bytes, bytes]]:
        """The points in a folder: name -> id."""
        self._check_folder(number)
        self._scan()
        names = self._catalogue.names
        if number == inodes.ROOT + View.LATEST:
            return View.LATEST, names.latest
        if number == inodes.ROOT + View.BY_ID:
            ids = self._catalogue.ids
            return View.BY_ID, {
                one.hex().encode(): one for one in ids if self._catalogue.summary(one)
            }
        return View.BY_SOURCE, names.by_source.get(self._sources[number], {})

    def _source_number(self, name: bytes) -> int:
        low = _SOURCES_FROM | xxh3_64_intdigest(name) & (_SOURCES_FROM - 1)
        while self._sources.setdefault(low, name) != name:
            low = _SOURCES_FROM | (low + 1) & (_SOURCES_FROM - 1)
        return low

    def _source_of(self, base: int) -> bytes:
        point_id = self._slots.point(base)
        if point_id in self._source_names:
            return self._source_names[point_id]
        self._scan()
        for source, points in self._catalogue.names.by_source.items():
            if point_id in points.values():
                return source
        raise KeyError(base)

    # -- points -------------------------------------------------------------------------------

    def _point_of_id(self, name: bytes) -> Found | None:
        try:
            point_id = bytes.fromhex(name.decode("ascii"))
        except ValueError:
            return None
        if point_id.hex().encode() != name:
            return None
        self._list_ids()
        return self._point(View.BY_ID, point_id) if point_id in self._catalogue.ids else None

    def _point(self, view: View, point_id: bytes) -> Found | None:
        """The root of a point in a view; None when its manifest is damaged."""
        summary = self._summary(point_id)
        slot = self._slots.slot(point_id)
        if summary is None or slot is None:
            return None
        base = inodes.base_of(view, slot)
        branch = self._branches.get(base) or self._new_branch(base, summary)
        return branch.found(base + inodes.ROOT)._replace(changes=True)

    def _summary(self, point_id: bytes) -> Summary | None:
        summary = self._catalogue.summary(point_id)
        if summary is None and not self._catalogue.is_unreadable(point_id):
            self._memory.source.work(lambda: self._catalogue.read(point_id))
            summary = self._catalogue.summary(point_id)
        return summary

    def _new_branch(self, base: int, summary: Summary) -> Branch:
        generation = xxh3_64_intdigest(summary.id) & 0x7FFF_FFFF
        branch = Branch(summary.root, base, self._memory, generation=generation)
        self._branches[base] = branch
        return branch

    def _branch(self, number: int) -> Branch | None:
        """The point that a number belongs to; None for folders. KeyError: there is no such."""
        base = inodes.split(number).base
        if base == 0:
            return None
        branch = self._branches.get(base)
        if branch is None:
            # A number from before a remount.
            self._list_ids()
            point_id = self._slots.point(base)
            summary = None if point_id is None else self._summary(point_id)
            if summary is None or inodes.view_of(base) not in _VIEWS:
                raise KeyError(number)
            branch = self._new_branch(base, summary)
        return branch

    # -- what there is ------------------------------------------------------------------------

    def _list_ids(self) -> None:
        if time.monotonic() - self._listed > FRESH_SECONDS:
            self._memory.source.work(self._list_now)
        self._slots.add(self._catalogue.ids)

    def _list_now(self) -> None:
        self._catalogue.scan_ids()
        self._listed = time.monotonic()

    def _scan(self) -> None:
        if time.monotonic() - self._scanned > FRESH_SECONDS:
            self._memory.source.work(self._scan_now)
        self._slots.add(self._catalogue.ids)

    def _scan_now(self) -> None:
        self._catalogue.scan()
        self._scanned = self._listed = time.monotonic()


_NAMES: Final = {view: name for name, view in FOLDERS.items()}
_VIEWS: Final = frozenset(View)


def _folder_entry(now_ns: int) -> Entry:
    """What the folders of a repository look like: nobody may write, everybody look."""
    return Entry(
        b"", Kind.DIRECTORY, 0o555, os.geteuid(), os.getegid(), now_ns, now_ns, 0, 0, 2, absent="-"
    )
