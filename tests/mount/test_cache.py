"""The frame cache: bounded, not emptied by a scan; it counts what fetching ahead was good for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mount.cache import FrameCache, weight_of
from repo.sealer import Frame

MIB = 1 << 20


def _frame(number: int, size: int = 1000) -> Frame:
    return Frame(number, {}, memoryview(bytes(size)))


def _full_of(count: int) -> FrameCache:
    return FrameCache(count * weight_of(_frame(0)))


@given(st.lists(st.tuples(st.integers(0, 30), st.booleans(), st.integers(0, 3000)), max_size=200))
def test_it_never_holds_more_than_it_may(steps: list[tuple[int, bool, int]]) -> None:
    cache = FrameCache(10_000)
    for number, ahead, size in steps:
        if cache.get((0, number)) is None:
            cache.put((0, number), _frame(number, size), fetched_ahead=ahead)
        assert cache.bytes <= 10_000
        assert cache.bytes == sum(
            weight_of(item.frame) for queue in (cache._young, cache._old) for item in queue.values()
        )
        assert cache._young_bytes == sum(item.weight for item in cache._young.values())
        assert cache.unused_ahead == sum(
            item.fetched_ahead for queue in (cache._young, cache._old) for item in queue.values()
        )
    counts = cache.counts
    fetched = counts.ahead_used + counts.ahead_wasted + cache.unused_ahead
    assert fetched <= sum(ahead for _, ahead, _ in steps)


def test_a_frame_larger_than_all_is_held_alone() -> None:
    cache = FrameCache(1000)
    cache.put((0, 1), _frame(1, 5000))
    assert cache.get((0, 1)) is not None
    cache.put((0, 2), _frame(2, 5000))
    assert len(cache) == 1
    assert cache.get((0, 2)) is not None


def test_a_scan_leaves_what_is_used_again_and_again() -> None:
    cache = _full_of(40)
    dear = [(1, number) for number in range(10)]
    for _ in range(4):
        for key in dear:
            if cache.get(key) is None:
                cache.put(key, _frame(0))
        for number in range(20):  # others in between, so that it counts as use again
            cache.put((2, number), _frame(0))
    for number in range(1000):
        cache.put((3, number), _frame(0))
        cache.get((3, number))
    assert all(key in cache for key in dear)


def test_a_burst_is_one_use() -> None:
    cache = _full_of(40)
    for number in range(200):
        cache.put((0, number), _frame(0))
        for _ in range(8):
            cache.get((0, number))
    assert len(cache._old) == 0


def test_what_comes_back_soon_is_kept() -> None:
    cache = _full_of(10)
    for number in range(20):
        cache.put((0, number), _frame(0))
    assert (0, 3) not in cache
    cache.put((0, 3), _frame(0))
    for number in range(100, 140):
        cache.put((0, number), _frame(0))
    assert (0, 3) in cache


def test_what_was_released_goes_first() -> None:
    cache = _full_of(10)
    for number in range(10):
        cache.put((0, number), _frame(0))
    cache.release((0, 7))
    cache.put((0, 10), _frame(0))
    assert (0, 7) not in cache
    assert (0, 0) in cache
    cache.release((0, 99))


def test_use_and_waste_of_fetching_ahead_are_counted() -> None:
    cache = _full_of(4)
    for number in range(4):
        cache.put((0, number), _frame(0), fetched_ahead=True)
    assert cache.unused_ahead == 4
    cache.get((0, 0))
    cache.get((0, 0))
    for number in range(10, 20):
        cache.put((0, number), _frame(0))
    assert (cache.counts.ahead_used, cache.counts.ahead_wasted) == (1, 3)
    assert cache.unused_ahead == 0
    assert cache.counts.hits == 2
    assert cache.get((9, 9)) is None
    assert cache.counts.misses == 1


def test_what_was_fetched_ahead_for_nobody_is_written_off() -> None:
    cache = _full_of(4)
    for number in range(4):
        cache.put((0, number), _frame(0), fetched_ahead=True)
    cache.write_off(3600)
    assert cache.unused_ahead == 4
    cache.write_off(0)
    assert (cache.unused_ahead, cache.counts.ahead_wasted, len(cache)) == (0, 4, 4)
    assert cache.get((0, 0)) is not None
    assert cache.counts.ahead_used == 0


def test_clear_lets_go_of_everything() -> None:
    cache = _full_of(4)
    cache.put((0, 0), _frame(0), fetched_ahead=True)
    cache.clear()
    assert (len(cache), cache.bytes, cache.unused_ahead) == (0, 0, 0)
