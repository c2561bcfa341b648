"""An assembly: puts the directories of a source together, from the leaves to the root.

Workers deliver runs of entries; sub-directories and large files come one by one as they are
finished. A directory of which nothing is outstanding becomes a node, and its entry goes to
the directory above. What is held at any time are the directories between the root and
where the workers are: depth first keeps them few.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Final

import msgspec

from ingest.base import BaseDirectory, BaseEntry
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
        "above", "at_home", "bases", "below", "bytes_below", "device", "directories_below",
        "entries_below", "entry", "exact", "joined", "kept_entries", "kept_runs", "large",
        "others", "own", "path", "runs", "same", "source", "volume", "waiting",
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
        self.entries_below = 0
        self.bytes_below = 0
        self.directories_below = 0
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
            self.entries_below += run.count
            self.bytes_below += run.bytes_below
            if paged or self.runs or len(runs) > 1:
                self._page_runs()
                self.runs.append(self._page(run))
            else:
                self.runs.append(run)

    def take_run(self, run: Run | PageRow, *, kept: bool) -> None:
        """Take a run or page of a base, which is what was found; `kept`: of the base proper."""
        self.entries_below += run.count
        self.bytes_below += run.bytes_below
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
        self.entries_below += 1 + entry.entries_below
        self.bytes_below += entry.bytes_below if entry.node else entry.size
        self.directories_below += (entry.kind == _DIRECTORY) + entry.directories_below
        self.kept_entries += kept

    @property
    def unchanged(self) -> bool:
        """Whether all that it holds is what the base has of it, so that the node is the same."""
        if self.own is None or self.directories_below != self.own.entry.directories_below:
            return False
        node = self.own.node
        runs = len(node.listed.pages) or bool(node.listed.total)
        return (
            self.kept_entries == len(self.joined) == node.joined.total
            and self.kept_runs == len(self.runs) == runs
        )

    def finish(self) -> Entry:
        """The entry of the directory, its node stored."""
        if self.entry is None:
            raise AssertionError("a directory is finished before it was listed")
        if self.own is not None and self.unchanged:
            if self.same and self.at_home:
                return self.own.entry
            node_id = self.own.entry.node
        else:
            node_id = self.source.put_meta(self._node(self.joined).pack())
        return self._with_node(node_id, self.entries_below, self.bytes_below)

    def _node(self, joined: Iterable[Entry]) -> Node:
        return Node(
            _joined_run(sorted(joined, key=attrgetter("name")), self.source.put_meta),
            self._listed_run(),
            Totals(self.entries_below, self.bytes_below),
        )

    def _with_node(self, node_id: bytes, entries_below: int, bytes_below: int) -> Entry:
        if self.entry is None:
            raise AssertionError("a directory without an entry")
        return msgspec.structs.replace(
            self.entry,
            node=node_id,
            entries_below=entries_below,
            bytes_below=bytes_below,
            directories_below=self.directories_below,
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

    def problem(self, problem: Problem) -> None:
        """Record a problem; long lists go into chunks of their own."""
        self.problems_total += 1
        self._problems.append(problem)
        if len(self._problems) >= PROBLEMS_PER_CHUNK:
            self.close_problems()

    def close_problems(self) -> None:
        """Store the problems that are held."""
        if self._problems:
            self.problem_chunks.append(self.put_meta(pack_problems(self._problems)))
            self._problems = []


def entries_of(runs: Iterable[Run]) -> Iterable[Entry]:
    """The entries of runs, one by one: of what was tried again, which is little."""
    for run in runs:
        yield from parse_entries(run.entries, where="a worker's result")


def names_of(run: Run) -> list[tuple[bytes, bool, int]]:
    """The names of a run's entries, as a task takes them."""
    return [(e.name, e.kind == Kind.FILE, e.inode) for e in entries_of((run,))]
