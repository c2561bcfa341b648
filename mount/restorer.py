"""A restorer: does the tasks of a restore, one after the other, in one process."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from mount.attributes import Attributes
from mount.chunkloader import SMALL_FILES_STRIDE, ChunkLoader
from mount.entrymaker import OPEN_WRITE, EntryMaker
from mount.filecontent import FileContent, Stopped, parse_rows
from mount.handle import OpenHandle
from mount.links import Asked, Group, Links
from mount.listing import check_entry, listing
from mount.restoreproblem import Path, Problems
from mount.restoretask import BatchTask, Done, Figures, RangeTask, RestoreTask
from mount.target import OPEN_READ, Site, Target
from repo.errors import Damaged
from repo.format.node import EXTENT_ROW, HOLE, Entry, parse_entries
from repo.keys import Keys
from repo.reader import Reader
from repo.tree import Tree
from repo.types import CHUNK_ID_BYTES, Kind

_RUN_ENTRIES: Final = 1024
"""Entries whose chunks are looked up together."""

_iter_rows = EXTENT_ROW.iter_unpack


class _Level(NamedTuple):
    """A directory in work: `entry` is None for the one that the task lies in."""

    site: Site
    entry: Entry | None
    directories: deque[Entry]


class Restorer:
    """Restores into one target. For one thread; everything that fails becomes a problem."""

    def __init__(
        self,
        reader: Reader,
        keys: Keys,
        target: Target,
        links: Links,
        stopped: Callable[[], bool],
    ) -> None:
        """`stopped` is asked between files: whether to end at once."""
        self.problems = Problems()
        self.attributes = Attributes(self.problems)
        self._reader = reader
        self._target = target
        self._links = links
        self._stopped = stopped
        self._loader = ChunkLoader(reader)
        self.content = FileContent(self._loader, Tree(reader), keys, stopped)
        self.maker = EntryMaker(target, self.content, self.attributes, self.problems)

    def run(self, task: RestoreTask) -> Done:
        """Do a task. Raises RepositoryFailed, Stopped."""
        if isinstance(task, RangeTask):
            return self._range(task)
        self._batch(task)
        return self.report(task.id)

    def report(self, task: int) -> Done:
        """What came of everything since the last report."""
        figures, self.maker.figures = self.maker.figures, Figures()
        figures.owners_kept, self.attributes.owners_kept = self.attributes.owners_kept, 0
        return Done(task, figures, self.problems.take())

    # -- directories --------------------------------------------------------------------------

    def _batch(self, task: BatchTask) -> None:
        site = Site(task.path, task.fresh, task.plain)
        entries = parse_entries(task.entries, where="task")
        levels = [_Level(site, None, self.fill(site, task.volume, entries))]
        while levels:
            if self._stopped():
                raise Stopped
            level = levels[-1]
            if not level.directories:
                levels.pop()
                if level.entry is not None:
                    self.finish(level.site, level.entry)
                continue
            entry = level.directories.popleft()
            below = self.enter(level.site, entry)
            if below is not None:
                entries_below = self.entries_of(below, entry)
                directories = self.fill(below, entry.volume, entries_below)
                levels.append(_Level(below, entry, directories))

    def entries_of(self, site: Site, directory: Entry) -> Iterator[Entry]:
        """The entries of a directory; what is damaged becomes a problem of it."""

        def on_damage(damage: Damaged) -> None:
            self.problems.folder = site.path
            self.problems.damage(b"", damage)

        return listing(self._reader, directory, on_damage)

    def enter(self, site: Site, entry: Entry) -> Site | None:
        """Make a directory, or take over the one that is there; None when that cannot be."""
        self.problems.folder = site.path
        try:
            check_entry(entry)
            below = self._target.enter(site, entry.name)
            if entry.flags and below.fresh:
                self.attributes.set_before_content(self._target.open(below.path), entry)
        except Damaged as damage:
            self.problems.damage(entry.name, damage)
            return None
        except OSError as error:
            self.problems.failed(entry.name, "enter", error)
            return None
        return below

    def finish(self, site: Site, entry: Entry) -> None:
        """Give a directory, in which nothing is left to do, its attributes."""
        self.problems.folder = site.path[:-1]
        try:
            fd = self._target.open(site.path)
            if site.fresh and site.plain:
                self.attributes.set_new(fd, entry, 0o700)
                if entry.flags:
                    self.attributes.set_flags(OpenHandle(fd), entry)
            else:
                self.attributes.fix(OpenHandle(fd), entry)
        except OSError as error:
            self.problems.failed(entry.name, "finish", error)
        self._target.forget(site.path)
        self.maker.figures.directories += 1

    def leave(self, site: Site) -> None:
        """A directory that was there and is not to change is done with."""
        self.problems.folder = site.path
        try:
            self._target.leave(site.path)
        except OSError as error:
            self.problems.failed(b"", "finish", error)

    def fill(self, site: Site, volume: int, entries: Iterable[Entry]) -> deque[Entry]:
        """Restore the entries that are no directories; returns the directories among them."""
        directories: deque[Entry] = deque()
        linked: list[Entry] = []
        run: list[Entry] = []
        for entry in entries:
            if entry.kind == Kind.DIRECTORY:
                directories.append(entry)
                continue
            (linked if entry.nlink > 1 else run).append(entry)
            if len(run) >= _RUN_ENTRIES:
                self._restore_run(site, run)
                run = []
            if len(linked) >= _RUN_ENTRIES:
                self._restore_linked(site, volume, linked)
                linked = []
        self._restore_run(site, run)
        self._restore_linked(site, volume, linked)
        return directories

    def _restore_run(self, site: Site, entries: list[Entry]) -> None:
        """Restore entries of a directory, of which each has one name only."""
        if not entries:
            return
        self.problems.folder = site.path
        try:
            dirfd = self._target.open(site.path)
        except OSError as error:
            self.problems.failed(b"", "enter", error)
            return
        with self._loader.expecting(_chunks_of(entries), SMALL_FILES_STRIDE):
            self.maker.restore_all(site, dirfd, entries, self._stopped)

    # -- hard links ---------------------------------------------------------------------------

    def _restore_linked(self, site: Site, volume: int, entries: list[Entry]) -> None:
        """Restore entries that have more names than one, here or elsewhere."""
        if not entries:
            return
        groups: dict[Group, list[Entry]] = {}
        for entry in entries:
            groups.setdefault(Group.of(entry, volume), []).append(entry)
        asked = [Asked(group, len(names), names[0].nlink) for group, names in groups.items()]
        open_groups = list(groups)
        answers = self._links.ask(asked)
        while True:
            mine = [g for g, answer in zip(open_groups, answers, strict=True) if answer.yours]
            if mine:
                self._restore_first(site, groups, mine)
            for group, answer in zip(open_groups, answers, strict=True):
                if answer.path:
                    self._link_all(site, groups[group], answer.path)
            open_groups = [
                group
                for group, answer in zip(open_groups, answers, strict=True)
                if not answer.path and not answer.yours
            ]
            if not open_groups:
                return
            answers = self._links.wait(open_groups)

    def _restore_first(
        self, site: Site, groups: dict[Group, list[Entry]], mine: list[Group]
    ) -> None:
        """Restore one name of each group, link the others to it, and tell where it is."""
        self.problems.folder = site.path
        first = [groups[group][0] for group in mine]
        with self._loader.expecting(_chunks_of(first), SMALL_FILES_STRIDE):
            made = [(group, self._restore_group(site, groups[group])) for group in mine]
        self._links.tell(made)

    def _restore_group(self, site: Site, entries: list[Entry]) -> Path:
        """Restore the names of one group that are in this directory. Returns the first's path."""
        path: Path = ()
        for entry in entries:
            if self._stopped():
                raise Stopped
            if path:
                self.maker.link(site, entry, path)
            elif self.maker.restore(site, self._target.open(site.path), entry):
                path = (*site.path, entry.name)
        return path

    def _link_all(self, site: Site, entries: list[Entry], first: Path) -> None:
        self.problems.folder = site.path
        for entry in entries:
            if self._stopped():
                raise Stopped
            self.maker.link(site, entry, first)

    # -- parts of large files -----------------------------------------------------------------

    def _range(self, task: RangeTask) -> Done:
        self.problems.folder = task.path
        differs = False
        whole = True
        try:
            dirfd = self._target.open(task.path)
            flags = OPEN_READ if task.mode == "check" else OPEN_WRITE
            fd = os.open(task.name, flags, dir_fd=dirfd)
            try:
                rows = parse_rows(task.rows)
                if task.mode == "write":
                    self.maker.figures.bytes_written += self.content.write(fd, rows)
                elif task.mode == "check":
                    differs = self.content.check(self.content.differing(fd, rows))
                else:
                    rows = list(self.content.differing(fd, rows))
                    self.maker.figures.bytes_written += self.content.update(fd, rows)
            finally:
                os.close(fd)
        except Damaged as damage:
            self.problems.damage(task.shown, damage)
            whole = False
        except OSError as error:
            self.problems.failed(task.shown, "write", error)
            whole = False
        done = self.report(task.id)
        return Done(task.id, done.figures, done.problems, differs, whole)


def _chunks_of(entries: Iterable[Entry]) -> list[bytes]:
    """The chunks of files, in their order; those of large ones are found in their pages later."""
    found: list[bytes] = []
    for entry in entries:
        extents = entry.extents
        if len(extents) == EXTENT_ROW.size:
            found.append(extents[:CHUNK_ID_BYTES])
        elif extents and not entry.extent_level:
            found += [chunk_id for chunk_id, _ in _iter_rows(extents)]
    return [chunk_id for chunk_id in found if chunk_id != HOLE]
