"""A restore plan: divides what is chosen of a point into tasks, in the order of the tree.

The totals that each directory carries tell what is below it: a subtree that is small enough goes
to one worker with all it holds, together with its neighbours; a larger one is entered here, and
finished here when everything below it has come back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Final, NamedTuple, TypeAlias

from mount.largefile import RANGE_BYTES, LargeFile
from mount.restorer import Restorer
from mount.restoretask import BatchTask, Done, RestoreTask
from mount.target import Site, Target
from repo.format.node import Entry, pack_entries
from repo.tree import Tree
from repo.types import MIB, Kind

BATCH_ENTRIES_LEAST: Final = 256
BATCH_ENTRIES_MOST: Final = 4096
BATCH_BYTES_LEAST: Final = 8 * MIB
BATCH_BYTES_MOST: Final = 128 * MIB
TASKS_PER_STREAM: Final = 16
"""What neighbours share a frame with is best left to one worker, which opens it once: so tasks are
as large as leaves this many for each stream, within the bounds above."""

Selection: TypeAlias = "dict[bytes, Selection | None]"
"""Names of a directory, each with what is chosen below it; None: everything."""


class Chosen(NamedTuple):
    """What is to be restored: some paths, or everything (selection None), and how much that is."""

    selection: Selection | None
    entries: int
    bytes: int


def choose(tree: Tree, root: Entry, paths: Sequence[bytes]) -> Chosen:
    """What the paths (from the root of the point) choose. UsageError when one does not exist."""
    selection: Selection = {}
    for path in paths:
        parts = [part for part in path.split(b"/") if part not in (b"", b".")]
        if not parts:
            selection = {}
            break
        tree.resolve(root, path)
        _choose(selection, parts)
    if not selection:
        return Chosen(None, root.entries_below + 1, root.bytes_below)
    entries = size = 0
    for path in _paths(selection):
        entry = tree.resolve(root, path)
        entries += entry.entries_below + 1
        size += entry.bytes_below if entry.kind == Kind.DIRECTORY else entry.size
    return Chosen(selection, entries, size)


def _choose(selection: Selection, parts: Sequence[bytes]) -> None:
    below: Selection | None = selection
    for part in parts[:-1]:
        if below is None:
            return  # something above is chosen as a whole
        below = below.setdefault(part, {})
    if below is not None:
        below[parts[-1]] = None


def _paths(selection: Selection, above: bytes = b"") -> Iterator[bytes]:
    for name, below in selection.items():
        path = above + b"/" + name if above else name
        if below is None:
            yield path
        else:
            yield from _paths(below, path)


class PendingDirectory:
    """A directory that the plan entered: finished when nothing in it is outstanding.

    `entry` is None when it is not to be changed: it was there, and only something in it is chosen.
    """

    __slots__ = ("above", "entry", "site", "waiting")

    def __init__(self, site: Site, entry: Entry | None, above: PendingDirectory | None) -> None:
        self.site = site
        self.entry = entry
        self.above = above
        self.waiting = 1  # its own listing
        if above is not None:
            above.waiting += 1


class Work(NamedTuple):
    """A task that goes out, and what waits for it: a directory, or a large file."""

    task: RestoreTask
    pending: PendingDirectory
    large: LargeFile | None = None


class _Open:
    """A directory whose entries are being handed out."""

    def __init__(
        self,
        pending: PendingDirectory,
        volume: int,
        entries: Iterator[Entry],
        selection: Selection | None,
    ) -> None:
        self.pending = pending
        self.volume = volume
        self.entries = entries
        self.selection = selection
        self.batch: list[Entry] = []
        self.weight = 0
        self.bytes = 0

    def add(self, entry: Entry) -> None:
        """Take an entry."""
        self.batch.append(entry)
        self.weight += entry.entries_below + 1
        self.bytes += entry.bytes_below if entry.kind == Kind.DIRECTORY else entry.size


class RestorePlan:
    """Hands out the tasks of a restore and takes note of those that came back."""

    def __init__(
        self, tree: Tree, target: Target, restorer: Restorer, *, divide_files: bool
    ) -> None:
        """`divide_files`: large files become ranges, for there are several workers."""
        self.batch_entries = BATCH_ENTRIES_LEAST
        self.batch_bytes = BATCH_BYTES_LEAST
        self._tree = tree
        self._target = target
        self._restorer = restorer
        self._divide_files = divide_files
        self._numbers = count(1)
        self._works: Iterator[Work] = iter(())
        self._phases: deque[Iterator[Work]] = deque()
        self._large: set[LargeFile] = set()

    def enlarge_tasks(self, chosen: Chosen, streams: int) -> None:
        """From now on make tasks as large as is good for so many workers."""
        tasks = streams * TASKS_PER_STREAM
        self.batch_entries = min(
            max(chosen.entries // tasks, BATCH_ENTRIES_LEAST), BATCH_ENTRIES_MOST
        )
        self.batch_bytes = min(max(chosen.bytes // tasks, BATCH_BYTES_LEAST), BATCH_BYTES_MOST)

    def begin(self, root: Entry, selection: Selection | None, *, fresh: bool) -> None:
        """Say what there is to do. `fresh`: the root of the target was just made."""
        self._works = self._walk(root, selection, fresh=fresh)

    def next(self) -> Work | None:
        """The next task; None when there is none before one that is out has come back."""
        while True:
            works = self._phases[0] if self._phases else self._works
            work = next(works, None)
            if work is not None:
                return work
            if works is not self._works:
                self._phases.popleft()
            elif not self._phases:
                return None

    def _walk(self, root: Entry, selection: Selection | None, *, fresh: bool) -> Iterator[Work]:
        site = self._target.root_site(fresh=fresh)
        finished = root if selection is None or fresh else None
        levels = [self._opened(site, root, finished, None, selection)]
        while levels:
            level = levels[-1]
            entry = next(level.entries, None)
            if entry is None:
                if level.batch:
                    yield self._close(level)
                levels.pop()
                self._arrived(level.pending)
                continue
            below = level.selection[entry.name] if level.selection is not None else None
            if self._is_entered(entry, below):
                if level.batch:
                    yield self._close(level)
                inside = self._restorer.enter(level.pending.site, entry)
                if inside is not None:
                    kept = None if below is not None and not inside.fresh else entry
                    levels.append(self._opened(inside, entry, kept, level.pending, below))
            elif self._is_divided(entry):
                if level.batch:
                    yield self._close(level)
                yield from self._divided(level.pending, entry)
            else:
                level.add(entry)
                if level.weight >= self.batch_entries or level.bytes >= self.batch_bytes:
                    yield self._close(level)

    def _opened(
        self,
        site: Site,
        directory: Entry,
        entry: Entry | None,
        above: PendingDirectory | None,
        selection: Selection | None,
    ) -> _Open:
        pending = PendingDirectory(site, entry, above)
        if selection is None:
            entries = self._restorer.entries_of(site, directory)
        else:
            found = (self._tree.lookup(directory, name) for name in sorted(selection))
            entries = (entry for entry in found if entry is not None)
        return _Open(pending, directory.volume, entries, selection)

    def _is_entered(self, entry: Entry, selection: Selection | None) -> bool:
        if entry.kind != Kind.DIRECTORY:
            return False
        return (
            selection is not None
            or entry.entries_below >= self.batch_entries
            or entry.bytes_below >= self.batch_bytes
        )

    def _is_divided(self, entry: Entry) -> bool:
        return (
            self._divide_files
            and entry.kind == Kind.FILE
            and entry.size > RANGE_BYTES
            and entry.nlink == 1
        )

    def _close(self, level: _Open) -> Work:
        site = level.pending.site
        task = BatchTask(
            next(self._numbers),
            site.path,
            level.volume,
            site.fresh,
            site.plain,
            pack_entries(level.batch),
        )
        level.batch = []
        level.weight = level.bytes = 0
        level.pending.waiting += 1
        return Work(task, level.pending)

    # -- large files --------------------------------------------------------------------------

    def _divided(self, pending: PendingDirectory, entry: Entry) -> Iterator[Work]:
        large = LargeFile(pending.site, entry, self._target, self._restorer)
        if large.begin():
            pending.waiting += 1
            self._large.add(large)
            yield from self._phase(large, pending)

    def _phase(self, large: LargeFile, pending: PendingDirectory) -> Iterator[Work]:
        for task in large.ranges(self._numbers):
            yield Work(task, pending, large)
        self._step(large, pending)

    def _step(self, large: LargeFile, pending: PendingDirectory) -> None:
        """Go on with a large file when its phase has ended."""
        if not large.phase_ended or large not in self._large:
            return
        if large.end_phase():
            self._phases.append(self._phase(large, pending))
            return
        self._large.discard(large)
        self._arrived(pending)

    # -- what came back -----------------------------------------------------------------------

    def returned(self, work: Work, done: Done) -> None:
        """A task is done."""
        problems = done.problems
        if work.large is None:
            self._arrived(work.pending)
        else:
            problems = work.large.returned(done)
            self._step(work.large, work.pending)
        self._restorer.problems.merge(problems)

    def lost(self, work: Work) -> None:
        """A task will not come back. Its problem is the caller's to record."""
        if work.large is None:
            self._arrived(work.pending)
        else:
            work.large.lost(work.task.id)
            self._step(work.large, work.pending)

    def _arrived(self, directory: PendingDirectory) -> None:
        """Something that a directory waited for is there: finish it, and those above, if so."""
        pending: PendingDirectory | None = directory
        while pending is not None:
            pending.waiting -= 1
            if pending.waiting:
                return
            if pending.entry is not None:
                self._restorer.finish(pending.site, pending.entry)
            else:
                self._restorer.leave(pending.site)
            pending = pending.above

    def abandon(self) -> None:
        """The restore ends before its time: nothing stays of large files that are not whole."""
        for large in self._large:
            large.abandon()
        self._large.clear()
