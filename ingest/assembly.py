"""An assembly: puts the directories of a source together, from the leaves to the root.

Workers deliver runs of entries; sub-directories and large files come one by one as they are
finished. A directory of which nothing is outstanding becomes a node, and its entry goes to
the directory above. What is held at any time are the directories between the root and
where the workers are: depth first keeps them few.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import copy
from operator import attrgetter
from typing import Final, NamedTuple

import msgspec

from ingest.base import UNFINISHED_STEP, BaseDirectory, BaseEntry
from ingest.channel import Run
from ingest.largefile import LargeFile, PutMeta
from ingest.task import Path
from repo.format import limits
from repo.format.manifest import Problem, pack_problems
from repo.format.node import (
    EMPTY_RUN,
    Entry,
    Node,
    PageRow,
    Totals,
    pack_entries,
    pack_page,
    parse_entries,
)
from repo.format.node import Run as NodeRun
from repo.types import ChunkId, Kind

PROBLEMS_PER_CHUNK: Final = 1000
_DIRECTORY: Final = Kind.DIRECTORY


class PendingDirectory:
    """A directory of which something is still outstanding.

    `bases` are its entries in the trees that it is compared with, `own` what the first of them
    holds, once that is needed. `exact`: whether a plan answers for it. What stays as it was in
    `own` is counted, so that its node can be taken over by id when that is everything.
    """

    __slots__ = (
        "above", "at_home", "bases", "below", "device", "entry", "exact", "joined",
        "kept_entries", "kept_runs", "large", "others", "own", "path", "runs", "same", "source",
        "totals", "volume", "waiting",
    )  # fmt: skip

    def __init__(self, source: SourceAssembly, path: Path, above: PendingDirectory | None) -> None:
        self.source = source
        self.path = path
        self.above = above
        self.entry: Entry | None = None
        self.device = -1
        self.volume = 0
        self.waiting = 1  # its own listing
        self.joined: list[Entry] = []
        self.runs: list[Run | PageRow] = []
        self.totals = _Totals(0, 0, 0)
        self.bases: Sequence[BaseEntry] = ()
        self.own: BaseDirectory | None = None
        self.others: Sequence[BaseDirectory] = ()
        self.exact = False
        self.at_home = False  # its base has it in the same place
        self.same = False  # its attributes are those of the base
        self.kept_entries = 0
        self.kept_runs = 0
        self.below: set[PendingDirectory] = set()
        self.large: set[LargeFile] = set()

    def add_runs(self, runs: Sequence[Run], *, paged: bool) -> None:
        """Take runs of saved entries. When there will be several they become pages at once."""
        for run in runs:
            self.totals.entries += run.count
            self.totals.bytes += run.bytes_below
            if paged or self.runs or len(runs) > 1:
                self._page_runs()
                self.runs.append(self._page(run))
            else:
                self.runs.append(run)

    def take_run(self, run: Run | PageRow, *, kept: bool) -> None:
        """Take a run or page of a base, which is what was found; `kept`: of the base proper."""
        self.totals.entries += run.count
        self.totals.bytes += run.bytes_below
        if self.runs:
            self._page_runs()
            run = run if isinstance(run, PageRow) else self._page(run)
        self.runs.append(run)
        self.kept_runs += kept

    def _page_runs(self) -> None:
        self.runs = [self._page(run) if isinstance(run, Run) else run for run in self.runs]

    def _page(self, run: Run) -> PageRow:
        page_id = self.source.put_meta(pack_page(run.entries, run.count))
        first_name = run.first_name or parse_entries(run.entries, where="a run")[0].name
        return PageRow(first_name, page_id, run.count, run.count, run.bytes_below)

    def add(self, entry: Entry, *, kept: bool = False) -> None:
        """Take an entry that was put together here: a sub-directory, a large or retried file.

        `kept`: the base has just this entry in this place.
        """
        self.joined.append(entry)
        self.totals.add(entry)
        self.kept_entries += kept

    @property
    def unchanged(self) -> bool:
        """Whether all that it holds is what the base has of it, so that the node is the same."""
        if self.own is None or self.totals.directories != self.own.entry.directories_below:
            return False
        node = self.own.node
        runs = len(node.listed.pages) or bool(node.listed.total)
        return (
            self.kept_entries == len(self.joined) == node.joined.total
            and self.kept_runs == len(self.runs) == runs
        )

    def finish(self) -> Entry:
        """The entry of the directory, its node stored."""
        node_id = b""
        if self.own is not None and self.unchanged:
            if self.same and self.at_home:
                return self.own.entry
            node_id = self.own.entry.node
        return self._with_node(self.joined, self.totals, node_id)

    def so_far(self, more: Sequence[Entry]) -> Entry:
        """The entry of the directory as it is now, with some entries more; its node stored."""
        totals = copy(self.totals)
        for entry in more:
            totals.add(entry)
        return self._with_node([*self.joined, *more], totals)

    def _with_node(self, joined: Iterable[Entry], totals: _Totals, node_id: bytes = b"") -> Entry:
        if self.entry is None:
            raise AssertionError("a directory is put together before it was listed")
        if not node_id:
            put_meta = self.source.put_meta
            run = _joined_run(sorted(joined, key=attrgetter("name")), put_meta)
            node = Node(run, self._listed_run(), Totals(totals.entries, totals.bytes))
            node_id = put_meta(node.pack())
        return msgspec.structs.replace(
            self.entry,
            node=node_id,
            entries_below=totals.entries,
            bytes_below=totals.bytes,
            directories_below=totals.directories,
        )

    def _listed_run(self) -> NodeRun:
        if not self.runs:
            return EMPTY_RUN
        first = self.runs[0]
        if len(self.runs) == 1 and isinstance(first, Run):
            return NodeRun(first.count, first.entries)
        pages = [run if isinstance(run, PageRow) else self._page(run) for run in self.runs]
        pages.sort(key=attrgetter("first_name"))
        return NodeRun(sum(page.count for page in pages), pages=tuple(pages))


class _Totals:
    """What lies below a directory."""

    def __init__(self, entries: int, size: int, directories: int) -> None:
        self.entries = entries
        self.bytes = size
        self.directories = directories

    def add(self, entry: Entry) -> None:
        """One entry more, with all below it."""
        self.entries += 1 + entry.entries_below
        self.bytes += entry.bytes_below if entry.node else entry.size
        self.directories += (entry.kind == _DIRECTORY) + entry.directories_below


def _joined_run(entries: list[Entry], put_meta: PutMeta) -> NodeRun:
    """One run of sorted entries, paged when there are many."""
    if len(entries) <= limits.PAGE_ENTRIES_MAX:
        packed = pack_entries(entries)
        if len(packed) <= limits.PAGE_BYTES_TARGET:
            return NodeRun(len(entries), packed)
    pages: list[PageRow] = []
    for part in _page_parts(entries):
        page_id = put_meta(pack_page(pack_entries(part), len(part)))
        entries_below = sum(1 + entry.entries_below for entry in part)
        bytes_below = sum(entry.bytes_below if entry.node else entry.size for entry in part)
        pages.append(PageRow(part[0].name, page_id, len(part), entries_below, bytes_below))
    return NodeRun(len(entries), pages=tuple(pages))


def _page_parts(entries: list[Entry]) -> Iterable[list[Entry]]:
    part: list[Entry] = []
    weight = 0
    for entry in entries:
        part.append(entry)
        weight += 160 + len(entry.extents) + sum(len(n) + len(v) for n, v in entry.xattrs)
        if len(part) >= limits.PAGE_ENTRIES_MAX or weight >= limits.PAGE_BYTES_TARGET:
            yield part
            part, weight = [], 0
    if part:
        yield part


class SoFar(NamedTuple):
    """A source as far as it has been saved: its root, the large files of which only the beginning
    is there, and the ids of problem lists that it has besides those of its assembly.
    """

    root: Entry
    begun: list[Problem]
    problems: list[ChunkId]


class SourceAssembly:
    """One source of a job: its pending directories, figures, problems and, in the end, its root.

    `files_reused` counts the entries taken over from the base.
    """

    def __init__(self, number: int, put_meta: PutMeta) -> None:
        self.number = number
        self.put_meta = put_meta
        self.root: Entry | None = None
        self.files = 0
        self.directories = 0
        self.bytes_source = 0
        self.bytes_read = 0
        self.files_reused = 0
        self.files_audited = 0
        self.volumes: set[int] = set()
        self.has_xattrs = False
        self.owners: set[tuple[int, int]] = set()
        self.problems_total = 0
        self.problem_chunks: list[ChunkId] = []
        self.top = PendingDirectory(self, (), None)
        self._problems: list[Problem] = []

    @property
    def done(self) -> bool:
        """Whether the root is there."""
        return self.root is not None

    def arrived(self, directory: PendingDirectory) -> None:
        """Something that a directory waited for is there: finish it, and those above, if so."""
        directory.waiting -= 1
        while directory.waiting == 0:
            entry = directory.finish()
            self.directories += 1
            above = directory.above
            if above is None:
                self.root = entry
                return
            own = directory.own
            kept = directory.at_home and own is not None and entry is own.entry
            above.add(entry, kept=kept)
            above.below.discard(directory)
            above.waiting -= 1
            directory = above

    def left_out(self, directory: PendingDirectory, entry: Entry | None) -> None:
        """A directory is not entered: its entry says why, or it is gone (None)."""
        if directory.above is not None:
            if entry is not None:
                self.directories += 1
                before = directory.bases[0].entry if directory.bases else None
                directory.above.add(entry, kept=directory.at_home and entry == before)
            self.arrived(directory.above)

    def take_over(self, above: PendingDirectory, entry: Entry) -> None:
        """A directory and all below it is what the base has in the same place."""
        files = entry.entries_below - entry.directories_below
        self.directories += 1 + entry.directories_below
        self.files += files
        self.files_reused += files
        self.bytes_source += entry.bytes_below
        above.add(entry, kept=True)

    def take_over_root(self, root: Entry) -> None:
        """The whole source is what the base has."""
        self.take_over(self.top, root)
        self.root = root

    def problem(self, problem: Problem) -> None:
        """Record a problem; long lists go into chunks of their own."""
        self.problems_total += 1
        self._problems.append(problem)
        if len(self._problems) >= PROBLEMS_PER_CHUNK:
            self.close_problems()

    def so_far(self) -> SoFar | None:
        """What is there now, as a tree of its own; None before the root has been listed.

        Directories that are not finished hold what has arrived of them, and large files their
        beginning. Its nodes are stored.
        """
        begun: list[Problem] = []
        entries: dict[PendingDirectory | None, list[Entry]] = {}
        order = [self.top] if self.root is None and self.top.entry is not None else []
        for directory in order:  # grows meanwhile: each directory behind the one above it
            order.extend(directory.below)
        for directory in reversed(order):
            more = entries.pop(directory, [])
            for large in directory.large:
                entry = large.beginning()
                if entry is not None:
                    more.append(entry)
                    begun.append(_begun((*directory.path, entry.name), entry, large))
            entries.setdefault(directory.above, []).append(directory.so_far(more))
        root = self.root or next(iter(entries.get(None, [])), None)
        if root is None:
            return None
        problems = [*self._problems, *begun]
        lists = [self.put_meta(pack_problems(problems))] if problems else []
        return SoFar(root, begun, lists)

    def close_problems(self) -> None:
        """Store the problems that are held."""
        if self._problems:
            self.problem_chunks.append(self.put_meta(pack_problems(self._problems)))
            self._problems = []


def _begun(path: Path, entry: Entry, large: LargeFile) -> Problem:
    detail = f"the first {entry.size} of {large.entry.size} bytes had been read"
    return Problem(b"/".join(path), UNFINISHED_STEP, 0, detail)


def entries_of(runs: Iterable[Run]) -> Iterable[Entry]:
    """The entries of runs, one by one: of what was tried again, which is little."""
    for run in runs:
        yield from parse_entries(run.entries, where="a worker's result")


def names_of(run: Run) -> list[tuple[bytes, bool, int]]:
    """The names of a run's entries, as a task takes them."""
    return [(e.name, e.kind == Kind.FILE, e.inode) for e in entries_of((run,))]
