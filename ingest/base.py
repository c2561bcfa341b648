"""A base: a tree that an ingest compares its source with: a complete point's, or what an
unfinished run left of one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from operator import attrgetter
from typing import Final, NamedTuple

from ingest.changes.changesource import Plan, Verdict
from ingest.channel import Run
from ingest.lacking import Lacking
from ingest.snapshots.snapshot import Snapshot
from ingest.task import BaseRun, Path
from repo.format.manifest import Point, Problem, parse_problems
from repo.format.node import (
    Entry,
    Node,
    PageRow,
    pack_entries,
    page_run,
    parse_entries,
    parse_page,
)
from repo.format.place import Place
from repo.repository import Repository
from repo.tree import Tree
from repo.types import ChunkId, Kind

RACY_NS: Final = 2_000_000_000
"""A file may change twice within one tick of its clock, and keep its ctime the second time. The
coarsest clock of a file system that Linux knows ticks every 2 s."""

FORCED_MAX: Final = 10_000
"""So many names are looked at again for their problems in the base; with more it is no base."""

UNFINISHED_USED: Final = 4
"""So many unfinished runs, the newest, are asked for what they have read."""

UNFINISHED_STEP: Final = "unfinished"
"""The step of a problem that says: of this large file the point has the beginning only."""

_NO_LIMIT: Final = (1 << 63) - 1
_DIRECTORY: Final = Kind.DIRECTORY


@dataclass(frozen=True, slots=True, eq=False)
class BaseTree:
    """The tree of a point that is compared with. `limit_ns`: see `BaseRun`."""

    point: Point
    tree: Tree
    limit_ns: int


class BaseEntry(NamedTuple):
    """The entry of a directory in one of the trees, and where its node lies, once looked up."""

    base: BaseTree
    entry: Entry
    place: Place | None = None


class Forced:
    """Names that had problems in the base: what it says of them is not believed."""

    def __init__(self, paths: Sequence[bytes] = ()) -> None:
        self._names: dict[bytes, set[bytes]] = {}
        self._ways: dict[bytes, set[bytes]] = {}
        self.top = b"." in paths
        """Whether the root itself is among them."""
        for path in paths:
            if path == b".":
                continue
            above, _, name = path.rpartition(b"/")
            self._names.setdefault(above, set()).add(name)
            while above:
                above, _, name = above.rpartition(b"/")
                self._ways.setdefault(above, set()).add(name)

    def names(self, path: Path) -> frozenset[bytes]:
        """The names in a directory."""
        return frozenset(self._names.get(b"/".join(path), ())) if self._names else frozenset()

    def concerns(self, path: bytes) -> bool:
        """Whether a directory is among them, or holds one of them itself. b"": the root."""
        if not path:
            return self.top or b"" in self._names
        above, _, name = path.rpartition(b"/")
        return path in self._names or name in self._names.get(above, ())

    def ways(self, path: Path) -> frozenset[bytes]:
        """The sub-directories of a directory below which there are such names."""
        return frozenset(self._ways.get(b"/".join(path), ())) if self._ways else frozenset()


@dataclass(frozen=True, slots=True)
class Foundation:
    """What a source's ingest builds on: a plan from a base, and what unfinished runs have read.

    `base` is None when there is none; then there is no plan either. `plan_seconds`: how long it
    took to find out what changed. `unchanged_paths`: the directories that a survey found as they
    are in the base, with all below them.
    """

    base: BaseTree | None = None
    plan: Plan | None = None
    unfinished: Sequence[BaseTree] = ()
    forced: Forced = field(default_factory=Forced)
    plan_seconds: float = 0.0
    lacking: Lacking | None = None
    """While the index is in doubt: asked for files of which content is missing."""
    unchanged_paths: frozenset[bytes] = frozenset()
    files_audited: int = 0

    @property
    def unchanged(self) -> bool:
        """Whether a survey found the whole source as it is in the base."""
        return b"" in self.unchanged_paths

    @property
    def exact(self) -> bool:
        """Whether the file system itself says what changed."""
        return self.plan is not None and self.plan.verdict is Verdict.EXACT

    @property
    def trees(self) -> list[BaseTree]:
        """All trees to compare with; what the later ones say counts more."""
        return [*([self.base] if self.base else []), *self.unfinished]


class BaseDirectory:
    """A directory of a base, its node read. Raises Damaged."""

    def __init__(self, found: BaseEntry) -> None:
        self.base = found.base
        self.entry = found.entry
        self.node: Node = found.base.tree.node(found.entry, found.place)
        self._page = -1
        self._joined: dict[bytes, Entry] = {}
        self._files: list[Entry] = []
        if not self.node.joined.pages:
            self._take(parse_entries(self.node.joined.entries, where="a base"))

    def _take(self, entries: list[Entry]) -> None:
        self._joined = {entry.name: entry for entry in entries}
        self._files = [entry for entry in entries if entry.kind != _DIRECTORY]

    def joined(self) -> Iterator[Entry]:
        """Sub-directories and whatever else is in the joined run."""
        if not self.node.joined.pages:
            yield from self._joined.values()
        for page in self.node.joined.pages:
            yield from self._read(page)

    def find(self, name: bytes) -> Entry | None:
        """The sub-directory of that name. Asked in the order of names a page is read once."""
        pages = self.node.joined.pages
        if pages:
            number = max(0, bisect_right(pages, name, key=attrgetter("first_name")) - 1)
            if number != self._page:
                self._take(self._read(pages[number]))
                self._page = number
        entry = self._joined.get(name)
        return entry if entry is not None and entry.kind == _DIRECTORY else None

    def runs(self, first: bytes, last: bytes, *, exact: bool) -> list[BaseRun]:
        """The entries that are no directories, with names from `first` to `last` among them."""
        limit = self.base.limit_ns
        runs: list[BaseRun] = []
        listed, joined = self.node.listed, self.node.joined
        if listed.pages:
            for page in _between(listed.pages, first, last):
                _, packed = page_run(self.base.tree.chunk(page.id), where=_where(page))
                runs.append(BaseRun(packed, limit, exact))
        else:  # also when it is empty: the first run is always the listed one
            runs.append(BaseRun(listed.entries, limit, exact))
        files = self._files
        if joined.pages:
            rows = [e for page in _between(joined.pages, first, last) for e in self._read(page)]
            files = [entry for entry in rows if entry.kind != _DIRECTORY]
        if files:
            runs.append(BaseRun(pack_entries(files), limit, exact))
        return runs

    @property
    def bounds(self) -> tuple[bytes, ...]:
        """The first names of the pages of the listed run; () when it has none."""
        return tuple(page.first_name for page in self.node.listed.pages)

    def page_of(self, name: bytes) -> PageRow | None:
        """The page of the listed run in which a name is, or would be."""
        pages = self.node.listed.pages
        number = bisect_right(pages, name, key=attrgetter("first_name")) - 1
        return pages[number] if number >= 0 else None

    def page_names(self, page: PageRow) -> frozenset[bytes]:
        """The names in a page of the listed run."""
        return frozenset(entry.name for entry in self._read(page))

    def whole_run(self) -> Run:
        """The listed run, which must not be paged, as if a worker had sent it."""
        listed = self.node.listed
        entries = parse_entries(listed.entries, where="a base")
        size = sum(entry.size for entry in entries)
        return Run(entries[0].name, listed.total, listed.entries, size)

    def _read(self, page: PageRow) -> list[Entry]:
        data = self.base.tree.chunk(page.id)
        return parse_page(data, where=_where(page))


def _where(page: PageRow) -> str:
    return f"page {page.id.hex()[:16]}"


def _between(pages: Sequence[PageRow], first: bytes, last: bytes) -> Sequence[PageRow]:
    key = attrgetter("first_name")
    start = max(0, bisect_right(pages, first, key=key) - 1)
    return pages[start : bisect_right(pages, last, key=key)]


def selection_of(exclusions: bytes, *, exclude_caches: bool, one_file_system: bool) -> bytes:
    """16 bytes that stand for all that decides what of a source is in its point."""
    data = b"%d%d%b" % (exclude_caches, one_file_system, exclusions)
    return blake2b(data, digest_size=16, person=b"repo selection").digest()


def limit_of(point: Point, snapshot: Snapshot) -> int:
    """The ctime from which on a file may hold what a point has not.

    A frozen snapshot that is read a second time holds what it held.
    """
    record = snapshot.record()
    same = (record.provider, record.identity) == (point.snapshot.provider, point.snapshot.identity)
    if snapshot.frozen and same:
        return _NO_LIMIT
    return (point.base_record.taken_ns or point.created_ns) - RACY_NS


def unfinished_of(repository: Repository, source_id: str, after: Point | None) -> list[Point]:
    """The unfinished points of a source that were begun after a complete one, oldest first."""
    found = repository.unfinished(on_damage=lambda _damage: None)
    begun = after.created_ns if after is not None else -1
    fitting = [p for p in found if p.source_id == source_id and p.created_ns > begun]
    return fitting[-UNFINISHED_USED:]


def problems_of(repository: Repository, point: Point) -> Iterator[Problem]:
    """The problems of a point. Raises Damaged."""
    for chunk_id in point.problems:
        data = bytes(repository.reader.chunk(ChunkId(chunk_id)))
        yield from parse_problems(data, where=f"problems of point {point.id.hex()[:8]}")
