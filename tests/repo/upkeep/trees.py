"""Trees from dictionaries: a model of what is in a point, and the point made of it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec
from hypothesis import strategies as st

from repo.format.manifest import Point
from repo.format.node import (
    EMPTY_RUN,
    HOLE,
    Entry,
    Node,
    PageRow,
    Run,
    Totals,
    pack_entries,
    pack_extents,
    pack_page,
)
from repo.repository import Repository
from repo.tree import Tree
from repo.types import Kind
from repo.writer import Writer
from tests.repo import made


class Item(NamedTuple):
    """What a path is: a file of some content, or a directory (None), and what else is told of it.

    The content is a byte string that stands for a chunk; `inode` names the thing for moves.
    """

    content: bytes | None
    mtime: int = 1
    inode: int = 1
    nlink: int = 1


Model = dict[bytes, Item]
"""All paths of a tree, "" for its root. Above each path lies a directory."""

PATHS = [
    b"/".join(names)
    for depth in (1, 2, 3)
    for names in itertools.product([b"a", b"b", b"c"], repeat=depth)
]


@st.composite
def models(draw: st.DrawFn) -> Model:
    """Trees of up to a dozen paths, few enough that two of them have much in common."""
    model: Model = {b"": Item(None)}
    for path in draw(st.lists(st.sampled_from(PATHS), max_size=12, unique=True)):
        above = path.rpartition(b"/")[0]
        if any(model.get(folder, Item(None)).content is not None for folder in _folders(path)):
            continue
        for folder in _folders(path):
            model.setdefault(folder, Item(None, draw(st.integers(1, 2))))
        if path in model or above not in model:
            continue
        content = draw(st.sampled_from([None, b"", b"x", b"y"]))
        model[path] = Item(content, draw(st.integers(1, 2)))
    return model


def _folders(path: bytes) -> list[bytes]:
    names = path.split(b"/")
    return [b"/".join(names[:count]) for count in range(1, len(names))]


def below(model: Mapping[bytes, Item], folder: bytes) -> Model:
    """What lies in a directory and below, with the paths from there; "" is the directory."""
    prefix = folder + b"/" if folder else b""
    inside = {path[len(prefix) :]: item for path, item in model.items() if path.startswith(prefix)}
    return inside | {b"": model[folder]}


class Maker:
    """A repository that trees are made in, and read back from."""

    def __init__(self, folder: Path, *, page_entries: int = 0) -> None:
        """page_entries: above 0 directories are made of pages of so many entries."""
        self.repository: Repository = made.make(folder)
        self.writer: Writer = self.repository.writer()
        self._page_entries = page_entries

    def close(self) -> None:
        """Close the repository."""
        self.writer.abandon()
        self.repository.close()

    @property
    def tree(self) -> Tree:
        """What reads the trees."""
        return self.repository.tree

    def root(self, model: Mapping[bytes, Item]) -> Entry:
        """A model as a tree in the repository; the entry of its root."""
        entry = self._entry(model, b"", b"")
        self.writer.commit()
        return entry

    def point(self, model: Mapping[bytes, Item], number: int, source: str = "source") -> Point:
        """A point of a model, not published; it was received at second `number`."""
        return msgspec.structs.replace(
            made.point_of(self.root(model), number), source_id=source, source_path=f"/{source}"
        )

    def _entry(self, model: Mapping[bytes, Item], path: bytes, name: bytes) -> Entry:
        item = model[path]
        kind = Kind.DIRECTORY if item.content is None else Kind.FILE
        entry = Entry(name, kind, 0o755, 0, 0, item.mtime, item.mtime, 0, item.inode, item.nlink)
        if item.content is not None:
            extents = self._extents(item.content)
            return msgspec.structs.replace(entry, size=len(item.content), extents=extents)
        prefix = path + b"/" if path else b""
        names = sorted(
            one[len(prefix) :]
            for one in model
            if one and one.startswith(prefix) and b"/" not in one[len(prefix) :]
        )
        entries = [self._entry(model, prefix + one, one) for one in names]
        node = Node(*self._runs(entries), totals_of(entries))
        return msgspec.structs.replace(
            entry,
            node=made.put(self.repository, self.writer, node.pack()),
            entries_below=node.totals.entries,
            bytes_below=node.totals.bytes,
            directories_below=directories_of(entries),
        )

    def _extents(self, content: bytes) -> bytes:
        if not content:
            return b""
        if not content.strip(b"\0"):
            return pack_extents([(HOLE, len(content))])
        key = self.repository.keys.chunk_id(content)
        self.writer.put_meta(key, content)
        return pack_extents([(key, len(content))])

    def _runs(self, entries: list[Entry]) -> tuple[Run, Run]:
        """Directories are joined, files listed, as ingest has it."""
        joined = [entry for entry in entries if entry.kind == Kind.DIRECTORY]
        listed = [entry for entry in entries if entry.kind != Kind.DIRECTORY]
        if self._page_entries:
            return self._paged(joined), self._paged(listed)
        return Run(len(joined), pack_entries(joined)), Run(len(listed), pack_entries(listed))

    def _paged(self, entries: list[Entry]) -> Run:
        if not entries:
            return EMPTY_RUN
        pages = []
        for at in range(0, len(entries), self._page_entries):
            part = entries[at : at + self._page_entries]
            packed = pack_page(pack_entries(part), len(part))
            page_id = made.put(self.repository, self.writer, packed)
            totals = totals_of(part)
            pages.append(PageRow(part[0].name, page_id, len(part), totals.entries, totals.bytes))
        return Run(len(entries), pages=tuple(pages))


def totals_of(entries: list[Entry]) -> Totals:
    """What entries and all below them add up to."""
    return Totals(
        sum(1 + entry.entries_below for entry in entries),
        sum(entry.bytes_below if entry.node else entry.size for entry in entries),
    )


def directories_of(entries: list[Entry]) -> int:
    """How many directories entries are, and have below them."""
    return sum(1 + entry.directories_below for entry in entries if entry.kind == Kind.DIRECTORY)


def model_of(tree: Tree, root: Entry) -> Model:
    """A tree read back, its totals checked on the way."""
    model: Model = {b"": Item(None, root.mtime_ns, root.inode, root.nlink)}
    entries = list(tree.entries(root))
    assert tree.node(root).totals == (root.entries_below, root.bytes_below) == totals_of(entries)
    assert root.directories_below == directories_of(entries)
    for entry in entries:
        if entry.kind == Kind.DIRECTORY:
            inside = model_of(tree, entry)
            model.update(
                {entry.name + b"/" + path if path else entry.name: i for path, i in inside.items()}
            )
        else:
            content = b"".join(
                bytes(extent.length) if extent.is_hole else bytes(tree.content(extent))
                for extent in tree.extents(entry)
            )
            model[entry.name] = Item(content, entry.mtime_ns, entry.inode, entry.nlink)
    return model
