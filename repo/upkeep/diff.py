"""A diff: in what two trees differ. Its cost follows what differs, not the size of the trees."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Final, NamedTuple

from repo.errors import Damaged
from repo.format import limits
from repo.format.node import Entry
from repo.tree import Tree
from repo.types import Kind
from repo.upkeep.likeness import CONTENT, aspects, metadata_aspects

HELD_MAX: Final = 200_000
"""Differences kept to put them in order and to find what was moved."""

PAIRS_AT_ONCE: Final = 64
"""Directories whose nodes are loaded together."""


class Change(enum.StrEnum):
    """What happened to a path."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"
    METADATA = "metadata"
    MOVED = "moved"


class Difference(NamedTuple):
    """One path that differs; its entries before and after. A directory stands for its subtree
    when it was added, removed or moved.

    old_path: of something moved. aspects: in what both entries differ (see `likeness`).
    volumes: the file systems within the source that the two entries lay on.
    """

    change: Change
    path: bytes
    before: Entry | None
    after: Entry | None
    aspects: tuple[str, ...] = ()
    old_path: bytes = b""
    volumes: tuple[int, int] = (0, 0)


class Pair(NamedTuple):
    """A directory in both trees."""

    path: bytes
    before: Entry
    after: Entry


def diff(
    tree: Tree,
    before: Entry,
    after: Entry,
    *,
    path: bytes = b"",
    same_source: bool,
    on_notice: Callable[[str], None] = lambda _text: None,
) -> Iterator[Difference]:
    """The differences of two trees below `path`, in order of paths.

    Moves are looked for when both trees are of the same source, for they are recognised by inode
    numbers. Beyond HELD_MAX differences they come as they are found, moves as removed and added.
    Raises Damaged.
    """
    if before.kind != Kind.DIRECTORY or after.kind != Kind.DIRECTORY:
        yield from _of_one(tree, path, before, after, (before.volume, after.volume))
        return
    raw = _differences(tree, [Pair(path, before, after)])
    held = list(islice(raw, HELD_MAX + 1))
    if len(held) > HELD_MAX:
        on_notice(
            f"more than {HELD_MAX:,} differences: they come in no order, and what was moved is "
            "shown as removed and added"
        )
        yield from held
        yield from raw
        return
    if same_source:
        held = _Moves(tree, held).resolved()
    held.sort(key=lambda difference: difference.path.split(b"/"))
    yield from held


def everything_below(tree: Tree, path: bytes, directory: Entry) -> Iterator[tuple[bytes, Entry]]:
    """All entries below a directory with their paths; memory follows the depth. Raises Damaged."""
    for _, below, entry in _walk(tree, path, directory):
        yield below, entry


def _walk(tree: Tree, path: bytes, directory: Entry) -> Iterator[tuple[Entry, bytes, Entry]]:
    """All entries below a directory: (the directory that holds it, path, entry)."""
    levels = [(directory, path, tree.entries(directory))]
    while levels:
        above, folder, entries = levels[-1]
        entry = next(entries, None)
        if entry is None:
            levels.pop()
            continue
        below = joined(folder, entry.name)
        yield above, below, entry
        if entry.node:
            check_depth(len(levels))
            levels.append((entry, below, tree.entries(entry)))


def check_depth(depth: int) -> None:
    """Raise Damaged for a tree that is deeper than any file system's."""
    if depth > limits.TREE_DEPTH_MAX:
        raise Damaged("directories are nested too deeply", next_step="run `repo verify`")


def joined(folder: bytes, name: bytes) -> bytes:
    """The path of a name in a directory; that of the root is empty."""
    return folder + b"/" + name if folder else name


def _differences(tree: Tree, pairs: list[Pair]) -> Iterator[Difference]:
    """The differences of directories and of all below, in no order."""
    while pairs:
        batch = pairs[-PAIRS_AT_ONCE:]
        del pairs[-PAIRS_AT_ONCE:]
        tree.load(side for pair in batch for side in (pair.before, pair.after))
        for pair in batch:
            yield from _of_directory(tree, pair, pairs)


def _of_directory(tree: Tree, pair: Pair, pairs: list[Pair]) -> Iterator[Difference]:
    """What differs in a directory itself; directories that may differ inside go to `pairs`."""
    path, before, after = pair
    check_depth(path.count(b"/"))
    volumes = before.volume, after.volume
    names_differ = False
    for old, new in tree.differing(before, after):
        name = (old or new).name  # type: ignore[union-attr]  # one of them is there
        below = joined(path, name)
        if old is not None and new is not None and old.kind == new.kind == Kind.DIRECTORY:
            pairs.append(Pair(below, old, new))
            continue
        for difference in _of_one(tree, below, old, new, volumes):
            names_differ = names_differ or difference.change != Change.METADATA
            yield difference
    found = metadata_aspects(before, after)
    if found == ("mtime",) and names_differ:
        return  # the time says nothing that the names do not say
    if found:
        yield Difference(Change.METADATA, path, before, after, found, volumes=volumes)


def _of_one(
    tree: Tree, path: bytes, old: Entry | None, new: Entry | None, volumes: tuple[int, int]
) -> Iterator[Difference]:
    """The difference of a path that is not a directory in both trees, if there is one."""
    if old is None or new is None:
        change = Change.ADDED if old is None else Change.REMOVED
        yield Difference(change, path, old, new, volumes=volumes)
        return
    found = aspects(tree, old, new)
    if found:
        changed = {CONTENT, "kind", "target", "device"} & set(found)
        change = Change.CHANGED if changed else Change.METADATA
        yield Difference(change, path, old, new, found, volumes=volumes)


