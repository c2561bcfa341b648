"""A prefetcher: brings frames into the cache, in threads, each frame once.

What a request waits for goes at once; what is fetched ahead waits its turn, neighbouring frames
in one batch: one hop to a thread and one read for all of them. Runs on the loop; only
reading, unsealing and decompressing happen in threads.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import trio

from mount.bell import Bell
from mount.cache import FrameCache
from repo.reader import FrameKey, Reader
from repo.sealer import Frame

BATCH_FRAMES: Final = 4
THREADS_AHEAD: Final = max(2, min(8, 2 * (os.cpu_count() or 1)))
AHEAD_SHARE: Final = 0.25
"""The part of the cache that may be taken by what is fetched ahead and not used yet."""

UNUSED_SECONDS_MAX: Final = 3.0
"""What was fetched ahead and not used for so long counts against the budget no more."""

Result = Frame | Exception


class _Flight:
    """Frames that a thread is opening; whoever wants one of them waits for the event."""

    __slots__ = ("done", "results")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.results: dict[FrameKey, Result] = {}


@dataclass
class PrefetchCounts:
    """Frames opened because a request waited, or ahead; requests that waited for either."""

    frames_demanded: int = 0
    frames_ahead: int = 0
    waits: int = 0
    waits_for_ahead: int = 0


class Prefetcher:
    """Opens frames for one mount, for as long as its trio loop runs."""

    def __init__(self, reader: Reader, cache: FrameCache, bell: Bell, *, frame_bytes: int) -> None:
        """frame_bytes: what a frame takes, roughly."""
        self.counts = PrefetchCounts()
        self._reader = reader
        self._cache = cache
        self._bell = bell
        self._budget = max(2, int(AHEAD_SHARE * cache.bytes_max) // frame_bytes)
        self._flights: dict[FrameKey, _Flight] = {}
        self._planned: dict[FrameKey, None] = {}
        self._ahead = 0  # threads that fetch ahead

    @property
    def queue_depth(self) -> int:
        """Frames planned or being opened."""
        return len(self._planned) + len(self._flights)

    @property
    def room(self) -> int:
        """How many more frames may be fetched ahead."""
        room = self._budget - self._cache.unused_ahead - self.queue_depth
        if room <= 0 and self._cache.unused_ahead:
            # Whoever had this fetched may have gone away: it must not be in the way for ever.
            self._cache.write_off(UNUSED_SECONDS_MAX)
            room = self._budget - self._cache.unused_ahead - self.queue_depth
        return room

    def fetch(self, frames: Iterable[FrameKey]) -> None:
        """Begin to open frames that a request is going to wait for."""
        missing = [
            key
            for key in dict.fromkeys(frames)
            if key not in self._flights and key not in self._cache
        ]
        for key in missing:
            self._planned.pop(key, None)
        self.counts.frames_demanded += len(missing)
        for start in range(0, len(missing), BATCH_FRAMES):
            self._take_off(missing[start : start + BATCH_FRAMES], ahead=False)

    async def demand(self, frames: Iterable[FrameKey]) -> dict[FrameKey, Frame]:
        """The frames, as soon as all are there. Raises what opening one of them raised."""
        found: dict[FrameKey, Frame] = {}
        wanted = dict.fromkeys(frames)
        self.counts.waits += 1
        self.fetch(wanted)
        for key in wanted:
            while key not in found:
                flight = self._flights.get(key)
                frame = None if flight is not None else self._cache.get(key)
                if frame is not None:
                    found[key] = frame
                    break
                if flight is None:
                    self.fetch([key])
                    flight = self._flights[key]
                await flight.done.wait()
                result = flight.results[key]
                if isinstance(result, Exception):
                    raise result
                found[key] = result
        return found

    def plan(self, frames: Iterable[FrameKey]) -> None:
        """Fetch frames ahead, as many as the budget allows."""
        for key in frames:
            if self.room <= 0:
                break
            if key not in self._flights and key not in self._cache:
                self._planned[key] = None
        self._fetch_ahead()

    def _fetch_ahead(self) -> None:
        while self._planned and self._ahead < THREADS_AHEAD:
            first = next(iter(self._planned))
            batch = [first]
            while len(batch) < BATCH_FRAMES:
                following = (first[0], batch[-1][1] + 1)
                if following not in self._planned:
                    break
                batch.append(following)
            for key in batch:
                del self._planned[key]
            self._ahead += 1
            self.counts.frames_ahead += len(batch)
            self._take_off(batch, ahead=True)

    def _take_off(self, batch: Sequence[FrameKey], *, ahead: bool) -> None:
        flight = _Flight()
        for key in batch:
            self._flights[key] = flight
        token = trio.lowlevel.current_trio_token()

        def deliver(opened: Any) -> None:
            # In the thread. Nobody is there any more when the mount has ended.
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(self._land, batch, flight, opened.unwrap(), ahead)
            self._bell.ring()

        # Not to_thread.run_sync: this needs no task, so that the thread begins at once.
        trio.lowlevel.start_thread_soon(lambda: self._open(batch), deliver)

    def _land(
        self, batch: Sequence[FrameKey], flight: _Flight, results: list[Result], ahead: bool
    ) -> None:
        for key, result in zip(batch, results, strict=True):
            flight.results[key] = result
            del self._flights[key]
            if isinstance(result, tuple):
                self._cache.put(key, result, fetched_ahead=ahead)
        flight.done.set()
        if ahead:
            self._ahead -= 1
            self._fetch_ahead()
        self._bell.ring()

    def _open(self, batch: Sequence[FrameKey]) -> list[Result]:
        """Runs in a thread. One damaged frame does not spoil its neighbours."""
        try:
            return list(self._reader.open_frames(batch))
        except Exception as error:  # noqa: BLE001 (handed to whoever asked for the frame)
            if len(batch) == 1:
                return [error]
        return [self._open([key])[0] for key in batch]
