"""A directory in the making: sorted entries become a node, pages of it as soon as they are full."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from repo.format import limits
from repo.format.node import (
    EMPTY_RUN,
    Entry,
    Node,
    PageRow,
    Run,
    Totals,
    pack_entries,
    pack_page,
)
from repo.types import ChunkId, Kind

PutMeta = Callable[[bytes], ChunkId]
"""Stores a node or page; gives its id."""


class DirectoryMaker:
    """Takes the entries of one directory by name. Holds one page at most."""

    def __init__(self, put_meta: PutMeta) -> None:
        self._put_meta = put_meta
        self._part: list[Entry] = []
        self._weight = 0
        self._pages: list[PageRow] = []
        self._totals = Totals()
        self._directories = 0

    def add(self, entry: Entry) -> None:
        """Take the next entry; its name is above all before."""
        self._part.append(entry)
        if entry.kind == Kind.DIRECTORY:
            self._directories += 1 + entry.directories_below
        self._weight += entry_weight(entry)
        full = len(self._part) >= limits.PAGE_ENTRIES_MAX
        if full or self._weight >= limits.PAGE_BYTES_TARGET:
            self._close_page()

    def finish(self, directory: Entry) -> Entry:
        """The entry of the directory with its node, which is stored."""
        if self._pages:
            if self._part:
                self._close_page()
            run = Run(sum(page.count for page in self._pages), pages=tuple(self._pages))
            totals = self._totals
        else:
            run = Run(len(self._part), pack_entries(self._part))
            totals = totals_of(self._part)
        node = Node(run, EMPTY_RUN, totals)
        return msgspec.structs.replace(
            directory,
            node=self._put_meta(node.pack()),
            entries_below=totals.entries,
            bytes_below=totals.bytes,
            directories_below=self._directories,
            absent="",
        )

    def _close_page(self) -> None:
        part = self._part
        totals = totals_of(part)
        page_id = self._put_meta(pack_page(pack_entries(part), len(part)))
        row = PageRow(part[0].name, page_id, len(part), totals.entries, totals.bytes)
        self._pages.append(row)
        self._totals = self._totals.plus(totals.entries, totals.bytes)
        self._part = []
        self._weight = 0


def entry_weight(entry: Entry) -> int:
    """About how many bytes an entry takes in a page."""
    attributes = sum(len(name) + len(value) for name, value in entry.xattrs)
    return 160 + len(entry.extents) + attributes


def totals_of(entries: list[Entry]) -> Totals:
    """What entries and all below them add up to."""
    return Totals(
        sum(1 + entry.entries_below for entry in entries),
        sum(entry.bytes_below if entry.node else entry.size for entry in entries),
    )
