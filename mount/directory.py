"""A directory: its entries in the mount's order, found by name, by position or by rank.

A directory belongs to a node, not to a place in a tree: ranks are counted from whatever
directory has this node, so that all of them, in all points, share what was parsed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import NamedTuple

from repo.errors import Damaged
from repo.format.node import Entry, Node, Run, parse_entries, parse_page
from repo.types import Kind

_name = attrgetter("name")


Child = tuple[Entry, int]
"""An entry, and its rank counted from the directory's. (A plain tuple: there are so many.)"""


class Part:
    """A whole run or one page: entries sorted by name, with ranks from the first entry's on."""

    __slots__ = ("_ranks", "entries", "total")

    def __init__(self, entries: list[Entry]) -> None:
        self.entries = entries
        self._ranks: list[int] | None = None
        self.total = len(entries)
        if any(entry.entries_below for entry in entries):
            self._ranks = ranks = []
            rank = 0
            for entry in entries:
                if entry.entries_below < 0:
                    raise Damaged("an entry's totals are damaged", where=repr(entry.name))
                ranks.append(rank)
                rank += 1 + entry.entries_below
            self.total = rank

    def rank(self, index: int) -> int:
        """The rank of an entry, counted from the first one."""
        return index if self._ranks is None else self._ranks[index]

    def children(self, start: int, first: int) -> Iterator[Child]:
        """The entries from an index on; `first` is the rank of the part's first entry."""
        entries = self.entries[start:] if start else self.entries
        if self._ranks is None:
            return zip(entries, range(first + start, first + len(self.entries)), strict=True)
        return (
            (entry, first + rank) for entry, rank in zip(entries, self._ranks[start:], strict=True)
        )

    def index_of_rank(self, rank: int) -> int:
        """The entry of this rank, or whose subtree holds it."""
        return rank if self._ranks is None else bisect_right(self._ranks, rank) - 1

    def index_of_name(self, name: bytes) -> int:
        """The entry of this name, or -1."""
        index = bisect_right(self.entries, name, key=_name) - 1
        return index if index >= 0 and self.entries[index].name == name else -1


PartReader = Callable[[bytes], Part]
"""Gives the part that a page holds, by the page's id."""


class _Slot(NamedTuple):
    """Where a part stands in its directory, and what it is read from (a page, or here already)."""

    first_name: bytes
    page_id: bytes
    part: Part | None
    entries: int
    total: int


class Directory:
    """The entries of a directory: first the joined run, then the listed run."""

    __slots__ = ("_positions", "_ranks", "_runs", "_slots", "length", "total", "weight")

    def __init__(self, node: Node, *, where: str) -> None:
        """Raises Damaged when the totals of the node do not add up."""
        joined, listed = _slots(node.joined, where), _slots(node.listed, where)
        self._slots = joined + listed
        self._runs = ((0, len(joined)), (len(joined), len(self._slots)))
        self._positions: list[int] = []
        self._ranks: list[int] = []
        self.length = 0
        self.total = 0
        for slot in self._slots:
            self._positions.append(self.length)
            self._ranks.append(1 + self.total)
            self.length += slot.entries
            self.total += slot.total
        if self.total != node.totals.entries:
            raise Damaged(
                "a node's totals do not add up", where=where, next_step="run `repo verify`"
            )
        self.weight = 1 + sum(len(slot.part.entries) if slot.part else 1 for slot in self._slots)
        """Roughly how many entries are held in memory."""

    @classmethod
    def parse(cls, data: memoryview, *, where: str) -> Directory:
        """The directory of the node in a chunk. Raises Damaged."""
        return cls(Node.parse(data, where=where), where=where)

    def by_name(self, name: bytes, read: PartReader) -> Child | None:
        """The entry of that name, by bisection of the pages' first names."""
        for start, stop in self._runs:
            number = bisect_right(self._slots, name, start, stop, key=_first_name) - 1
            if number >= start:
                part = self._part(number, read)
                index = part.index_of_name(name)
                if index >= 0:
                    return part.entries[index], self._ranks[number] + part.rank(index)
        return None

    def by_rank(self, rank: int, read: PartReader) -> Child:
        """The entry of that rank (counted from the directory's), or whose subtree holds it."""
        if not 1 <= rank <= self.total:
            raise IndexError(rank)
        number = bisect_right(self._ranks, rank) - 1
        part = self._part(number, read)
        index = part.index_of_rank(rank - self._ranks[number])
        return part.entries[index], self._ranks[number] + part.rank(index)

    def position_of(self, rank: int, read: PartReader) -> int:
        """The position (from 0) of the entry of that rank, or whose subtree holds it."""
        number = bisect_right(self._ranks, rank) - 1
        part = self._part(number, read)
        return self._positions[number] + part.index_of_rank(rank - self._ranks[number])

    def children(self, position: int, read: PartReader) -> Iterator[Child]:
        """The entries from a position on."""
        if position >= self.length:
            return
        number = bisect_right(self._positions, position) - 1
        for at in range(number, len(self._slots)):
            part = self._part(at, read)
            start = max(0, position - self._positions[at])
            yield from part.children(start, self._ranks[at])

    def directories(self) -> Iterator[Entry]:
        """Those sub-directories that are in memory already: not those in pages."""
        for slot in self._slots[: self._runs[0][1]]:
            if slot.part is not None:
                yield from (entry for entry in slot.part.entries if is_open_directory(entry))

    def _part(self, number: int, read: PartReader) -> Part:
        slot = self._slots[number]
        if slot.part is not None:
            return slot.part
        part = read(slot.page_id)
        if len(part.entries) != slot.entries or part.total != slot.total:
            raise Damaged(
                "a node's page does not add up",
                where=f"page {slot.page_id.hex()[:16]}",
                next_step="run `repo verify`",
            )
        return part


def _first_name(slot: _Slot) -> bytes:
    return slot.first_name


def _slots(run: Run, where: str) -> list[_Slot]:
    if run.pages:
        return [
            _Slot(page.first_name, page.id, None, page.count, page.entries_below)
            for page in run.pages
        ]
    if not run.total:
        return []
    part = Part(parse_entries(run.entries, where=where))
    if len(part.entries) != run.total:
        raise Damaged("a node's count is wrong", where=where, next_step="run `repo verify`")
    return [_Slot(b"", b"", part, len(part.entries), part.total)]


def parse_part(data: memoryview, *, where: str) -> Part:
    """The part in a page's chunk. Raises Damaged."""
    return Part(parse_page(data, where=where))


def is_open_directory(entry: Entry) -> bool:
    """Whether an entry is a directory whose content is in the point."""
    return entry.kind == Kind.DIRECTORY and bool(entry.node)
