"""The detector: sequences are seen, also out of order; jumps are not; windows grow and end."""

from __future__ import annotations

import random
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from mount.readahead import Detector, Habit, Plan

HABIT = Habit(slack=200, first=1000, most=8000)


def _observe(detector: Detector, start: int, stop: int) -> Plan | None:
    stream = detector.observe(start, stop)
    return None if stream is None else detector.plan(stream)


def test_the_beginning_of_a_file_is_taken_for_a_sequence() -> None:
    plan = _observe(Detector(HABIT), 0, 100)
    assert plan is not None
    assert (plan.start, plan.stop) == (100, 1100)


def test_a_jump_is_no_sequence_and_the_next_request_makes_it_one() -> None:
    detector = Detector(HABIT)
    assert _observe(detector, 50_000, 50_100) is None
    plan = _observe(detector, 50_100, 50_200)
    assert plan is not None
    assert plan.start == 50_200


def test_jumps_here_and_there_fetch_nothing() -> None:
    rng = random.Random(1)
    detector = Detector(HABIT)
    for _ in range(200):
        at = rng.randrange(1, 10**9)
        assert _observe(detector, at, at + 10) is None


@given(st.integers(1, 2000), st.integers(10, 500), st.randoms(use_true_random=False))
def test_a_sequence_is_planned_once_without_gaps(
    first: int, length: int, rng: random.Random
) -> None:
    detector = Detector(HABIT)
    starts = [first + number * length for number in range(60)]
    for at in range(0, len(starts) - 2, 2):  # as parallel requests come: swapped at times
        if length < HABIT.slack // 2 and rng.random() < 0.3:
            starts[at], starts[at + 1] = starts[at + 1], starts[at]
    plans = []
    for at in starts:
        plan = _observe(detector, at, at + length)
        if plan is not None:
            plans.append(plan)
            # Never less than half of the window is ahead, never more than all of it.
            assert 0 <= plan.stop - plan.stream.following <= HABIT.most
    assert plans
    for one, other in pairwise(plans):
        assert other.start >= one.stop
        assert other.start - one.stop <= length
        assert other.stream.window in (min(2 * one.stream.window, HABIT.most), one.stream.window)
    assert max(plan.stream.window for plan in plans) <= HABIT.most


def test_windows_double_up_to_the_most() -> None:
    detector = Detector(HABIT)
    windows = []
    for at in range(0, 50_000, 100):
        plan = _observe(detector, at, at + 100)
        if plan is not None:
            windows.append(plan.stream.window)
    assert windows[:4] == [1000, 2000, 4000, 8000]
    assert set(windows[4:]) == {8000}


def test_two_streams_are_told_apart() -> None:
    detector = Detector(HABIT)
    plans = []
    for step in range(50):
        for base in (0, 1_000_000):
            at = base + step * 100
            plan = _observe(detector, at, at + 100)
            if plan is not None:
                plans.append(plan)
    assert len({id(plan.stream) for plan in plans}) == 2


def test_a_plan_that_was_not_carried_out_is_made_again() -> None:
    detector = Detector(HABIT)
    plan = _observe(detector, 0, 100)
    assert plan is not None
    plan.stream.planned = 300
    again = _observe(detector, 100, 200)
    assert again is not None
    assert again.start == 300


def test_what_is_left_behind_is_told_once() -> None:
    detector = Detector(HABIT)
    left = []
    for at in range(0, 5000, 100):
        stream = detector.observe(at, at + 100)
        assert stream is not None
        left.append(detector.passed(stream))
    told = [one for one in left if one[0] < one[1]]
    assert told[0][0] == 0
    assert told[-1][1] == 5000 - HABIT.slack
    assert all(one[1] == other[0] for one, other in pairwise(told))


def test_hits_that_are_asked_for_come_first() -> None:
    detector = Detector(Habit(slack=64, first=64, most=2048, hits=3))
    observed = [detector.observe(rank, rank + 1) for rank in (10, 11, 12, 13)]
    assert [stream is not None for stream in observed] == [False, False, False, True]
