"""Ahead: what is worth fetching next, from what was opened and read.

Within a file by offsets; from file to file by rank: tar, cp and grep open files in the order in
which a directory lists them, which is the order of ranks, and so is the order in which their
content was stored.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

import trio

from mount.bell import Bell
from mount.cache import FrameCache
from mount.content import Content, single_chunk
from mount.prefetcher import Prefetcher
from mount.pusher import Parts, Pusher
from mount.readahead import Detector, Habit, Plan, Stream
from mount.shelf import Shelf
from mount.source import Blocked, FramesMissing
from mount.vfs import Branch, FileTree, Walked, WeightedCache
from repo.errors import RepoError
from repo.reader import FrameKey
from repo.types import KIB, MIB, ChunkId, Kind

BYTES: Final = Habit(slack=2 * MIB, first=2 * MIB, most=64 * MIB)
RANKS: Final = Habit(slack=64, first=64, most=2048, hits=3)
FILE_START_BYTES: Final = MIB
"""How much of a file is fetched before it is opened."""

FILES_AT_ONCE: Final = 64
"""So many files are looked at together: their places come with one look at the index."""

PUSHED_AT_ONCE: Final = 64
PUSHED_BYTES_MAX: Final = 128 * KIB
"""How many files are handed to the kernel unasked at a time, and how large they may be."""

DETECTORS_HELD: Final = 256
"""Files, and points, whose readers are watched at a time."""

log = logging.getLogger("repo.mount")


class Ahead:
    """Watches the requests of a mount and has the prefetcher fetch what comes next."""

    def __init__(
        self,
        tree: FileTree,
        shelf: Shelf,
        prefetcher: Prefetcher,
        cache: FrameCache,
        pusher: Pusher,
        bell: Bell,
    ) -> None:
        self._tree = tree
        self._shelf = shelf
        self._prefetcher = prefetcher
        self._cache = cache
        self._pusher = pusher
        self._bell = bell
        self._files: WeightedCache[int, Detector] = WeightedCache(DETECTORS_HELD)
        self._trees: WeightedCache[int, Detector] = WeightedCache(DETECTORS_HELD)
        self._wishes: deque[tuple[Branch, Plan | Stream]] = deque(maxlen=16)
        self._wished = trio.Event()

    async def run(self) -> None:
        """Look ahead from file to file; between requests, so that none waits for it."""
        while True:
            await self._wished.wait()
            self._wished = trio.Event()
            while self._wishes:
                branch, wish = self._wishes.popleft()
                try:
                    if isinstance(wish, Plan):
                        self._plan_files(branch, wish)
                    else:
                        self._push_files(branch, wish)
                except Exception as error:  # noqa: BLE001 (it must never end the mount)
                    _shrug(error)
                await trio.lowlevel.checkpoint()

    def _push_files(self, branch: Branch, stream: Stream) -> None:
        """Hand the next small files of a directory to the kernel before it asks for them."""
        files: list[tuple[int, Parts]] = []
        # The very next file is being asked for already.
        rank = stream.following
        directory = branch.directory_of(rank)
        for walked in islice(branch.walk(rank), PUSHED_AT_ONCE):
            entry = walked.entry
            if walked.directory.node != directory.node:
                break
            # A hard link's number may be another's by the time that the kernel takes the content.
            single = entry.kind == Kind.FILE and entry.nlink <= 1
            if single and 0 < entry.size <= PUSHED_BYTES_MAX:
                content = branch.content_of(walked)
                try:
                    parts = content.read(0, entry.size, self._shelf)
                except Blocked:
                    break
                files.append((branch.number_of(walked), parts))
            stream.handed = walked.rank
        if files:
            self._pusher.push(files)

    def _began(self, number: int) -> None:
        """A file's beginning was read: not opened, for the kernel may have its content already."""
        branch = self._tree.branch(number)
        if branch is None:
            return
        detector = self._trees.get(branch.base)
        if detector is None:
            detector = Detector(RANKS)
            self._trees.put(branch.base, detector, 1)
        try:
            rank = branch.rank(number)
        except (Blocked, KeyError):
            return
        stream = detector.observe(rank, rank + 1)
        if stream is None:
            return
        plan = detector.plan(stream)
        if plan is not None:
            self._wishes.append((branch, plan))
        if stream.handed <= rank + 1 and self._pusher.is_idle:
            self._wishes.append((branch, stream))
        if self._wishes:
            self._wished.set()
            self._bell.ring()

    def _plan_files(self, branch: Branch, plan: Plan) -> None:
        """Plan the starts of the next files, as far as the prefetcher has room."""
        frames: dict[FrameKey, None] = {}
        room = self._prefetcher.room
        walk = branch.walk(plan.start - 1)
        reached = plan.start
        try:
            while reached < plan.stop and len(frames) < room:
                files = list(islice(walk, FILES_AT_ONCE))
                if not files:
                    reached = plan.stop
                    break
                frames.update(dict.fromkeys(self._frames_of(branch, files)))
                reached = files[-1].rank + 1
        except FramesMissing as missing:
            # Nodes of the next directories: once they are here, the next look goes further.
            frames.update(dict.fromkeys(missing.frames))
        except (Blocked, KeyError):
            pass
        plan.stream.planned = reached
        self._prefetcher.plan(frames)

    def _frames_of(self, branch: Branch, files: list[Walked]) -> Iterator[FrameKey]:
        """The frames, not in memory, in which the files begin."""
        chunks: list[ChunkId] = []
        for walked in files:
            entry = walked.entry
            if entry.kind == Kind.FILE and entry.size:
                chunk = single_chunk(entry)
                if chunk is not None:
                    chunks.append(chunk)
                else:
                    content = branch.content_of(walked)
                    yield from self._absent(content.frames(0, FILE_START_BYTES, self._shelf))
        places = self._shelf.places(chunks)
        yield from self._absent((place.segment, place.frame) for place in places)

    def _absent(self, frames: Iterable[FrameKey]) -> Iterator[FrameKey]:
        return (key for key in frames if key not in self._cache)

    def was_read(self, number: int, content: Content, start: int, length: int) -> None:
        """A range of a file was read."""
        try:
            if start == 0:
                self._began(number)
            if length < content.size:
                self._went_on(number, content, start, length)
        except Exception as error:  # noqa: BLE001 (the bytes are there, that is what counts)
            _shrug(error)

    def _went_on(self, number: int, content: Content, start: int, length: int) -> None:
        """The same, of a file that is not read with one request."""
        detector = self._files.get(number)
        if detector is None:
            detector = Detector(BYTES)
            self._files.put(number, detector, 1)
        stream = detector.observe(start, start + length)
        plan = None if stream is None else detector.plan(stream)
        if plan is None:
            return
        try:
            self._plan_range(content, plan)
            self._release(content, *detector.passed(plan.stream))
        except FramesMissing as missing:
            plan.stream.planned = plan.start
            self._prefetcher.plan(missing.frames)

    def _plan_range(self, content: Content, plan: Plan) -> None:
        frames: dict[FrameKey, None] = {}
        room = self._prefetcher.room
        reached = plan.start
        for piece in content.pieces(plan.start, plan.stop - plan.start, self._shelf):
            if piece.place is not None:
                key = (piece.place.segment, piece.place.frame)
                if key not in self._cache:
                    if len(frames) >= room:
                        plan.stream.planned = reached
                        break
                    frames[key] = None
            reached += piece.stop - piece.start
        self._prefetcher.plan(frames)

    def _release(self, content: Content, start: int, stop: int) -> None:
        """What a stream has left behind is in the page cache: its frames may go first."""
        for key in content.frames(start, stop - start, self._shelf):
            self._cache.release(key)


def _shrug(error: Exception) -> None:
    """Nobody waits for what was looked for ahead; whoever wants it will be told what is wrong."""
    if not isinstance(error, (Blocked, KeyError, RepoError)):
        log.warning("looking ahead", exc_info=error)
