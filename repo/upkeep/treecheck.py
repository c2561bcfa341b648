"""A tree check: that everything a point relies on is there, and the names of what is not.

Each directory is checked against its own totals and against its entry in the directory above,
so that a subtree found clean once needs no second look in any other point: its id and totals
say it all. A subtree with damage is walked again for every point, so that each one is named.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from operator import attrgetter
from struct import Struct
from typing import Final

from repo.errors import Damaged, RepositoryFailed
from repo.format import limits
from repo.format.frame import TABLE_ROW
from repo.format.manifest import Point, parse_problems
from repo.format.node import (
    Entry,
    Extent,
    Node,
    PageRow,
    Run,
    parse_entries,
    parse_extent_page,
    parse_extents,
    parse_page,
)
from repo.format.place import Place
from repo.index.places import Places
from repo.index.scratch import Scratch
from repo.reader import Reader
from repo.types import CHUNK_KEY_BYTES, ChunkId, Kind
from repo.upkeep.damage import COPY, DISK, Damage, Findings

_TOTALS: Final = Struct("<QQQ")
_COVERED: Final = Struct("<BQ")
_ENTRY_NAME = attrgetter("name")


class _Directory:
    """A directory on the way from the root to where the walk is."""

    __slots__ = (
        "bytes_below", "children", "clean", "directories_below", "entries_below", "entry",
        "path", "told",
    )  # fmt: skip

    def __init__(self, entry: Entry, path: bytes) -> None:
        self.entry = entry
        self.path = path
        self.children: Iterator[Entry] = iter(())
        self.clean = True
        self.entries_below = 0
        self.bytes_below = 0
        self.directories_below = 0
        self.told: set[int] = set()  # damages that named the directory itself


class TreeCheck:
    """Walks the trees of points. Memory follows the depth of a tree, not its size."""

    def __init__(
        self,
        reader: Reader,
        places: Places,
        findings: Findings,
        clean: Scratch,
        still_there: Callable[[], object],
        known_lost: Scratch | None = None,
    ) -> None:
        """clean: takes the subtrees that were found clean. still_there: see `Surveyor`.

        known_lost: takes what the marks of points say is lost, which is no news.
        """
        self._reader = reader
        self._places = places
        self._findings = findings
        self._clean = clean
        self._still_there = still_there
        self._known_lost = known_lost
        self._point = ""
        self._unfinished = False
        self._way: list[_Directory] = []

    def point(self, point: Point) -> None:
        """Check everything that a point relies on, or the checkpoint of a run."""
        self._point = point.id.hex()
        self._unfinished = point.unfinished
        self._check_problems(point)
        self._learn_losses(point)
        self._enter(point.root, b"")
        while self._way:
            top = self._way[-1]
            child = next(top.children, None)
            if child is None:
                self._leave()
            else:
                self._enter(child, top.path + b"/" + child.name if top.path else child.name)

    def _check_problems(self, point: Point) -> None:
        for chunk_id in point.problems:
            data = self._chunk(chunk_id, None)
            try:
                parse_problems(bytes(data or b"\x90"), where="")
            except Damaged as damage:
                self._hit(self._bad(chunk_id, damage.what), None)

    def _learn_losses(self, point: Point) -> None:
        """Read what the mark of a point says is lost."""
        if self._known_lost is None:
            return
        for chunk_id in point.loss.lists:
            data = self._chunk(chunk_id, None)
            for problem in parse_problems(bytes(data), where="") if data is not None else ():
                self._known_lost.add(self._loss_key(problem.path))

    def _is_known(self, path: bytes) -> bool:
        return self._known_lost is not None and self._loss_key(path) in self._known_lost

    def _loss_key(self, path: bytes) -> bytes:
        return blake2b(self._point.encode() + path, digest_size=32).digest()

    # Directories

    def _enter(self, entry: Entry, path: bytes) -> None:
        """Begin with a directory, unless it was found clean before or is not in the point."""
        if not entry.node or _node_key(entry) in self._clean:
            return
        data = self._chunk(entry.node, path)
        if data is None:
            return
        try:
            node = Node.parse(data, where="")
            if len(self._way) >= limits.TREE_DEPTH_MAX:
                raise Damaged("directories are nested too deeply")
            if node.totals != (entry.entries_below, entry.bytes_below):
                raise Damaged("a directory's totals are not those of its entry")
        except Damaged as damage:
            self._hit(self._bad(entry.node, damage.what), path)
            return
        directory = _Directory(entry, path)
        self._way.append(directory)
        directory.children = self._children(directory, node)

    def _leave(self) -> None:
        """End with a directory: it must hold what it says."""
        directory = self._way.pop()
        entry = directory.entry
        found = directory.entries_below, directory.bytes_below
        good = found == (entry.entries_below, entry.bytes_below)
        if entry.directories_below not in {0, directory.directories_below}:
            good = False
        if directory.clean and not good:
            damage = self._bad(entry.node, "a directory's totals do not add up")
            self._note(damage, directory.path)
            directory.clean = False
        if directory.clean:
            self._clean.add(_node_key(entry))
        elif self._way:
            self._way[-1].clean = False

    def _children(self, directory: _Directory, node: Node) -> Iterator[Entry]:
        """Check the files of a directory; the sub-directories, to be entered one by one."""
        before = b""
        for batch in self._batches(directory, node):
            for entry in batch:
                if entry.name <= before:
                    what = f"a node holds the name {entry.name!r} out of order"
                    self._hit(self._bad(directory.entry.node, what), directory.path)
                before = entry.name
                directory.entries_below += 1 + entry.entries_below
                directory.bytes_below += entry.bytes_below if entry.node else entry.size
                if entry.kind == Kind.DIRECTORY:
                    directory.directories_below += 1 + entry.directories_below
            self._check_files(directory.path, [entry for entry in batch if not entry.node])
            yield from (entry for entry in batch if entry.node)

    def _batches(self, directory: _Directory, node: Node) -> Iterator[Sequence[Entry]]:
        runs = [self._run(directory, run) for run in (node.joined, node.listed) if run.total]
        if len(runs) < 2:
            yield from (batch for run in runs for batch in run)
            return
        merged = heapq.merge(
            *((entry for batch in run for entry in batch) for run in runs), key=_ENTRY_NAME
        )
        batch: list[Entry] = []
        for entry in merged:
            batch.append(entry)
            if len(batch) == limits.PAGE_ENTRIES_MAX:
                yield batch
                batch = []
        yield batch

    def _run(self, directory: _Directory, run: Run) -> Iterator[Sequence[Entry]]:
        if run.pages:
            for page in run.pages:
                yield self._page(directory, page)
            return
        try:
            entries = parse_entries(run.entries, where="")
            if len(entries) != run.total:
                raise Damaged("a node's count is wrong")
        except Damaged as damage:
            self._hit(self._bad(directory.entry.node, damage.what), directory.path)
        else:
            yield entries

    def _page(self, directory: _Directory, page: PageRow) -> Sequence[Entry]:
        """The entries of a page; none when it is damaged, which is then told."""
        data = self._chunk(page.id, directory.path)
        if data is None:
            return ()
        try:
            entries = parse_page(data, where="")
            _check_page(page, entries)
        except Damaged as damage:
            self._hit(self._bad(page.id, damage.what), directory.path)
            return ()
        return entries

    # Files

    def _check_files(self, directory: bytes, entries: Sequence[Entry]) -> None:
        """Check that the chunks of files are there; those of many files with one look-up."""
        inline: list[tuple[bytes, Extent]] = []
        for entry in entries:
            if not entry.extents and not entry.size:
                continue
            path = directory + b"/" + entry.name if directory else entry.name
            extents = list(parse_extents(entry.extents))
            if sum(extent.length for extent in extents) != entry.size:
                what = f"the extents of {entry.name!r} do not cover its size"
                self._hit(self._bad(self._way[-1].entry.node, what), path)
            if entry.extent_level:
                for extent in extents:
                    self._check_extent_page(extent, entry.extent_level - 1, path)
            else:
                inline.extend((path, extent) for extent in extents)
            if len(inline) >= limits.EXTENT_ROWS_MAX:
                self._check_extents(inline)
                inline.clear()
        self._check_extents(inline)

    def _check_extent_page(self, page: Extent, level: int, path: bytes) -> bool:
        """Check an extent page and what lies below; whether all of it is good."""
        if page.is_hole:
            return True
        key = page.id + _COVERED.pack(level, page.length)
        if key in self._clean:
            return True
        data = self._chunk(page.id, path)
        if data is None:
            return False
        try:
            extents = parse_extent_page(data, level, where="")
            if sum(extent.length for extent in extents) != page.length:
                raise Damaged("an extent page does not cover its length")
        except Damaged as damage:
            self._hit(self._bad(page.id, damage.what), path)
            return False
        if level:
            bad = [e for e in extents if not self._check_extent_page(e, level - 1, path)]
            good = not bad
        else:
            good = self._check_extents([(path, extent) for extent in extents])
        if good:
            self._clean.add(key)
        return good

    def _check_extents(self, extents: Sequence[tuple[bytes, Extent]]) -> bool:
        """Check that chunks are where the index says; whether all are good."""
        wanted = [extent.id[:CHUNK_KEY_BYTES] for _, extent in extents if not extent.is_hole]
        found = self._reader.find_many(wanted)
        good = True
        for path, extent in extents:
            if extent.is_hole:
                continue
            damage = self._look(extent.id, found.get(extent.id[:CHUNK_KEY_BYTES]), extent.length)
            if damage is not None:
                self._hit(damage, path)
                good = False
        return good

    # Chunks

    def _look(self, chunk_id: bytes, place: Place | None, length: int | None) -> Damage | None:
        """What is wrong with a place, as far as index and findings tell."""
        if place is None:
            return self._findings.of_chunk(chunk_id) or self._findings.missing()
        try:
            row = self._places.segment(place.segment)
            if (place.frame + 1) * TABLE_ROW.size > len(row.frames):
                row = self._places.segment(place.segment, fresh=True)
        except Damaged as damage:
            return self._findings.misplaced(chunk_id, None, damage.what)
        known = self._findings.at(chunk_id, row.segment_id, place)
        if known is not None:
            return known
        plain = 0
        if (place.frame + 1) * TABLE_ROW.size <= len(row.frames):
            _, _, plain = TABLE_ROW.unpack_from(row.frames, place.frame * TABLE_ROW.size)
        if place.offset + place.length > plain or length not in {None, place.length}:
            what = "the index names an impossible place"
            return self._findings.misplaced(chunk_id, row.segment_id, what)
        return None

    def _chunk(self, chunk_id: bytes, path: bytes | None) -> memoryview | None:
        """The content of a node, page or list; None when it is damaged, which is then told."""
        key = chunk_id[:CHUNK_KEY_BYTES]
        place = self._reader.find_many((key,)).get(key)
        damage = self._look(chunk_id, place, None)
        if damage is None and place is not None:
            segment_id = self._reader.segment(place).segment_id
            try:
                frame = self._reader.frame(place.segment, place.frame)
            except Damaged as error:
                damage = self._findings.frame(segment_id, place.frame, error.what, next_step=COPY)
            except RepositoryFailed as error:
                self._still_there()
                damage = self._findings.frame(segment_id, place.frame, error.what, next_step=DISK)
            else:
                data = frame.chunk(chunk_id)
                if data is not None:
                    return data
                what = "the index names a frame that does not hold the chunk"
                damage = self._findings.misplaced(chunk_id, segment_id, what)
        if damage is not None:
            self._hit(damage, path)
        return None

    def _bad(self, chunk_id: bytes, what: str) -> Damage:
        """A chunk that is what was sealed, and yet makes no sense."""
        place = self._reader.place(ChunkId(chunk_id))
        segment_id = self._reader.segment(place).segment_id
        return self._findings.chunk(chunk_id, segment_id, place.frame, what)

    def _hit(self, damage: Damage, path: bytes | None) -> None:
        if self._way:
            top = self._way[-1]
            top.clean = False
            if path == top.path:
                if id(damage) in top.told:
                    return
                top.told.add(id(damage))
        if path is not None and self._findings.is_missing(damage) and self._is_known(path):
            return
        self._note(damage, path)

    def _note(self, damage: Damage, path: bytes | None) -> None:
        if self._unfinished:
            damage.hit_unfinished(self._point)
        else:
            damage.hit(self._point, path)


def _node_key(entry: Entry) -> bytes:
    totals = entry.entries_below, entry.bytes_below, entry.directories_below
    return entry.node + _TOTALS.pack(*totals)


def _check_page(page: PageRow, entries: Sequence[Entry]) -> None:
    """Damaged unless a page holds what its row in the node says."""
    entries_below = sum(1 + entry.entries_below for entry in entries)
    bytes_below = sum(entry.bytes_below if entry.node else entry.size for entry in entries)
    found = (len(entries), entries_below, bytes_below)
    if found != (page.count, page.entries_below, page.bytes_below):
        raise Damaged("a page holds something else than its node says")
    if not entries or entries[0].name != page.first_name:
        raise Damaged("a page begins with another name than its node says")
