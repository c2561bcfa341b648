"""The vfs: what backup points look like as a tree of files, stated once.

It knows nothing of FUSE: whoever shows files to a kernel, restores or tests them reads through
it. A `Vfs` is a set of branches, a branch is a point at some place in the tree. Nothing is
built when a branch is made; memory is bounded whatever is looked at. All methods may raise
Damaged and, with the source of a mount, `Blocked` (see mount/source.py). Not thread-safe.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from itertools import islice, pairwise
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

from mount import inodes
from mount.content import Content, fingerprint
from mount.directory import Child, Directory, Part, is_open_directory, parse_part
from mount.inodes import HardLinks, Identity
from mount.source import ChunkSource
from repo.errors import Damaged
from repo.format import limits
from repo.format.node import Entry
from repo.types import ChunkId, Kind

ENTRIES_HELD: Final = 40_000
"""Entries of directories kept parsed (some 600 bytes each)."""

NEAR_HELD: Final = 16
"""Directories of a point from which a descent may begin instead of the root."""

PLACES_AT_ONCE: Final = 1024
"""Places of nodes that are looked up beforehand."""

SEARCHED_HELD: Final = 4096
"""Hard links that had to be searched for."""

ROWS_HELD: Final = 200_000
"""Rows of extents kept parsed, of all files together."""


class Found(NamedTuple):
    """An entry and its inode number; together with the generation it is unique for ever.

    link: of a file with several links, what it is and the rank of this name.
    changes: the name may stand for something else in a second.
    """

    number: int
    entry: Entry
    generation: int = 0
    link: tuple[Identity, int] | None = None
    changes: bool = False


Listed = tuple[bytes, Found]
"""A name in a directory and what it stands for. (A plain tuple: there are so many.)"""


class FileTree(Protocol):
    """A tree of files by inode numbers: a point, or a repository's points in folders.

    KeyError: there is no such number (any more). Positions in a directory count from 0.
    """

    def found(self, number: int) -> Found:
        """What has this number."""
        ...

    def lookup(self, number: int, name: bytes) -> Found | None:
        """What has this name in a directory; None when nothing has."""
        ...

    def children(self, number: int, position: int) -> Iterator[Listed]:
        """The entries of a directory from a position on."""
        ...

    def parent(self, number: int) -> Found:
        """The directory that holds this one; that of the root is the root itself."""
        ...

    def path(self, number: int) -> bytes:
        """Where something lies, for messages."""
        ...

    def content(self, number: int) -> Content:
        """The content of a file."""
        ...

    def branch(self, number: int) -> Branch | None:
        """The point that a number belongs to, if it belongs to one."""
        ...

    def hold(self, found: Found) -> None:
        """The kernel was told of this entry, once more."""
        ...

    def forget(self, forgotten: Iterable[tuple[int, int]]) -> None:
        """The kernel gives numbers back: (number, how many times)."""
        ...


class Walked(NamedTuple):
    """An entry met on a walk, and the directory that holds it."""

    rank: int
    entry: Entry
    directory: Entry


class _Step(NamedTuple):
    """A directory on the way down: its entry and its rank in the point."""

    entry: Entry
    rank: int


K = TypeVar("K")
V = TypeVar("V")


class WeightedCache(Generic[K, V]):
    """The values used last, up to a total weight."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._weight = 0
        self._values: OrderedDict[K, tuple[V, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: K) -> V | None:
        """A value that is there."""
        held = self._values.get(key)
        if held is None:
            return None
        self._values.move_to_end(key)
        return held[0]

    def put(self, key: K, value: V, weight: int) -> None:
        """Keep a value; the least recently used ones go. The newest stays whatever it weighs."""
        old = self._values.pop(key, None)
        if old is not None:
            self._weight -= old[1]
        self._values[key] = (value, weight)
        self._weight += weight
        while self._weight > self._most and len(self._values) > 1:
            _, (_, gone) = self._values.popitem(last=False)
            self._weight -= gone


class Memory:
    """What all branches of a mount share: parsed nodes and pages, which belong to no place."""

    def __init__(self, source: ChunkSource) -> None:
        self.source = source
        self.links = HardLinks()
        self.searched: dict[int, int | None] = {}
        self._directories: WeightedCache[bytes, Directory] = WeightedCache(ENTRIES_HELD // 2)
        self._parts: WeightedCache[bytes, Part] = WeightedCache(ENTRIES_HELD // 2)
        self._contents: WeightedCache[object, Content] = WeightedCache(ROWS_HELD)

    def directory(self, entry: Entry) -> Directory:
        """The content of a directory that is in the point."""
        directory = self._directories.get(entry.node)
        if directory is None:
            data = self.source.chunk(ChunkId(entry.node))
            directory = Directory.parse(data, where=f"node {entry.node.hex()[:16]}")
            self._directories.put(entry.node, directory, directory.weight)
            self._place_below(directory)
        if directory.total != entry.entries_below:
            raise Damaged(
                "a directory's totals are not those of its node",
                where=repr(entry.name),
                next_step="run `repo verify`",
            )
        return directory

    def part(self, page_id: bytes) -> Part:
        """The entries of a page."""
        part = self._parts.get(page_id)
        if part is None:
            data = self.source.chunk(ChunkId(page_id))
            part = parse_part(data, where=f"page {page_id.hex()[:16]}")
            self._parts.put(page_id, part, len(part.entries))
        return part

    def content(self, key: object, entry: Entry) -> Content:
        """The content of a file; `key` stands for nothing else as long as the mount lives."""
        content = self._contents.get(key)
        if content is None:
            content = Content(entry)
            pages = 1024 * 16 if entry.extent_level else 0
            self._contents.put(key, content, 8 + len(entry.extents) // 40 + pages)
        return content

    def known_content(self, key: object) -> Content | None:
        """The content of a file that was opened a short while ago."""
        return self._contents.get(key)

    def _place_below(self, directory: Directory) -> None:
        """Look up where the nodes of all sub-directories lie: at once it costs a fraction."""
        nodes = [ChunkId(entry.node) for entry in islice(directory.directories(), PLACES_AT_ONCE)]
        if len(nodes) > 1:
            self.source.places(nodes)


class Branch:
    """A point as a tree of files, with the numbers that begin with `base`. A FileTree."""

    def __init__(self, root: Entry, base: int, memory: Memory, *, generation: int = 0) -> None:
        """Raises Damaged when the point claims more entries than there are numbers."""
        inodes.of_rank(base, root.entries_below)
        self.root = root
        self.base = base
        self._memory = memory
        self._generation = generation
        self._near: deque[_Step] = deque(maxlen=NEAR_HELD)
        self._last = _Step(root, 0)

    def found(self, number: int) -> Found:
        """See FileTree."""
        return Found(number, self._entry(number), self._generation)

    def lookup(self, number: int, name: bytes) -> Found | None:
        """See FileTree."""
        directory = self._entry(number)
        if not is_open_directory(directory):
            return None
        memory = self._memory
        child = memory.directory(directory).by_name(name, memory.part)
        if child is None:
            return None
        return self._found(directory, inodes.rank_of(number - self.base), child)

    def children(self, number: int, position: int) -> Iterator[Listed]:
        """See FileTree."""
        directory = self._entry(number)
        if not is_open_directory(directory):
            return
        memory = self._memory
        inside = memory.directory(directory)
        rank_above = inodes.rank_of(number - self.base)
        self._remember(_Step(directory, rank_above))
        number_above, generation = number, self._generation
        for child in inside.children(position, memory.part):
            entry, rank = child
            if entry.nlink > 1 and entry.kind != Kind.DIRECTORY:
                yield entry.name, self._found(directory, rank_above, child)
            else:
                yield entry.name, Found(number_above + rank, entry, generation)

    def parent(self, number: int) -> Found:
        """See FileTree."""
        rank = self.rank(number)
        above = self._locate(rank)[0] if rank else _Step(self.root, 0)
        return Found(inodes.of_rank(self.base, above.rank), above.entry, self._generation)

    def path(self, number: int) -> bytes:
        """See FileTree."""
        steps = self._descend(self.rank(number))
        return b"/".join([step.entry.name for step in steps]) or b"/"

    def content(self, number: int) -> Content:
        """See FileTree."""
        memory = self._memory
        key: object = number
        if inodes.split(number).is_link:
            # Such a number may be another file's when the kernel has given it back.
            key = memory.links.identity(number)
            if key is None:
                return Content(self._entry(number))
        return memory.known_content(key) or memory.content(key, self._entry(number))

    def branch(self, number: int) -> Branch | None:
        """See FileTree."""
        return self

    def hold(self, found: Found) -> None:
        """See FileTree."""
        if found.link is not None:
            self._memory.links.hold(found.number, *found.link)

    def forget(self, forgotten: Iterable[tuple[int, int]]) -> None:
        """See FileTree."""
        self._memory.links.forget(forgotten)

    def _entry(self, number: int) -> Entry:
        rank = self.rank(number)
        return self._locate(rank)[1] if rank else self.root

    def _locate(self, rank: int) -> tuple[_Step, Entry]:
        """The directory that holds the entry of a rank above 0, and the entry."""
        if not 0 < rank <= self.root.entries_below:
            raise KeyError(rank)
        above = self._last
        if not above.rank < rank <= above.rank + above.entry.entries_below:
            above = _Step(self.root, 0)
            for near in self._near:
                if above.rank < near.rank < rank <= near.rank + near.entry.entries_below:
                    above = near
        while True:
            below = self._step_down(above, rank)
            if below.rank == rank:
                self._last = above
                return above, below.entry
            above = below
            self._remember(above)

    def _remember(self, step: _Step) -> None:
        """Descents into this directory begin here for a while."""
        rank = step.rank
        for near in self._near:
            if near.rank == rank:
                return
        self._near.append(step)

    def _step_down(self, above: _Step, rank: int) -> _Step:
        """The entry in a directory that has a rank, or whose subtree holds it."""
        if not is_open_directory(above.entry):
            raise Damaged("a tree's totals do not add up", where=repr(above.entry.name))
        memory = self._memory
        entry, below = memory.directory(above.entry).by_rank(rank - above.rank, memory.part)
        return _Step(entry, above.rank + below)

    def rank(self, number: int) -> int:
        """The rank of an entry, or of one name of a hard link. KeyError when there is none."""
        parts = inodes.split(number)
        if not parts.is_link:
            return inodes.rank_of(parts.low)
        rank = self._memory.links.rank(number)
        return self._search(number) if rank is None else rank

    def walk(self, rank: int) -> Iterator[Walked]:
        """The entries behind a rank, in the order of ranks."""
        memory = self._memory
        steps = self._descend(rank)
        levels: list[tuple[_Step, Iterator[Child]]] = []
        for step, below in pairwise(steps):
            inside = memory.directory(step.entry)
            position = inside.position_of(below.rank - step.rank, memory.part) + 1
            levels.append((step, inside.children(position, memory.part)))
        if is_open_directory(steps[-1].entry):
            inside = memory.directory(steps[-1].entry)
            levels.append((steps[-1], inside.children(0, memory.part)))
        while levels:
            step, children = levels[-1]
            child = next(children, None)
            if child is None:
                levels.pop()
                continue
            here = _Step(child[0], step.rank + child[1])
            yield Walked(here.rank, here.entry, step.entry)
            if is_open_directory(here.entry):
                inside = memory.directory(here.entry)
                levels.append((here, inside.children(0, memory.part)))

    def directory_of(self, rank: int) -> Entry:
        """The directory that holds the entry of a rank above 0."""
        return self._locate(rank)[0].entry

    def folder_behind(self, number: int) -> int | None:
        """The next directory in the order of ranks, as far as that is easily told."""
        rank = self.rank(number)
        steps = self._descend(rank)
        inside = steps[-1]
        if is_open_directory(inside.entry) and inside.entry.entries_below:
            below = self._step_down(inside, rank + 1)
            if is_open_directory(below.entry):
                return inodes.of_rank(self.base, below.rank)
        for above, inside in reversed(list(pairwise(steps))):
            beside = inside.rank + 1 + inside.entry.entries_below
            if beside <= above.rank + above.entry.entries_below:
                step = self._step_down(above, beside)
                if is_open_directory(step.entry):
                    return inodes.of_rank(self.base, step.rank)
        return None

    def number_of(self, walked: Walked) -> int:
        """The number of an entry met on a walk."""
        identity = _link_identity(walked.directory, walked.entry)
        if identity is None:
            return inodes.of_rank(self.base, walked.rank)
        return self._memory.links.number(self.base, identity)

    def content_of(self, walked: Walked) -> Content:
        """The content of a file met on a walk."""
        identity = _link_identity(walked.directory, walked.entry)
        key = inodes.of_rank(self.base, walked.rank) if identity is None else identity
        return self._memory.content(key, walked.entry)

    def _found(self, directory: Entry, rank_above: int, child: Child) -> Found:
        entry, rank = child[0], rank_above + child[1]
        identity = _link_identity(directory, entry)
        if identity is None:
            return Found(inodes.of_rank(self.base, rank), entry, self._generation)
        shared = self._memory.links.number(self.base, identity)
        return Found(shared, entry, self._generation, (identity, rank))

    def _descend(self, rank: int) -> list[_Step]:
        """The way from the root to a rank, both included."""
        if not 0 <= rank <= self.root.entries_below:
            raise KeyError(rank)
        steps = [_Step(self.root, 0)]
        while steps[-1].rank != rank:
            if len(steps) > limits.TREE_DEPTH_MAX:
                raise Damaged("a tree is too deep", where=repr(steps[-1].entry.name))
            steps.append(self._step_down(steps[-1], rank))
        return steps

    def _search(self, number: int) -> int:
        """The rank of a hard link that the kernel was not told of since the mount began."""
        memory = self._memory
        if number not in memory.searched:
            source = memory.source.blocking()

            def search() -> None:
                if len(memory.searched) >= SEARCHED_HELD:
                    memory.searched.clear()
                memory.searched[number] = Branch(self.root, self.base, Memory(source)).find(number)

            memory.source.work(search)
        rank = memory.searched[number]
        if rank is None:
            raise KeyError(number)
        return rank

    def find(self, number: int) -> int | None:
        """The rank of the first name with this number, by looking at all entries."""
        for walked in self.walk(0):
            if self.number_of(walked) == number:
                return walked.rank
        return None


def _link_identity(directory: Entry, entry: Entry) -> Identity | None:
    """What a file with several links has in common with its other names."""
    if entry.nlink > 1 and entry.kind != Kind.DIRECTORY:
        return Identity(directory.volume, entry.inode, fingerprint(entry))
    return None
