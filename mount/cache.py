"""A frame cache: opened frames, bounded in bytes, that a single scan does not empty.

After 2Q (Johnson and Shasha, 1994): a frame is young first, in a queue that new ones push out.
It becomes old, and is then kept by least recent use, when it is wanted again after others
came in between, or when it comes back soon after it left. Reading something once from end to
end thus only ever uses the young half. Only the loop's thread touches it.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from repo.reader import FrameKey
from repo.sealer import Frame

YOUNG_SHARE: Final = 0.5
GHOSTS_MAX: Final = 2048
_CHUNK_OBJECT_BYTES: Final = 280
"""What a row of a frame's chunk table takes as Python objects."""


def weight_of(frame: Frame) -> int:
    """Bytes that an opened frame takes in memory."""
    return len(frame.content) + _CHUNK_OBJECT_BYTES * len(frame.chunks)


class _Item:
    __slots__ = ("born", "born_at", "fetched_ahead", "frame", "weight")

    def __init__(self, frame: Frame, born: int, *, fetched_ahead: bool) -> None:
        self.frame = frame
        self.weight = weight_of(frame)
        self.born = born
        self.born_at = time.monotonic()
        self.fetched_ahead = fetched_ahead


@dataclass
class CacheCounts:
    """What became of frames: found, missed, fetched ahead and used, fetched ahead for nothing."""

    hits: int = 0
    misses: int = 0
    ahead_used: int = 0
    ahead_wasted: int = 0


class FrameCache:
    """Frames by key, up to `bytes_max` bytes."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.bytes = 0
        self.counts = CacheCounts()
        self._young: OrderedDict[FrameKey, _Item] = OrderedDict()
        self._old: OrderedDict[FrameKey, _Item] = OrderedDict()
        self.unused_ahead = 0
        """Frames that were fetched ahead and not used yet."""
        self._young_bytes = 0
        self._ghosts: OrderedDict[FrameKey, None] = OrderedDict()
        self._clock = 0

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def __contains__(self, key: object) -> bool:
        return key in self._young or key in self._old

    def get(self, key: FrameKey) -> Frame | None:
        """A frame that is held; None is counted as a miss."""
        item = self._young.get(key)
        if item is not None:
            if self._clock - item.born > self._together():
                del self._young[key]
                self._young_bytes -= item.weight
                self._old[key] = item
        else:
            item = self._old.get(key)
            if item is None:
                self.counts.misses += 1
                return None
            self._old.move_to_end(key)
        if item.fetched_ahead:
            item.fetched_ahead = False
            self.unused_ahead -= 1
            self.counts.ahead_used += 1
        self.counts.hits += 1
        return item.frame

    def put(self, key: FrameKey, frame: Frame, *, fetched_ahead: bool = False) -> None:
        """Keep a frame, and let go of what no longer fits. The newest stays whatever it weighs."""
        if key in self:
            return
        self._clock += 1
        item = _Item(frame, self._clock, fetched_ahead=fetched_ahead)
        self.bytes += item.weight
        self.unused_ahead += fetched_ahead
        if key in self._ghosts:
            del self._ghosts[key]
            self._old[key] = item
        else:
            self._young[key] = item
            self._young_bytes += item.weight
        while self.bytes > self.bytes_max and len(self) > 1:
            self._evict(key)

    def release(self, key: FrameKey) -> None:
        """A reader has left this frame behind: it may go before all others."""
        item = self._young.get(key)
        if item is not None and not item.fetched_ahead:
            self._young.move_to_end(key, last=False)

    def write_off(self, seconds: float) -> None:
        """What was fetched ahead so long ago is hardly used any more: it counts as wasted."""
        latest = time.monotonic() - seconds
        for item in self._young.values():
            if item.fetched_ahead and item.born_at <= latest:
                item.fetched_ahead = False
                self.unused_ahead -= 1
                self.counts.ahead_wasted += 1

    def clear(self) -> None:
        """Let go of everything."""
        self._young.clear()
        self._old.clear()
        self._ghosts.clear()
        self.bytes = self._young_bytes = self.unused_ahead = 0

    def _together(self) -> int:
        # Requests for one frame come in a burst, while others are fetched ahead beside it. Only
        # what is wanted again when half the young have changed is wanted again.
        return max(4, len(self._young) // 2)

    def _evict(self, newest: FrameKey) -> None:
        young_full = self._young_bytes > YOUNG_SHARE * self.bytes_max
        queue = self._young if self._young and (young_full or not self._old) else self._old
        key = next(iter(queue))
        if key == newest:
            queue = self._old if queue is self._young else self._young
            key = next(iter(queue))
        item = queue.pop(key)
        self.bytes -= item.weight
        if queue is self._young:
            self._young_bytes -= item.weight
            self._ghosts[key] = None
            if len(self._ghosts) > GHOSTS_MAX:
                self._ghosts.popitem(last=False)
        if item.fetched_ahead:
            self.unused_ahead -= 1
            self.counts.ahead_wasted += 1
