"""A planner: depth first, small tasks before large files, nothing lost and nothing twice."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ingest.assembly import PendingDirectory, SourceAssembly
from ingest.planner import BATCH_MAX, RANGES_AHEAD, Planner, Work
from ingest.task import ListTask, RangeTask
from repo.types import ChunkId

DIRECTORY = PendingDirectory(SourceAssembly(0, lambda _data: ChunkId(bytes(32))), (), None)


def listing(planner: Planner, *path: bytes) -> Work:
    return Work(ListTask(planner.next_id(), 0, path), DIRECTORY)


def a_range(planner: Planner, start: int) -> Work:
    version = (0, 0, 0, 0, 0)
    return Work(RangeTask(planner.next_id(), 0, (), b"f", start, start + 1, version), DIRECTORY)


def take(planner: Planner, workers: int = 1, on_ranges: int = 0, holds: int = 0) -> list[Work]:
    return planner.take(workers=workers, on_ranges=lambda: on_ranges, holds=holds)


def test_directories_go_depth_first() -> None:
    planner = Planner()
    first, second = listing(planner, b"a"), listing(planner, b"b")
    planner.add(first)
    planner.add(second)
    assert take(planner) == [second]
    below = listing(planner, b"b", b"below")
    planner.add(below)
    assert take(planner) == [below]
    assert take(planner) == [first]
    assert take(planner) == []


def test_ranges_go_in_order_and_only_so_many_ahead() -> None:
    planner = Planner()
    ranges = [a_range(planner, start) for start in range(5)]
    for work in ranges:
        planner.add(work)
    assert planner.ranges == len(planner) == 5
    assert take(planner) == ranges[:RANGES_AHEAD]
    assert take(planner, holds=1) == ranges[RANGES_AHEAD : RANGES_AHEAD + 1]
    assert take(planner, holds=RANGES_AHEAD) == []
    assert take(planner, holds=BATCH_MAX) == []


def test_large_files_keep_up_to_half_of_the_workers_while_there_are_small_tasks() -> None:
    planner = Planner()
    small = [listing(planner, b"%d" % number) for number in range(100)]
    for work in [*small, a_range(planner, 0), a_range(planner, 1), a_range(planner, 2)]:
        planner.add(work)
    assert isinstance(take(planner, workers=4, on_ranges=1)[0].task, RangeTask)
    assert isinstance(take(planner, workers=4, on_ranges=2)[0].task, ListTask)


def test_a_task_that_is_done_again_comes_before_all_others() -> None:
    planner = Planner()
    lost = a_range(planner, 0)
    planner.add(a_range(planner, 1))
    planner.again(lost)
    assert take(planner)[0] is lost


def test_a_stopped_planner_drops_what_it_has_and_what_comes() -> None:
    planner = Planner()
    planner.add(listing(planner, b"a"))
    planner.add(a_range(planner, 0))
    before = planner.next_id()
    planner.stop()
    planner.add(listing(planner, b"b"))
    planner.again(a_range(planner, 1))
    assert len(planner) == 0
    assert take(planner) == []
    assert planner.next_id() > before, "numbers of tasks go on: results may still come"


steps = st.lists(
    st.one_of(
        st.sampled_from(["small", "range", "again"]),
        st.tuples(st.integers(1, 8), st.integers(0, 8), st.integers(0, 10)),
    ),
    max_size=80,
)


@given(steps)
def test_every_task_is_handed_out_exactly_once(steps: list[Any]) -> None:
    planner = Planner()
    queued: dict[int, Work] = {}
    out: list[Work] = []
    for step in steps:
        if step == "again" and out:
            work = out.pop()
            planner.again(work)
            queued[work.task.id] = work
        elif isinstance(step, str):
            work = a_range(planner, 0) if step == "range" else listing(planner)
            planner.add(work)
            queued[work.task.id] = work
        else:
            workers, on_ranges, holds = step
            taken = take(planner, workers, min(on_ranges, workers), holds)
            assert len(taken) <= BATCH_MAX
            for work in taken:
                assert queued.pop(work.task.id) is work
            out += taken
        assert len(planner) == len(queued)
    while queued:
        taken = take(planner)
        assert taken, "an idle worker gets something as long as there is anything"
        for work in taken:
            del queued[work.task.id]
