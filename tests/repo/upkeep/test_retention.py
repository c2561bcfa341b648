"""The rules of retention: what they keep, and what must hold for any points and any rules."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from repo.upkeep.retention import Candidate, Decision, Rules, decide

DAY = 86_400 * 10**9
NOW = int(datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()) * 10**9


def at(*when: int) -> int:
    return int(datetime(*when, tzinfo=UTC).timestamp()) * 10**9  # type: ignore[misc, arg-type]


def points(*times: int, group: str = "a") -> list[Candidate]:
    return [Candidate(f"{group}{i}".encode(), time, group) for i, time in enumerate(times)]


def kept(decisions: list[Decision]) -> set[bytes]:
    return {decision.candidate.id for decision in decisions if decision.kept}


def keeps(candidates: list[Candidate], rules: Rules, now_ns: int = NOW) -> set[bytes]:
    return kept(decide(candidates, rules, now_ns=now_ns, zone=UTC))


def test_the_newest_of_each_period_is_kept_and_the_reason_names_it() -> None:
    found = decide(
        points(at(2026, 1, 1, 8), at(2026, 1, 1, 20), at(2026, 1, 2, 8), at(2026, 2, 1)),
        Rules(daily=2, monthly=2),
        now_ns=NOW,
        zone=UTC,
    )
    assert [(d.candidate.id, d.reasons) for d in found] == [
        (b"a3", ("daily 2026-02-01", "monthly 2026-02")),
        (b"a2", ("daily 2026-01-02", "monthly 2026-01")),
        (b"a1", ()),
        (b"a0", ()),
    ]


def test_periods_without_a_point_take_no_place() -> None:
    assert keeps(points(at(2020, 1, 1), at(2023, 1, 1), at(2026, 1, 1)), Rules(yearly=2)) == {
        b"a1",
        b"a2",
    }


def test_weeks_are_those_of_the_calendar() -> None:
    sunday, monday = at(2026, 1, 4, 23), at(2026, 1, 5, 1)
    assert keeps(points(sunday, monday), Rules(weekly=2)) == {b"a0", b"a1"}
    assert keeps(points(at(2026, 1, 5), at(2026, 1, 11)), Rules(weekly=2)) == {b"a1"}


def test_days_begin_where_the_zone_says() -> None:
    late, early = at(2026, 1, 1, 22), at(2026, 1, 2, 1)
    assert keeps(points(late, early), Rules(daily=5)) == {b"a0", b"a1"}
    there = timezone(timedelta(hours=3))
    assert kept(decide(points(late, early), Rules(daily=5), now_ns=NOW, zone=there)) == {b"a1"}


def test_within_counts_from_the_newest_point_not_from_now() -> None:
    old = points(NOW - 400 * DAY, NOW - 395 * DAY, NOW - 394 * DAY)
    assert keeps(old, Rules(within_ns=3 * DAY)) == {b"a1", b"a2"}


def test_groups_are_counted_by_themselves() -> None:
    both = points(NOW - 2, NOW - 1) + points(NOW - 4, NOW - 3, group="b")
    assert keeps(both, Rules(last=1)) == {b"a1", b"b1"}


def test_young_and_pinned_points_stay() -> None:
    pinned = Candidate(b"p", NOW - 9 * DAY, "a", "pinned")
    rules = Rules(last=1, min_age_ns=DAY)
    assert keeps([*points(NOW - DAY // 2, NOW - 5, NOW - 2 * DAY), pinned], rules) == {
        b"a0",
        b"a1",
        b"p",
    }


def test_a_point_from_the_future_pushes_nothing_out() -> None:
    real = points(NOW - 3 * DAY, NOW - 2 * DAY, NOW - DAY)
    rules = Rules(last=2, daily=2, within_ns=2 * DAY)
    forged = [Candidate(b"f%d" % i, NOW + (i + 1) * 3650 * DAY, "a") for i in range(20)]
    assert keeps(real + forged, rules) >= keeps(real, rules)


candidates = st.lists(
    st.builds(
        Candidate,
        id=st.binary(min_size=2, max_size=2),
        received_ns=st.integers(NOW - 4000 * DAY, NOW + 400 * DAY),
        group=st.sampled_from(["a", "b"]),
        pinned=st.sampled_from(["", "", "", "pinned"]),
    ),
    unique_by=lambda c: c.id,
    max_size=60,
)
numbers = st.integers(0, 12)
rules = st.builds(
    Rules, numbers, numbers, numbers, numbers, numbers, numbers,
    within_ns=st.integers(0, 500 * DAY), min_age_ns=st.integers(0, 30 * DAY),
)  # fmt: skip


@given(candidates, rules)
def test_each_point_is_decided_once_and_the_order_in_does_not_matter(
    found: list[Candidate], some: Rules
) -> None:
    decisions = decide(found, some, now_ns=NOW, zone=UTC)
    assert sorted(d.candidate for d in decisions) == sorted(found)
    again = decide(reversed(found), some, now_ns=NOW, zone=UTC)
    assert {d.candidate.id: d.reasons for d in again} == {
        d.candidate.id: d.reasons for d in decisions
    }


@given(candidates, rules, rules)
def test_more_rules_keep_more(found: list[Candidate], some: Rules, other: Rules) -> None:
    more = Rules(*(max(pair) for pair in zip(some, other, strict=True)))
    assert keeps(found, some) | keeps(found, other) <= keeps(found, more)


@given(candidates, rules)
def test_pinned_young_and_future_points_stay_and_so_does_the_newest(
    found: list[Candidate], some: Rules
) -> None:
    left = keeps(found, some)
    for candidate in found:
        if candidate.pinned or candidate.received_ns > NOW - some.min_age_ns:
            assert candidate.id in left or candidate.received_ns == NOW
    for group in ("a", "b"):
        past = [c for c in found if c.group == group and c.received_ns <= NOW]
        if past and some.keep_something:
            assert max(past, key=lambda c: (c.received_ns, c.id)).id in left


@given(candidates, rules)
def test_to_forget_twice_is_to_forget_once(found: list[Candidate], some: Rules) -> None:
    left = keeps(found, some)
    assert keeps([c for c in found if c.id in left], some) == left


@given(candidates, rules, st.integers(1, 400 * DAY))
def test_points_from_the_future_take_nobodys_place(
    found: list[Candidate], some: Rules, ahead: int
) -> None:
    forged = [Candidate(b"forged%d" % i, NOW + ahead + i, "a") for i in range(5)]
    assert keeps([*found, *forged], some) - {c.id for c in forged} == keeps(found, some)


@given(candidates, st.integers(1, 9))
def test_a_number_of_periods_keeps_no_more_than_so_many_points(
    found: list[Candidate], count: int
) -> None:
    past = [c._replace(pinned="") for c in found if c.received_ns <= NOW and c.group == "a"]
    for rule in ("last", "hourly", "daily", "weekly", "monthly", "yearly"):
        assert len(keeps(past, Rules(**{rule: count}))) <= count
