"""A loss finder: what points name and no segment holds, path by path.

Unlike a tree check it asks one question only, and asks it of an index whose places were found
good: is each chunk there. Subtrees that were found whole once are not looked at again.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Generator, Iterable, Iterator, Mapping
from enum import Enum
from typing import Final, NamedTuple

from repo.errors import Damaged
from repo.format import limits
from repo.format.manifest import Point, parse_problems
from repo.format.node import Entry, Extent, parse_extent_page, parse_extents
from repo.index.scratch import Scratch
from repo.reader import Reader
from repo.storage.folder import Folder
from repo.types import CHUNK_KEY_BYTES, ChunkId
from repo.upkeep.branches import UNREADABLE, branches, read_node
from repo.upkeep.losses import reason

_GONE: Final = "no segment holds it"

Good = Mapping[int, Container[int]]
"""Of damaged segments, by number: the frames that verify."""


class Part(Enum):
    """What of a point is lost: content of a file, the list of its chunks, names, or problems."""

    CONTENT = "content"
    EXTENTS = "extents"
    NAMES = "names"
    PROBLEMS = "problems"


class Lost(NamedTuple):
    """A chunk that is not there, and what it is to the file or directory at `path`.

    offset, length: the bytes of a file that it stands for; of a directory, `length` below it.
    """

    path: bytes
    part: Part
    id: bytes
    why: str = _GONE
    level: int = 0
    offset: int = 0
    length: int = 0


class _Below(NamedTuple):
    """A directory to be looked at before its parent goes on."""

    node: bytes
    path: bytes
    size: int


class _Answer(NamedTuple):
    whole: bool


_Work = Generator[Lost | _Below, _Answer, bool]
"""Looks at one directory; ends with whether all of it and below it is there."""


class LossFinder:
    """Walks points. Memory follows the depth of a tree and the size of a page."""

    def __init__(
        self,
        folder: Folder,
        reader: Reader,
        clean: Scratch,
        *,
        good: Good,
        rescued: Callable[[bytes], bool],
    ) -> None:
        """clean: takes what was found whole. rescued: whether a chunk counts as there already."""
        self._folder = folder
        self._reader = reader
        self._clean = clean
        self._good = good
        self._rescued = rescued

    def point(self, point: Point) -> Iterator[Lost]:
        """All that is lost of a point, but for the lists of what was known to be lost before.

        What is lost of one file, or of one directory, comes together.
        """
        for chunk_id in point.problems:
            if chunk_id not in point.loss.lists:
                yield from self._problems(chunk_id)
        way: list[_Work] = [
            self._directory(_Below(point.root.node, b"", point.root.bytes_below), 0)
        ]
        answer: _Answer | None = None
        while way:
            try:
                item = next(way[-1]) if answer is None else way[-1].send(answer)
            except StopIteration as done:
                way.pop()
                answer = _Answer(bool(done.value))
                continue
            answer = None
            if isinstance(item, Lost):
                yield item
            elif item.node in self._clean:
                answer = _Answer(True)
            else:
                way.append(self._directory(item, len(way)))

    def _problems(self, chunk_id: bytes) -> Iterator[Lost]:
        try:
            parse_problems(bytes(self._reader.chunk(ChunkId(chunk_id))), where="problem list")
        except UNREADABLE as failure:
            yield Lost(b"", Part.PROBLEMS, chunk_id, reason(failure, self._folder))

    def _directory(self, here: _Below, depth: int) -> _Work:
        if here.node in self._clean:
            return True
        try:
            node = read_node(self._reader, here.node)
            if depth >= limits.TREE_DEPTH_MAX:
                raise Damaged("directories are nested too deeply")
        except UNREADABLE as failure:
            why = reason(failure, self._folder)
            yield Lost(here.path, Part.NAMES, here.node, why, length=here.size)
            return False
        whole = True
        for run in (node.joined, node.listed):
            for branch in branches(self._reader, run):
                if branch.failure is not None:
                    whole = False
                    page = branch.page
                    lost_id, size = (here.node, 0) if page is None else (page.id, page.bytes_below)
                    why = reason(branch.failure, self._folder)
                    yield Lost(here.path, Part.NAMES, lost_id, why, length=size)
                for entry in branch.entries:
                    path = here.path + b"/" + entry.name if here.path else entry.name
                    if entry.node:
                        answer = yield _Below(entry.node, path, entry.bytes_below)
                        whole = whole and answer.whole
                    elif entry.extents:
                        for lost in self._file(entry, path):
                            whole = False
                            yield lost
        if whole:
            self._clean.add(here.node)
        return whole

    def _file(self, entry: Entry, path: bytes) -> Iterator[Lost]:
        return self._extents(list(parse_extents(entry.extents)), entry.extent_level, path, 0)

    def _extents(
        self, extents: Iterable[Extent], level: int, path: bytes, offset: int
    ) -> Iterator[Lost]:
        if level:
            for page in extents:
                if not page.is_hole:
                    yield from self._page(page, level - 1, path, offset)
                offset += page.length
            return
        extents = list(extents)
        there = self._there([extent.id for extent in extents if not extent.is_hole])
        for extent in extents:
            if not extent.is_hole and extent.id not in there:
                yield Lost(path, Part.CONTENT, extent.id, offset=offset, length=extent.length)
            offset += extent.length

    def _page(self, page: Extent, level: int, path: bytes, offset: int) -> Iterator[Lost]:
        key = page.id + bytes((level,))
        if key in self._clean:
            return
        try:
            data = self._reader.chunk(page.id)
            below = parse_extent_page(data, level, where=f"page {page.id.hex()[:16]}")
        except UNREADABLE as failure:
            why = reason(failure, self._folder)
            yield Lost(path, Part.EXTENTS, page.id, why, level, offset, page.length)
            return
        whole = True
        for lost in self._extents(below, level, path, offset):
            whole = False
            yield lost
        if whole:
            self._clean.add(key)

    def _there(self, chunk_ids: list[ChunkId]) -> set[bytes]:
        found = self._reader.places.find_many([i[:CHUNK_KEY_BYTES] for i in chunk_ids])
        there: set[bytes] = set()
        for chunk_id in chunk_ids:
            place = found.get(chunk_id[:CHUNK_KEY_BYTES])
            if place is not None:
                frames = self._good.get(place.segment)
                if frames is None or place.frame in frames:
                    there.add(chunk_id)
                    continue
            if self._rescued(chunk_id):
                there.add(chunk_id)
        return there