Identity = tuple[int, int]
"""(volume, inode): one file or directory of a source, whatever its names."""


class _Moves:
    """Finds among the added and removed those that are one thing under two names."""

    def __init__(self, tree: Tree, differences: Sequence[Difference]) -> None:
        self._tree = tree
        self._others: list[Difference] = []
        self._removed: dict[Identity, list[Difference]] = {}
        self._added: list[Difference] = []
        self._moved: list[Difference] = []
        self._take(differences)

    def resolved(self) -> list[Difference]:
        """The differences with moves in the place of what they explain."""
        self._match()
        if self._removed and any(one.after.node for one in self._added if one.after):
            self._look_inside_added()
        if self._added and self._removed:
            self._look_inside_removed()
        gone = [one for several in self._removed.values() for one in several]
        return [*self._others, *gone, *self._added, *self._moved]

    def _take(self, differences: Sequence[Difference]) -> None:
        for one in differences:
            if one.change == Change.ADDED:
                self._added.append(one)
            elif one.change == Change.REMOVED and one.before is not None:
                self._removed.setdefault(_identity(one.before, one.volumes[0]), []).append(one)
            else:
                self._others.append(one)

    def _match(self) -> None:
        """Pair what was removed and added; what differs inside moved directories may pair too."""
        while True:
            pairs: list[Pair] = []
            self._added = [one for one in self._added if not self._match_one(one, pairs)]
            if not pairs:
                return
            self._take(self._inside(pairs))

    def _match_one(self, added: Difference, pairs: list[Pair]) -> bool:
        after = added.after
        if after is None:
            return False
        removed = self._pop_removed(after, added.volumes[1])
        if removed is None or removed.before is None:
            return False
        self._record(removed.path, added.path, removed.before, after, pairs)
        return True

    def _pop_removed(self, after: Entry, volume: int) -> Difference | None:
        """What was removed and is this entry; it counts as found."""
        key = _identity(after, volume)
        candidates = self._removed.get(key, [])
        for position, removed in enumerate(candidates):
            if removed.before is not None and _same_thing(removed.before, after):
                del candidates[position]
                if not candidates:
                    del self._removed[key]
                return removed
        return None

    def _record(
        self, old_path: bytes, path: bytes, before: Entry, after: Entry, pairs: list[Pair]
    ) -> None:
        if after.kind == Kind.DIRECTORY:
            found = metadata_aspects(before, after)
            if before.node and after.node and before.node != after.node:
                pairs.append(Pair(path, before, after))
        else:
            found = aspects(self._tree, before, after)
        self._moved.append(Difference(Change.MOVED, path, before, after, found, old_path))

    def _look_inside_added(self) -> None:
        """What was removed may lie in a directory that is new as a whole."""
        pairs: list[Pair] = []
        folders = [one for one in self._added if one.after is not None and one.after.node]
        for path, folder in ((one.path, one.after) for one in folders):
            if folder is None or not self._removed:
                continue
            for above, below, entry in _walk(self._tree, path, folder):
                removed = self._pop_removed(entry, above.volume)
                if removed is not None and removed.before is not None:
                    self._record(removed.path, below, removed.before, entry, pairs)
        self._others += self._inside(pairs)

    def _look_inside_removed(self) -> None:
        """What was added may have lain in a directory that is gone as a whole."""
        added = {
            _identity(one.after, one.volumes[1]): one
            for one in self._added
            if one.after is not None
        }
        found: set[bytes] = set()
        pairs: list[Pair] = []
        gone = [one for several in self._removed.values() for one in several]
        for folder, path in ((one.before, one.path) for one in gone):
            if folder is None or not folder.node or not added:
                continue
            for above, below, entry in _walk(self._tree, path, folder):
                one = added.get(_identity(entry, above.volume))
                if one is not None and one.after is not None and _same_thing(entry, one.after):
                    self._record(below, one.path, entry, one.after, pairs)
                    found.add(one.path)
                    del added[_identity(entry, above.volume)]
        self._added = [one for one in self._added if one.path not in found]
        self._others += self._inside(pairs)

    def _inside(self, pairs: list[Pair]) -> list[Difference]:
        return list(_differences(self._tree, pairs))


def _identity(entry: Entry, volume: int) -> Identity:
    """`volume` is that of the directory which holds the entry; a directory knows its own."""
    return (entry.volume if entry.kind == Kind.DIRECTORY else volume), entry.inode


def _same_thing(before: Entry, after: Entry) -> bool:
    """Whether two entries with one inode number are one thing: file systems use numbers again."""
    if before.kind != after.kind:
        return False
    if before.btime_ns and after.btime_ns:
        return before.btime_ns == after.btime_ns
    if before.kind == Kind.FILE:
        return (before.size, before.mtime_ns) == (after.size, after.mtime_ns) or (
            before.size > 0 and before.extents == after.extents
        )
    if before.kind == Kind.DIRECTORY:
        return before.node == after.node or before.mtime_ns == after.mtime_ns
    return not metadata_aspects(before, after)
