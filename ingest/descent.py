"""A descent: the way down one source, its base and what is there now side by side.

It decides which directories become tasks and what these compare with. A directory that an exact
plan knows nothing of is taken over as it stands; one in which only some sub-directories changed
is put together here, without a look at it; the others are listed by workers.

A directory that was moved is found by its inode: whatever the base has and a listing has not is
remembered, and a directory that is older than the base, and not in it at this place, waits until
all others have been listed.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from ingest.assembly import PendingDirectory, SourceAssembly
from ingest.audit import ONE_OF
from ingest.base import BaseDirectory, BaseEntry, Foundation
from ingest.changes.changesource import Changes
from ingest.channel import Directory, Listed, Run
from ingest.lacking import Lacking
from ingest.planner import Work
from ingest.task import BaseRun, Comparison, ListTask, PartTask, Path, RangeTask, Task
from repo.errors import Damaged
from repo.format import limits
from repo.format.node import Entry, PageRow, pack_entries
from repo.tree import Tree
from repo.types import Kind

MISSING_MAX: Final = 10_000
"""Directories of the base that were not found in their place, kept to know moved ones by."""

PUT_OFF_MAX: Final = 10_000
"""Directories that wait for their base to be found; more are read as new ones."""

EXACT_AUDITS_MAX: Final = 16
"""So many files at most are read in a run, of those that an exact plan calls unchanged."""

_NOTHING: Final = Changes(frozenset(), listed=False)


class Descent:
    """The way down one source. On the master's loop; nothing here waits but for a node's frame."""

    def __init__(
        self,
        assembly: SourceAssembly,
        foundation: Foundation,
        device: int,
        next_id: Callable[[], int],
        on_notice: Callable[[str], None],
    ) -> None:
        """`device`: st_dev of the source's root."""
        self._device = device
        self._assembly = assembly
        self._foundation = foundation
        self._next_id = next_id
        self._on_notice = on_notice
        self._missing: dict[int, BaseEntry] = {}
        self._put_off: list[Work] = []
        self._damaged = self._lack = False
        base = foundation.base
        self._probe_ns = base.point.created_ns if base is not None else 0

    # -- which tasks there are ----------------------------------------------------------------

    def start(self) -> list[Work]:
        """The first tasks: usually one, the root's listing; none when all is there."""
        if self._assembly.done:
            return []
        top = self._assembly.top
        foundation = self._foundation
        top.bases = [BaseEntry(base, base.point.root) for base in foundation.trees]
        top.at_home = foundation.base is not None
        top.exact = foundation.exact
        audits = self._audits() if foundation.exact else []
        top.waiting += len(audits)
        return [*audits, *self._down([(top, None)])]

    def _audits(self) -> list[Work]:
        """Files of the base, chosen at random, of which the plan says that they did not change.

        One of a thousand, and no more than a few: each costs the nodes on the way to it.
        """
        base, plan = self._foundation.base, self._foundation.plan
        if base is None or plan is None:
            return []
        root = base.point.root
        files = root.entries_below - root.directories_below
        works: list[Work] = []
        for _ in range(min(EXACT_AUDITS_MAX, math.ceil(files / ONE_OF))):
            try:
                path, directory, entry = _any_file(base.tree, root)
            except Damaged as damage:
                self._tell(damage)
                break
            changes = plan.changes_in(directory.inode)
            named = changes is not None and (changes.listed or entry.name in changes.names)
            if entry.kind == Kind.FILE and not named and not self._is_forced((*path, entry.name)):
                run = BaseRun(pack_entries([entry]), base.limit_ns, exact=True)
                comparison = Comparison((run,))
                task = PartTask(
                    self._next_id(), self._assembly.number, path, b"",
                    comparison=comparison, audit=True,
                )  # fmt: skip
                works.append(Work(task, self._assembly.top))
        return works

    def children(self, above: PendingDirectory, found: Sequence[Directory]) -> list[Work]:
        """The tasks for the sub-directories that a listing found; those taken over need none."""
        self._note_missing(above, found)
        pending: list[tuple[PendingDirectory, int | None]] = []
        for name, inode in ((each.name, each.inode) for each in found):
            directory = PendingDirectory(self._assembly, (*above.path, name), above)
            above.waiting += 1
            directory.bases = self._bases_of(above, name)
            own = self._own(directory)
            directory.at_home = own is not None
            same = own is not None and own.inode == inode
            directory.exact = self._foundation.exact and not above.volume and same
            pending.append((directory, inode))
        self._look_up([directory for directory, _ in pending])
        return self._down(pending)

    def _look_up(self, directories: Sequence[PendingDirectory]) -> None:
        """Find where the nodes of their bases lie: once for all of them, which is cheaper."""
        known = [d for d in directories if d.bases and not d.exact]
        if known:
            places = known[0].bases[0].base.tree.node_places([d.bases[0].entry for d in known])
            for directory, place in zip(known, places, strict=True):
                first, *others = directory.bases
                directory.bases = [first._replace(place=place), *others]

    def put_off(self, work: Work, listed: Listed) -> bool:
        """Keep a moved directory until its base is known; False when there are too many."""
        if len(self._put_off) >= PUT_OFF_MAX:
            return False
        work.directory.entry = listed.entry  # for its inode: it is listed anew
        self._put_off.append(work)
        return True

    def found(self) -> list[Work]:
        """The directories that were put off, now that all others are listed."""
        works, self._put_off = self._put_off, []
        for work in works:
            directory = work.directory
            entry, directory.entry = directory.entry, None
            match = self._missing.pop(entry.inode, None) if entry is not None else None
            if match is not None:
                directory.bases = [match, *directory.bases[self._has_base(directory) :]]
                directory.exact = self._foundation.exact
                directory.at_home = False
            work.task = self._list_task(directory)
        return works

    def _down(self, pending: list[tuple[PendingDirectory, int | None]]) -> list[Work]:
        """Tasks for directories, and for those below them that are not listed themselves."""
        works: list[Work] = []
        pending.reverse()  # a stack
        while pending:
            directory, inode = pending.pop()
            own = self._own(directory)
            changes = self._changes(directory, own, inode)
            if own is not None and self._was_surveyed(directory, own, inode):
                changes = _NOTHING
            if changes is None or own is None:
                probe = own is None or own.inode != inode
                works.append(Work(self._list_task(directory, probe=probe), directory))
            elif changes == _NOTHING and directory.above is not None:
                self._assembly.take_over(directory.above, own)
                self._assembly.arrived(directory.above)
            elif changes.listed or not self._pass_through(directory, own, changes, pending, works):
                works.append(Work(self._list_task(directory), directory))
        return works

    def _was_surveyed(self, directory: PendingDirectory, own: Entry, inode: int | None) -> bool:
        """Whether a survey found a directory as it was, and a listing finds it still there."""
        unchanged = self._foundation.unchanged_paths
        return (
            bool(unchanged)
            and directory.at_home
            and own.inode == inode
            and b"/".join(directory.path) in unchanged
        )

    def _changes(
        self, directory: PendingDirectory, own: Entry | None, inode: int | None
    ) -> Changes | None:
        """What changed in or below a directory; None when nobody can say."""
        plan = self._foundation.plan
        if not directory.exact or own is None or not own.node or plan is None:
            return None
        said = plan.changes_in(own.inode if inode is None else inode) or _NOTHING
        forced = self._foundation.forced
        names, ways = forced.names(directory.path), forced.ways(directory.path)
        return Changes(said.names | names | ways, listed=said.listed or bool(names))

    def _pass_through(
        self,
        directory: PendingDirectory,
        own: Entry,
        changes: Changes,
        pending: list[tuple[PendingDirectory, int | None]],
        works: list[Work],
    ) -> bool:
        """Put a directory together of which only parts changed; False when it must be listed."""
        base = self._load(directory)
        if base is None or base.entry is not own:
            return False
        try:
            parts = _Parts(base, changes.names)
        except Damaged as damage:
            self._tell(damage)
            return False
        if parts.others:
            return False
        directory.entry = own
        directory.same = True
        directory.device = self._device
        for entry in parts.joined:
            if entry.name not in changes.names:
                self._keep(directory, entry)
                continue
            child = PendingDirectory(self._assembly, (*directory.path, entry.name), directory)
            directory.waiting += 1
            child.bases = self._bases_of(directory, entry.name)
            child.at_home = child.exact = True
            pending.append((child, entry.inode))
        for run in parts.kept:
            directory.take_run(run, kept=True)
            self._count(run.count, run.bytes_below)
        for page in parts.touched:
            directory.waiting += 1
            task = PartTask(
                self._next_id(), self._assembly.number, directory.path, b"",
                first_name=page.first_name, last_name=page.first_name,
            )  # fmt: skip
            works.append(Work(task, directory))
        if directory.above is not None:
            directory.above.below.add(directory)
        self._assembly.arrived(directory)
        return True

    def _keep(self, directory: PendingDirectory, entry: Entry) -> None:
        if entry.kind == Kind.DIRECTORY:
            self._assembly.take_over(directory, entry)
        else:
            directory.add(entry, kept=True)
            self._count(1, entry.size)

    def _count(self, entries: int, size: int) -> None:
        self._assembly.files += entries
        self._assembly.files_reused += entries
        self._assembly.bytes_source += size

    # -- what a task compares with ------------------------------------------------------------

    def prepared(self, work: Work) -> Task:
        """The task with what it compares with, as it goes to a worker."""
        task, directory = work.task, work.directory
        if isinstance(task, PartTask):
            if task.audit or not task.last_name or not directory.bases:
                return task
            comparison = self._comparison(directory, task.first_name, task.last_name)
            if comparison is None and not task.names:
                raise Damaged("a base was damaged while it was read", where=_said(directory.path))
            return msgspec.structs.replace(task, comparison=comparison)
        if isinstance(task, RangeTask) or not directory.bases:
            return task
        self._load(directory)
        own = self._own(directory)
        loaded = self._loaded(directory)
        bounds = next((d.bounds for d in loaded if d.bounds), ())
        comparison = None if bounds else self._comparison(directory, b"", b"\xff" * 256)
        base = self._foundation.base
        return msgspec.structs.replace(
            task,
            comparison=comparison,
            before=None if own is None or self._is_forced(directory.path) else own,
            limit_ns=base.limit_ns if base is not None else 0,
            bounds=bounds,
        )

    def _comparison(
        self, directory: PendingDirectory, first: bytes, last: bytes
    ) -> Comparison | None:
        loaded = self._loaded(directory)
        if not loaded:
            return None
        changes = self._changes(directory, self._own(directory), None)
        exact = changes is not None
        forced = self._foundation.forced.names(directory.path)
        try:
            runs = [
                run
                for each in loaded
                for run in each.runs(first, last, exact=exact and each is directory.own)
            ]
            if self._foundation.lacking is not None:
                forced |= self._lacking(self._foundation.lacking, runs)
        except Damaged as damage:
            self._tell(damage)
            return None
        return Comparison(
            tuple(runs),
            changed=tuple(changes.names) if changes is not None else (),
            forced=tuple(forced),
        )

    def _lacking(self, lacking: Lacking, runs: Sequence[BaseRun]) -> frozenset[bytes]:
        """The names in these runs that must be read, for content of them is missing."""
        names = lacking.names(run.entries for run in runs)
        if names and not self._lack:
            self._lack = True
            self._on_notice(
                "content of files that did not change is missing from the repository: they are "
                "read again (`repo repair` marks the points that lack it)"
            )
        return names

    def _list_task(self, directory: PendingDirectory, *, probe: bool = False) -> ListTask:
        above = directory.above
        probe = probe and above is not None
        return ListTask(
            self._next_id(),
            self._assembly.number,
            directory.path,
            above.device if above is not None else -1,
            above.volume if above is not None else 0,
            probe_ns=self._probe_ns if probe else 0,
        )

    # -- bases --------------------------------------------------------------------------------

    def _own(self, directory: PendingDirectory) -> Entry | None:
        """The entry of a directory in the base proper."""
        bases = directory.bases
        return bases[0].entry if bases and self._has_base(directory) else None

    def _has_base(self, directory: PendingDirectory) -> bool:
        bases = directory.bases
        return bool(bases) and bases[0].base is self._foundation.base

    def _load(self, directory: PendingDirectory) -> BaseDirectory | None:
        """Read the nodes of a directory's bases; gives that of the base proper."""
        if directory.own is not None or directory.others:
            return directory.own
        loaded: list[BaseDirectory] = []
        for found in directory.bases:
            if found.entry.node:
                try:
                    loaded.append(BaseDirectory(found))
                except Damaged as damage:
                    self._tell(damage)
        if loaded and loaded[0].base is self._foundation.base:
            directory.own = loaded.pop(0)
        directory.others = loaded
        return directory.own

    def _loaded(self, directory: PendingDirectory) -> list[BaseDirectory]:
        return [*([directory.own] if directory.own is not None else []), *directory.others]

    def _bases_of(self, above: PendingDirectory, name: bytes) -> list[BaseEntry]:
        found: list[BaseEntry] = []
        for loaded in self._loaded(above):
            try:
                entry = loaded.find(name)
            except Damaged as damage:
                self._tell(damage)
                continue
            if entry is not None:
                found.append(BaseEntry(loaded.base, entry))
        return found

    def _note_missing(self, above: PendingDirectory, found: Sequence[Directory]) -> None:
        own = above.own
        if own is None or len(self._missing) >= MISSING_MAX:
            return
        inodes = {each.name: each.inode for each in found}
        try:
            for entry in own.joined():
                if entry.node and inodes.get(entry.name) != entry.inode:
                    self._missing[entry.inode] = BaseEntry(own.base, entry)
        except Damaged as damage:
            self._tell(damage)

    def _is_forced(self, path: Path) -> bool:
        forced = self._foundation.forced
        return path[-1] in forced.names(path[:-1]) if path else forced.top

    def _tell(self, damage: Damaged) -> None:
        if not self._damaged:
            self._damaged = True
            self._on_notice(f"the base is damaged, what it lacks is read anew: {damage}")


