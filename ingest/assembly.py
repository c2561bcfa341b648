"""An assembly: puts the directories of a source together, from the leaves to the root.

Workers deliver runs of entries; sub-directories and large files come one by one as they are
finished. A directory of which nothing is outstanding becomes a node, and its entry goes to
the directory above. What is held at any time are the directories between the root and
where the workers are: depth first keeps them few.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import Final

import msgspec

from ingest.channel import Large, RangeSaved, Run
from ingest.task import Path
from repo.format import limits
from repo.format.manifest import Problem, pack_problems
from repo.format.node import (
    EMPTY_RUN,
    EXTENT_ROW,
    Entry,
    Node,
    PageRow,
    Totals,
    pack_entries,
    pack_extent_page,
    pack_extents,
    pack_page,
    parse_entries,
)
from repo.format.node import Run as NodeRun
from repo.types import ChunkId, Kind

PutMeta = Callable[[bytes], ChunkId]
"""Stores a node, page or problem list; gives its id."""

EXTENT_PAGE_ROWS: Final = 1024
PROBLEMS_PER_CHUNK: Final = 1000


class PendingDirectory:
    """A directory of which something is still outstanding."""

    __slots__ = (
        "above", "bytes_below", "device", "entries_below", "entry", "joined", "path", "runs",
        "source", "volume", "waiting",
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

    def _page_runs(self) -> None:
        self.runs = [self._page(run) if isinstance(run, Run) else run for run in self.runs]

    def _page(self, run: Run) -> PageRow:
        page_id = self.source.put_meta(pack_page(run.entries, run.count))
        return PageRow(run.first_name, page_id, run.count, run.count, run.bytes_below)

    def add(self, entry: Entry) -> None:
        """Take an entry that was put together here: a sub-directory, a large or retried file."""
        self.joined.append(entry)
        self.entries_below += 1 + entry.entries_below
        self.bytes_below += entry.bytes_below if entry.node else entry.size

    def finish(self) -> Entry:
        """The entry of the directory, its node stored."""
        if self.entry is None:
            raise AssertionError("a directory is finished before it was listed")
        put_meta = self.source.put_meta
        node = Node(
            _joined_run(sorted(self.joined, key=attrgetter("name")), put_meta),
            self._listed_run(),
            Totals(self.entries_below, self.bytes_below),
        )
        return msgspec.structs.replace(
            self.entry,
            node=put_meta(node.pack()),
            entries_below=self.entries_below,
            bytes_below=self.bytes_below,
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


class LargeFile:
    """A large file whose ranges are being saved."""

    __slots__ = (
        "_rows", "changed", "directory", "entry", "errno", "last_try", "outstanding", "version",
    )  # fmt: skip

    def __init__(self, directory: PendingDirectory, large: Large, *, last_try: bool) -> None:
        self.directory = directory
        self.entry = large.entry
        self.version = large.version
        self.last_try = last_try
        self.outstanding = 0
        self.changed = ""
        self.errno = 0
        self._rows: dict[int, tuple[list[tuple[bytes, int]], int]] = {}

    def add(self, start: int, stop: int, saved: RangeSaved) -> None:
        """Take a range. Its extents become pages at once, so that only their ids are held."""
        if saved.changed and not self.changed:
            self.changed = saved.changed
        if saved.errno:
            self.errno = saved.errno
        put_meta = self.directory.source.put_meta
        pages: list[tuple[bytes, int]] = []
        size = EXTENT_ROW.size * EXTENT_PAGE_ROWS
        for at in range(0, len(saved.extents), size):
            rows = saved.extents[at : at + size]
            covered = sum(length for _, length in EXTENT_ROW.iter_unpack(rows))
            pages.append((put_meta(pack_extent_page(rows, 0)), covered))
        self._rows[start] = (pages, saved.covered if saved.covered < stop - start else -1)

    def finish(self) -> Entry:
        """The entry with its extents. What was torn ends where the first range came up short."""
        pages: list[tuple[bytes, int]] = []
        for start in sorted(self._rows):
            rows, short = self._rows[start]
            pages.extend(rows)
            if short >= 0:
                break
        size = sum(covered for _, covered in pages)
        put_meta = self.directory.source.put_meta
        level = 1
        while len(pages) > limits.EXTENT_ROWS_INLINE:
            pages = [
                (put_meta(pack_extent_page(pack_extents(part), level)), sum(n for _, n in part))
                for part in _slices(pages, EXTENT_PAGE_ROWS)
            ]
            level += 1
        return msgspec.structs.replace(
            self.entry, size=size, extents=pack_extents(pages), extent_level=level
        )


def _slices(rows: list[tuple[bytes, int]], size: int) -> Iterable[list[tuple[bytes, int]]]:
    return (rows[at : at + size] for at in range(0, len(rows), size))


class SourceAssembly:
    """One source of a job: its pending directories, figures, problems and, in the end, its root."""

    def __init__(self, number: int, put_meta: PutMeta) -> None:
        self.number = number
        self.put_meta = put_meta
        self.root: Entry | None = None
        self.files = 0
        self.directories = 0
        self.bytes_source = 0
        self.bytes_read = 0
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
            above.add(entry)
            above.waiting -= 1
            directory = above

    def left_out(self, directory: PendingDirectory, entry: Entry | None) -> None:
        """A directory is not entered: its entry says why, or it is gone (None)."""
        if directory.above is not None:
            if entry is not None:
                self.directories += 1
                directory.above.add(entry)
            self.arrived(directory.above)

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


def names_of(run: Run) -> list[tuple[bytes, bool]]:
    """The names of a run's entries, as a task takes them."""
    return [(entry.name, entry.kind == Kind.FILE) for entry in entries_of((run,))]
