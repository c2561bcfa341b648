"""The prefetcher: each frame is opened once, what waits goes first, memory is bounded."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest
import trio
import trio.testing

from mount.bell import Bell
from mount.cache import FrameCache
from mount.prefetcher import BATCH_FRAMES, THREADS_AHEAD, Prefetcher
from repo.errors import Damaged
from repo.reader import FrameKey
from repo.sealer import Frame

pytestmark = pytest.mark.trio

FRAME_BYTES = 1000


class Opener:
    """Stands for a reader: opens frames when it is let, and remembers what was asked."""

    def __init__(self, *, held: bool = False) -> None:
        self.asked: list[list[FrameKey]] = []
        self.damaged: set[FrameKey] = set()
        self.gate = threading.Event()
        if not held:
            self.gate.set()

    def open_frames(self, wanted: Sequence[FrameKey]) -> list[Frame]:
        self.asked.append(list(wanted))
        assert self.gate.wait(60)
        for key in wanted:
            if key in self.damaged:
                raise Damaged("a frame does not verify", where=f"frame {key[1]}")
        return [Frame(number, {}, memoryview(bytes(FRAME_BYTES))) for _, number in wanted]

    @property
    def opened(self) -> list[FrameKey]:
        return [key for batch in self.asked for key in batch]


def _prefetcher(opener: Opener, *, frames: int = 100) -> tuple[Prefetcher, FrameCache]:
    cache = FrameCache(frames * FRAME_BYTES)
    reader: Any = opener
    return Prefetcher(reader, cache, Bell(), frame_bytes=FRAME_BYTES), cache


async def test_many_who_want_a_frame_have_it_opened_once() -> None:
    opener = Opener(held=True)
    prefetcher, _ = _prefetcher(opener)
    got = []

    async def want() -> None:
        got.append(await prefetcher.demand([(0, 1), (0, 2)]))

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(want)
        await trio.testing.wait_all_tasks_blocked()
        opener.gate.set()
    assert sorted(opener.opened) == [(0, 1), (0, 2)]
    assert all(sorted(one) == [(0, 1), (0, 2)] for one in got)
    assert await prefetcher.demand([(0, 1)])
    assert len(opener.opened) == 2


async def test_a_damaged_frame_is_the_trouble_of_whoever_wants_it() -> None:
    opener = Opener()
    opener.damaged.add((0, 2))
    prefetcher, cache = _prefetcher(opener)
    with pytest.raises(Damaged, match="frame 2"):
        await prefetcher.demand([(0, 1), (0, 2), (0, 3)])
    assert (0, 1) in cache
    assert (0, 3) in cache
    assert (0, 2) not in cache
    opener.damaged.clear()
    assert (0, 2) in await prefetcher.demand([(0, 2)])


async def test_a_frame_too_large_to_be_kept_still_arrives() -> None:
    prefetcher, _ = _prefetcher(Opener(), frames=1)
    wanted = [(0, number) for number in range(9)]
    assert sorted(await prefetcher.demand(wanted)) == wanted


async def _idle(prefetcher: Prefetcher) -> None:
    while prefetcher.queue_depth:
        await trio.lowlevel.checkpoint()


async def test_neighbours_come_in_one_batch() -> None:
    opener = Opener()
    prefetcher, cache = _prefetcher(opener)
    prefetcher.plan([(0, 5), (0, 6), (0, 7), (3, 1), (0, 8), (0, 9)])
    await _idle(prefetcher)
    assert [(0, 5), (0, 6), (0, 7), (0, 8)] in opener.asked
    assert all(len(batch) <= BATCH_FRAMES for batch in opener.asked)
    assert cache.unused_ahead == 6


async def test_fetching_ahead_keeps_within_its_budget() -> None:
    opener = Opener(held=True)
    prefetcher, cache = _prefetcher(opener, frames=100)
    prefetcher.plan((0, number) for number in range(1000))
    assert prefetcher.queue_depth == 25
    assert prefetcher.room == 0
    await trio.testing.wait_all_tasks_blocked()
    assert len(opener.asked) <= THREADS_AHEAD
    opener.gate.set()
    await _idle(prefetcher)
    assert len(opener.opened) == cache.unused_ahead == 25
    # Nothing more as long as nothing of it is used.
    prefetcher.plan((1, number) for number in range(1000))
    assert prefetcher.queue_depth == 0
    assert cache.get((0, 0)) is not None
    prefetcher.plan((1, number) for number in range(1000))
    assert prefetcher.queue_depth == 1
    await _idle(prefetcher)


async def test_what_a_request_waits_for_does_not_wait_its_turn() -> None:
    opener = Opener(held=True)
    prefetcher, _ = _prefetcher(opener, frames=1000)
    prefetcher.plan((0, 3 * number) for number in range(100))
    last = (0, 297)
    assert last not in opener.opened
    async with trio.open_nursery() as nursery:
        nursery.start_soon(prefetcher.demand, [last])
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert last in opener.opened
        opener.gate.set()
    await _idle(prefetcher)
    assert opener.opened.count(last) == 1
