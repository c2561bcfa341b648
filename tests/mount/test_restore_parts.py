"""The parts of a restore by themselves: links, problems, rows, what is chosen."""

from __future__ import annotations

import errno
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mount import filecontent
from mount.filecontent import Row, grouped, pack_rows, parse_rows
from mount.links import Answer, Asked, Group, LocalLinks, Registry
from mount.restorechannel import MESSAGE_BYTES_MAX, Ready, Splitter, pack, parse_from_worker
from mount.restoreproblem import DEVICE, LISTED_MAX, Problem, Problems
from repo.format.node import HOLE
from repo.types import MIB

GROUPS = [Group(0, inode, 1) for inode in range(6)]
HERE = (b"here",)


class Sent(list[tuple[int, list[Answer]]]):
    """What a registry sends to workers that waited."""

    def __call__(self, worker: int, answers: Sequence[Answer]) -> None:
        self.append((worker, list(answers)))


# -- links ----------------------------------------------------------------------------------------


def test_whoever_asks_first_restores_and_the_others_learn_where() -> None:
    registry = Registry(Sent())
    a, b = GROUPS[:2]
    assert registry.ask(1, [Asked(a, 1, 4)]) == [Answer(yours=True)]
    assert registry.ask(2, [Asked(a, 1, 4), Asked(b, 1, 2)]) == [Answer(), Answer(yours=True)]
    registry.tell(1, [(a, HERE)])
    assert registry.ask(3, [Asked(a, 1, 4)]) == [Answer(HERE)]


def test_a_group_of_which_all_names_were_met_is_forgotten() -> None:
    registry = Registry(Sent())
    (a,) = GROUPS[:1]
    registry.ask(1, [Asked(a, 1, 3)])
    registry.tell(1, [(a, HERE)])
    assert registry.ask(1, [Asked(a, 2, 3)]) == [Answer(HERE)]
    assert not registry._states


def test_whoever_waits_is_told_as_soon_as_one_group_is_there() -> None:
    sent = Sent()
    registry = Registry(sent)
    a, b = GROUPS[:2]
    registry.ask(1, [Asked(a, 1, 2), Asked(b, 1, 2)])
    registry.ask(2, [Asked(a, 1, 2), Asked(b, 1, 2)])
    registry.wait(2, [a, b])
    assert sent == []
    registry.tell(1, [(b, HERE)])
    assert sent == [(2, [Answer(), Answer(HERE)])]
    registry.wait(2, [a])
    registry.tell(1, [(a, HERE)])
    assert sent[1:] == [(2, [Answer(HERE)])]
    assert not registry._states


def test_what_was_there_before_the_wait_is_told_at_once() -> None:
    sent = Sent()
    registry = Registry(sent)
    (a,) = GROUPS[:1]
    registry.ask(1, [Asked(a, 1, 3)])
    registry.ask(2, [Asked(a, 1, 3)])
    registry.tell(1, [(a, HERE)])
    registry.wait(2, [a])
    assert sent == [(2, [Answer(HERE)])]


def test_what_one_could_not_restore_is_the_next_one_s() -> None:
    sent = Sent()
    registry = Registry(sent)
    (a,) = GROUPS[:1]
    registry.ask(1, [Asked(a, 1, 9)])
    for worker in (2, 3):
        registry.ask(worker, [Asked(a, 1, 9)])
        registry.wait(worker, [a])
    registry.tell(1, [(a, ())])
    assert sent == [(2, [Answer(yours=True)])]
    registry.tell(2, [(a, ())])
    assert sent[1:] == [(3, [Answer(yours=True)])]
    registry.tell(3, [(a, ())])
    assert registry.ask(4, [Asked(a, 1, 9)]) == [Answer(yours=True)]


def test_what_a_dead_worker_had_is_somebody_else_s() -> None:
    sent = Sent()
    registry = Registry(sent)
    a, b = GROUPS[:2]
    registry.ask(1, [Asked(a, 1, 2), Asked(b, 1, 2)])
    registry.ask(2, [Asked(a, 1, 2)])
    registry.wait(2, [a])
    registry.lose(1)
    assert sent == [(2, [Answer(yours=True)])]
    assert registry.ask(3, [Asked(b, 1, 2)]) == [Answer(yours=True)]