def _any_file(tree: Tree, root: Entry) -> tuple[Path, Entry, Entry]:
    """Some entry of a tree that is no directory, each as likely: its directory's path and entry."""
    path: Path = ()
    directory = root
    while True:
        rank = secrets.randbelow(max(1, directory.entries_below))
        chosen: Entry | None = None
        for entry in tree.entries(directory):
            chosen = entry
            rank -= 1 + entry.entries_below
            if rank < 0:
                break
        if chosen is None or not chosen.entries_below:
            return path, directory, chosen or directory
        path, directory = (*path, chosen.name), chosen


def _said(path: Path) -> str:
    return b"/".join(path).decode(errors="replace")


class _Parts:
    """A directory of a base of which some names changed: what stays and what does not.

    `others` are changed names that are in no page: in a run that is listed as a whole, or not in
    the base at all. Raises Damaged.
    """

    def __init__(self, base: BaseDirectory, changed: frozenset[bytes]) -> None:
        self.joined = list(base.joined())
        self.kept: list[Run | PageRow] = []
        self.touched: list[PageRow] = []
        others = changed.difference(e.name for e in self.joined if e.kind == Kind.DIRECTORY)
        touched = {page.id: page for name in others if (page := base.page_of(name)) is not None}
        for page in base.node.listed.pages:
            if page.id in touched:
                self.touched.append(page)
                others -= base.page_names(page)
            else:
                self.kept.append(page)
        self.others = others
        if not others and not base.node.listed.pages and base.node.listed.total:
            self.kept.append(base.whole_run())


assert limits.NAME_BYTES_MAX < 256  # b"\xff" * 256 is behind every name
