"""Branches: a node's entries page by page, so that one damaged page costs no other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from repo.errors import Damaged, RepositoryFailed
from repo.format.node import Entry, Node, PageRow, Run, parse_entries, parse_page
from repo.reader import Reader
from repo.types import ChunkId

UNREADABLE = (Damaged, RepositoryFailed)
"""What reading a chunk of a repository raises when it cannot be had."""


class Branch(NamedTuple):
    """One page of a run, or a whole run that has none. `failure`: why there are no entries."""

    entries: list[Entry]
    page: PageRow | None = None
    failure: Damaged | RepositoryFailed | None = None


def read_node(reader: Reader, node_id: bytes) -> Node:
    """A node by its id. Raises Damaged or RepositoryFailed."""
    where = f"node {node_id.hex()[:16]}"
    return Node.parse(reader.chunk(ChunkId(node_id)), where=where)


def branches(reader: Reader, run: Run) -> Iterator[Branch]:
    """The branches of one run of a node, in order."""
    if not run.pages:
        try:
            yield Branch(parse_entries(run.entries, where="node"))
        except Damaged as damage:
            yield Branch([], None, damage)
        return
    for page in run.pages:
        try:
            data = reader.chunk(ChunkId(page.id))
            branch = Branch(parse_page(data, where=f"page {page.id.hex()[:16]}"), page)
        except UNREADABLE as failure:
            branch = Branch([], page, failure)
        yield branch
