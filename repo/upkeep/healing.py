"""Healing: lost chunks taken from where the same content is: a source, or another repository.

Whatever is offered is hashed with the key of the repository that is repaired, and taken only when
it has the very id that is lost.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Final, Protocol, Self

from repo.errors import RepoError
from repo.format.manifest import Origin, Point
from repo.format.node import Entry, Extent, parse_extent_page, parse_extents
from repo.index.scratch import Scratch
from repo.keys import Keys
from repo.repository import Repository
from repo.tree import Tree
from repo.types import ChunkId
from repo.upkeep.branches import UNREADABLE
from repo.upkeep.copies import identity
from repo.upkeep.losses import Losses
from repo.upkeep.lossfinder import Lost, Part
from repo.upkeep.rewriter import Rewriter
from repo.upkeep.transfer import Transfer
from repo.upkeep.translation import Translation

LIKE_MAX: Final = 8
"""Points of the same source that are asked for a file, when there is no copy of the very point."""

Store = Callable[[bytes, bytes], None]
"""Takes a chunk of file content: (id, content)."""


class Healer(Protocol):
    """Something that may have what is lost."""

    def content(self, point: Point, lost: Lost) -> bool:
        """Find the lost content of a file; whether it was found and stored."""
        ...

    def structure(self, point: Point, lost: Lost) -> bool:
        """Find lost names, or a lost list of chunks; whether they can be read now."""
        ...


class SourceHealer:
    """A directory tree as it is now."""

    def __init__(self, top: Path, keys: Keys, store: Store) -> None:
        self._top = os.fsencode(top)
        self._keys = keys
        self._store = store

    def content(self, _point: Point, lost: Lost) -> bool:
        """Read the bytes from the file at the same path."""
        path = os.path.join(self._top, lost.path)
        with suppress(OSError):
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                data = os.pread(fd, lost.length, lost.offset)
            finally:
                os.close(fd)
            return _accept(self._keys, lost, data, self._store)
        return False

    def structure(self, _point: Point, _lost: Lost) -> bool:
        """Nothing: names and their attributes are never guessed from a later state."""
        return False


class RepositoryHealer:
    """Another repository: copies of the same points, or points of the same source."""

    def __init__(self, other: Repository, ours: Repository, store: Store) -> None:
        self._other = other
        self._ours = ours
        self._store = store
        self._tree = Tree(other.reader)
        self._points = other.points(on_damage=lambda _damage: None)

    def twins(self, first: Origin) -> list[Point]:
        """Its points that are the same as one of ours, by what the first of their kind is."""
        return [
            point
            for point in self._points
            if not point.loss.noted_ns and identity(point, self._other) == first
        ]

    def _twins_of(self, point: Point) -> list[Point]:
        return self.twins(identity(point, self._ours))

    def content(self, point: Point, lost: Lost) -> bool:
        """Read the bytes from the same file of the same point, or of one of the same source."""
        like = (each for each in reversed(self._points) if each.source_id == point.source_id)
        for candidate in (*self._twins_of(point), *islice(like, LIKE_MAX)):
            with suppress(RepoError):
                entry = self._tree.resolve(candidate.root, lost.path)
                if entry.size < lost.offset + lost.length:
                    continue
                data = b"".join(self._bytes(entry, lost.offset, lost.length))
                if _accept(self._ours.keys, lost, data, self._store):
                    return True
        return False

    def _bytes(self, entry: Entry, start: int, length: int) -> Iterator[bytes]:
        """A range of a file, of its chunks only those that it touches."""
        extents = list(parse_extents(entry.extents))
        yield from self._range(extents, entry.extent_level, 0, start, start + length)

    def _range(
        self, extents: Sequence[Extent], level: int, offset: int, start: int, stop: int
    ) -> Iterator[bytes]:
        for extent in extents:
            end = offset + extent.length
            if offset < stop and start < end:
                first, last = max(start, offset) - offset, min(stop, end) - offset
                if extent.is_hole:
                    yield bytes(last - first)
                elif level:
                    data = self._other.reader.chunk(extent.id)
                    below = parse_extent_page(data, level - 1, where="extent page")
                    yield from self._range(below, level - 1, offset, start, stop)
                else:
                    yield bytes(self._other.reader.chunk(extent.id)[first:last])
            offset = end

    # Structure

    def structure(self, point: Point, lost: Lost) -> bool:
        """Copy the same directory or file of the same point; whether what was lost came of it."""
        if lost.part is Part.PROBLEMS:
            return False
        for twin in self._twins_of(point):
            with suppress(RepoError):
                entry = self._tree.resolve(twin.root, lost.path)
                if self._copy(entry, lost):
                    return True
        return False

    def whole_point(self, twin: Point) -> tuple[Entry, tuple[bytes, ...]]:
        """Copy all of a point: its root, and the lists of its problems. Raises Damaged."""
        with _Copying(self._other, self._ours) as copying:
            copying.transfer.tree(twin.root)
            root = copying.rewriter.root(twin.root)
            lists = copying.rewriter.problems(twin.problems)
            copying.commit()
        return root, lists

    def _copy(self, entry: Entry, lost: Lost) -> bool:
        with _Copying(self._other, self._ours) as copying:
            if entry.node:
                copying.transfer.tree(entry)
                copying.rewriter.directory(entry, lost.path)
            else:
                copying.transfer.file(entry)
                copying.transfer.drain()
                copying.rewriter.file(entry, lost.path)
            copying.commit()
        with suppress(*UNREADABLE):
            self._ours.new_reader().chunk(ChunkId(lost.id))
            return True
        return False


class _Copying:
    """A copy of a part of a point, into the repository that is repaired."""

    def __init__(self, other: Repository, ours: Repository) -> None:
        self._ours = ours
        self._writer = ours.writer()
        self._scratch = Scratch.make(ours.index_path.parent)
        translation = Translation(self._scratch, ours.keys)
        self.transfer = Transfer(
            other,
            ours,
            self._writer,
            translation,
            streams=len(os.sched_getaffinity(0)),
            level=3,
            on_step=_nothing,
        )
        losses = Losses(self._put)
        self.rewriter = Rewriter(other.folder, other.reader, translation, self._put, losses)

    def _put(self, data: bytes) -> ChunkId:
        chunk_id = self._ours.keys.chunk_id(data)
        self._writer.put_meta(chunk_id, data)
        return chunk_id

    def commit(self) -> None:
        """Make what was copied part of the repository. Raises RepositoryFailed."""
        self.transfer.drain()
        self._writer.commit(close=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.transfer.__exit__(*exception)
        self._writer.abandon()
        self._scratch.close()


def _nothing() -> None:
    """No progress."""


def _accept(keys: Keys, lost: Lost, data: bytes, store: Store) -> bool:
    if len(data) != lost.length or keys.chunk_id(data) != lost.id:
        return False
    store(lost.id, data)
    return True