@given(st.data())
def test_no_order_of_events_leaves_anybody_waiting(data: st.DataObject) -> None:
    """Workers that keep to the protocol end, and each group is restored unless all fail."""
    sent = Sent()
    registry = Registry(sent)
    wanted = {
        worker: data.draw(st.sets(st.sampled_from(GROUPS), min_size=1)) for worker in (1, 2, 3)
    }
    links = data.draw(st.integers(1, 4))  # recorded; 3 is right or more than right
    mine: dict[int, list[Group]] = {}
    waits: dict[int, list[Group]] = {}
    places: dict[Group, set[bytes]] = {}
    restored: list[Group] = []

    def take(worker: int, groups: Sequence[Group], answers: Sequence[Answer]) -> None:
        pairs = list(zip(groups, answers, strict=True))
        mine[worker] = [group for group, answer in pairs if answer.yours]
        waits[worker] = [g for g, answer in pairs if not answer.yours and not answer.path]
        for group, answer in pairs:
            if answer.path:
                places.setdefault(group, set()).add(answer.path[0])

    runnable = [1, 2, 3]
    started: set[int] = set()
    while runnable:
        worker = data.draw(st.sampled_from(runnable))
        if worker not in started:
            started.add(worker)
            groups = sorted(wanted[worker])
            take(worker, groups, registry.ask(worker, [Asked(g, 1, links) for g in groups]))
            continue
        registry.tell(worker, [(g, (b"%d" % worker,)) for g in mine[worker]])
        restored += mine[worker]
        mine[worker] = []
        runnable.remove(worker)
        if waits[worker]:
            registry.wait(worker, waits[worker])
        for receiver, answers in sent:
            take(receiver, waits[receiver], answers)
            runnable.append(receiver)
        sent.clear()
    assert not any(waits.values())
    if links < 3:
        return
    assert all(len(place) == 1 for place in places.values())
    assert sorted(restored) == sorted(set().union(*wanted.values()))


def test_alone_nobody_waits() -> None:
    links = LocalLinks(Registry(Sent()))
    assert links.ask([Asked(GROUPS[0], 1, 2)]) == [Answer(yours=True)]
    links.tell([(GROUPS[0], ())])
    assert links.ask([Asked(GROUPS[0], 1, 2)]) == [Answer(yours=True)]
    with pytest.raises(AssertionError):
        links.wait([GROUPS[0]])


# -- problems -------------------------------------------------------------------------------------


def test_a_refusal_of_a_kind_is_one_problem_whoever_met_it() -> None:
    master = Problems()
    for worker in range(3):
        problems = Problems()
        problems.folder = (b"a", b"%d" % worker)
        for name in (b"x", b"y"):
            problems.failed(name, DEVICE, PermissionError(errno.EPERM, ""))
        problems.failed(b"z", "write", OSError(errno.EIO, ""))
        master.merge(problems.take())
        assert problems.found() == []
    kinds = {problem.step: problem for problem in master.found() if problem.count > 1}
    assert kinds[DEVICE] == Problem(b"a/0/x", DEVICE, 1, "Operation not permitted", 6)
    assert [p.path for p in master.found() if p.step == "write"] == [b"a/0/z", b"a/1/z", b"a/2/z"]
    assert master.total == 9


def test_problems_beyond_number_are_counted() -> None:
    problems = Problems()
    for number in range(LISTED_MAX + 500):
        problems.failed(b"%d" % number, "write", OSError(errno.ENOSPC, ""))
    assert problems.total == LISTED_MAX + 500
    assert len(problems.found()) == LISTED_MAX + 1
    assert problems.found()[-1].count == 500


# -- rows and messages ----------------------------------------------------------------------------


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3 * MIB))))
def test_groups_hold_all_rows_in_order_and_little_data(parts: list[tuple[bool, int]]) -> None:
    rows = []
    offset = 0
    for hole, length in parts:
        rows.append(Row(offset, HOLE if hole else bytes([1]) * 32, length))
        offset += length
    assert parse_rows(pack_rows(rows)) == rows
    groups = list(grouped(rows))
    assert [row for group in groups for row in group] == rows
    for group in groups:
        assert sum(row.length for row in group if row.id != HOLE) <= filecontent.GROUP_BYTES


@given(st.lists(st.integers(1, 9), max_size=30))
def test_messages_come_out_as_they_went_in(sizes: list[int]) -> None:
    data = pack(Ready()) * 5
    splitter = Splitter()
    found = []
    for size in [*sizes, len(data)]:
        piece, data = data[:size], data[size:]
        found += [parse_from_worker(body) for body in splitter.feed(piece)]
    assert found == [Ready()] * 5


def test_a_message_beyond_its_limit_is_refused() -> None:
    with pytest.raises(ConnectionError):
        list(Splitter().feed((MESSAGE_BYTES_MAX + 1).to_bytes(4, "little")))
