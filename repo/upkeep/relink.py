"""A relinker: gives the hard links of a subtree other inode numbers, so that two sources whose
numbers are alike can lie in one tree without being taken for each other's links.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from repo.directory import DirectoryMaker, PutMeta
from repo.format.node import Entry
from repo.tree import Tree
from repo.types import Kind
from repo.upkeep.diff import check_depth


class _Folder:
    """A directory on the way: its sub-directories to look at, and those that have changed."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.inside: Iterator[Entry] = iter(())
        self.has_links = False
        self.changed: dict[bytes, Entry] = {}


class Relinker:
    """Changes inode numbers by a bit pattern. Nodes without hard links stay as they are.

    Every node of a subtree is read. Memory follows the depth, and the sub-directories of one
    directory that have changed.
    """

    def __init__(self, tree: Tree, put_meta: PutMeta) -> None:
        self._tree = tree
        self._put_meta = put_meta

    def __call__(self, entry: Entry, links: int) -> Entry:
        """The entry with what is below it changed. Raises Damaged."""
        if not entry.node:
            return relinked(entry, links)
        way = [self._entered(entry)]
        while True:
            folder = way[-1]
            inside = next(folder.inside, None)
            if inside is not None:
                check_depth(len(way))
                way.append(self._entered(inside))
                continue
            way.pop()
            done = self._left(folder, links)
            if not way:
                return done
            if done is not folder.entry:
                way[-1].changed[done.name] = done

    def _entered(self, entry: Entry) -> _Folder:
        folder = _Folder(entry)
        folder.inside = self._sub_directories(folder)
        return folder

    def _sub_directories(self, folder: _Folder) -> Iterator[Entry]:
        for entry in self._tree.entries(folder.entry):
            if entry.node:
                yield entry
            elif _is_link(entry):
                folder.has_links = True

    def _left(self, folder: _Folder, links: int) -> Entry:
        if not folder.has_links and not folder.changed:
            return folder.entry
        maker = DirectoryMaker(self._put_meta)
        for entry in self._tree.entries(folder.entry):
            maker.add(folder.changed.get(entry.name) or relinked(entry, links))
        return maker.finish(folder.entry)


def _is_link(entry: Entry) -> bool:
    return entry.nlink > 1 and entry.kind != Kind.DIRECTORY


def relinked(entry: Entry, links: int) -> Entry:
    """An entry that is no directory, with another inode number when it is a hard link."""
    if not _is_link(entry):
        return entry
    return msgspec.structs.replace(entry, inode=entry.inode ^ links)
