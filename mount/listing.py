"""A listing: the entries of a directory as a restore takes them: what is damaged is left out.

One damaged page does not hide the others, and no name comes twice: a repository that holds a
name as a symlink and once more as a directory is told, and only the first of them is restored.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from operator import attrgetter
from typing import Final

from mount.target import check_name
from repo.errors import Damaged
from repo.format.node import Entry, Node, Run, check_total, parse_entries, parse_page
from repo.reader import Reader
from repo.types import ChunkId

OnDamage = Callable[[Damaged], None]

_ID_MAX: Final = (1 << 32) - 2  # one more would mean "leave as it is"
_U32_MAX: Final = (1 << 32) - 1
_OFFSET_MAX: Final = (1 << 63) - 1


def listing(reader: Reader, directory: Entry, on_damage: OnDamage) -> Iterator[Entry]:
    """The entries of a directory in the order of names. What cannot be had goes to `on_damage`."""
    if not directory.node:
        return
    where = f"node {directory.node.hex()[:16]}"
    try:
        node = Node.parse(reader.chunk(ChunkId(directory.node)), where=where)
        check_total(node.totals.entries, directory.entries_below, where=where)
    except Damaged as damage:
        on_damage(damage)
        return
    before = b""
    left = directory.entries_below
    for entry in _merged(reader, node, on_damage):
        left -= 1 + entry.entries_below
        if left < 0:  # whoever went on could come by here again, without an end
            on_damage(
                Damaged(
                    f"a tree's totals do not add up at {entry.name!r}",
                    where=where,
                    next_step="run `repo verify`",
                )
            )
            return
        if entry.name <= before:
            on_damage(
                Damaged(
                    f"a node holds the name {entry.name!r} twice or out of order",
                    where=where,
                    next_step="run `repo verify`",
                )
            )
            continue
        before = entry.name
        yield entry


def _merged(reader: Reader, node: Node, on_damage: OnDamage) -> Iterable[Entry]:
    """The entries of both runs by name."""
    runs = [_run(reader, run, on_damage) for run in (node.joined, node.listed) if run.total]
    if len(runs) == 1:
        return runs[0]
    if not (node.joined.pages or node.listed.pages):  # in memory as they are
        return sorted([entry for run in runs for entry in run], key=attrgetter("name"))
    return heapq.merge(*runs, key=attrgetter("name"))


def _run(reader: Reader, run: Run, on_damage: OnDamage) -> Iterator[Entry]:
    if not run.pages:
        try:
            yield from parse_entries(run.entries, where="node")
        except Damaged as damage:
            on_damage(damage)
        return
    for page in run.pages:
        try:
            entries = parse_page(reader.chunk(ChunkId(page.id)), where=f"page {page.id.hex()[:16]}")
        except Damaged as damage:
            on_damage(damage)
            continue
        yield from entries


def check_entry(entry: Entry) -> None:
    """A second look at what a node says, before the kernel is asked: raises Damaged.

    The parser has refused such names already; here they are refused whoever made the entry.
    """
    check_name(entry.name)
    if (
        not 0 <= entry.uid <= _ID_MAX
        or not 0 <= entry.gid <= _ID_MAX
        or not 0 <= entry.size <= _OFFSET_MAX
        or not 0 <= entry.flags <= _U32_MAX
        or not 0 <= entry.rdev <= _OFFSET_MAX
        or b"\0" in entry.target
        or any(b"\0" in name for name, _ in entry.xattrs)
    ):
        raise Damaged(
            f"the entry {entry.name!r} holds what no file system can",
            where="node",
            next_step="run `repo verify`",
        )
