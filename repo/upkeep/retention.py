"""Retention: which points the rules keep, and why. Pure: no clock, no file, no repository.

The rules count the times at which the repository received the points, never what a client
says of itself: a client with a wrong or forged clock pushes nothing out (restic 22057). A point
from the future is kept and takes no place of any rule.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from datetime import UTC, datetime, tzinfo
from typing import Final, NamedTuple


class Candidate(NamedTuple):
    """A point as the rules see it. `group`: the rules count within each group by itself.

    `pinned`: why it is kept whatever the rules say; empty when they decide.
    """

    id: bytes
    received_ns: int
    group: Hashable = ()
    pinned: str = ""


class Rules(NamedTuple):
    """What is kept: the last n points, and the newest of each of the last n hours, days, weeks,
    months and years that have one; all within some time of the newest. 0: a rule that keeps none.

    `min_age_ns`: younger points are kept, too.
    """

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0
    within_ns: int = 0
    min_age_ns: int = 0

    @property
    def keep_something(self) -> bool:
        """Whether any rule keeps a point by itself; then the newest of each group is kept."""
        return any(self[:7])


class Decision(NamedTuple):
    """What becomes of a point: kept for these reasons, or forgotten when there are none."""

    candidate: Candidate
    reasons: tuple[str, ...]

    @property
    def kept(self) -> bool:
        """Whether the point stays."""
        return bool(self.reasons)


Bucket = Callable[[datetime], tuple[int, ...]]

_WORDS: Final[dict[str, Callable[[datetime], str]]] = {
    "hourly": lambda t: t.strftime("%Y-%m-%d %H h"),
    "daily": lambda t: t.strftime("%Y-%m-%d"),
    "weekly": lambda t: t.strftime("%G-W%V"),
    "monthly": lambda t: t.strftime("%Y-%m"),
    "yearly": lambda t: t.strftime("%Y"),
}


def _hour(t: datetime) -> tuple[int, ...]:
    # The distance from UTC tells the two hours apart that have one name when a summer ends.
    offset = t.utcoffset()
    return (t.year, t.month, t.day, t.hour, int(offset.total_seconds()) if offset else 0)


_BUCKETS: Final[dict[str, Bucket]] = {
    "hourly": _hour,
    "daily": lambda t: (t.year, t.month, t.day),
    "weekly": lambda t: tuple(t.isocalendar()[:2]),
    "monthly": lambda t: (t.year, t.month),
    "yearly": lambda t: (t.year,),
}


def decide(
    candidates: Iterable[Candidate], rules: Rules, *, now_ns: int, zone: tzinfo | None = None
) -> list[Decision]:
    """What becomes of each point, newest first within each group.

    zone: where days begin; None for this machine's.
    """
    groups: defaultdict[Hashable, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        groups[candidate.group].append(candidate)
    decisions: list[Decision] = []
    for members in groups.values():
        members.sort(key=lambda c: (c.received_ns, c.id), reverse=True)
        decisions += _decide_group(members, rules, now_ns, zone)
    return decisions


def _decide_group(
    members: Sequence[Candidate], rules: Rules, now_ns: int, zone: tzinfo | None
) -> list[Decision]:
    past = [candidate for candidate in members if candidate.received_ns <= now_ns]
    reasons: dict[bytes, list[str]] = {candidate.id: [] for candidate in members}
    for place, candidate in enumerate(past[: rules.last], start=1):
        reasons[candidate.id].append(f"last {place}")
    times = {
        c.id: datetime.fromtimestamp(c.received_ns // 10**9, UTC).astimezone(zone) for c in past
    }
    for rule, bucket in _BUCKETS.items():
        left = getattr(rules, rule)
        before: tuple[int, ...] | None = None
        for candidate in past:
            at = bucket(times[candidate.id])
            if at == before:
                continue
            if not left:
                break
            left -= 1
            before = at
            reasons[candidate.id].append(f"{rule} {_WORDS[rule](times[candidate.id])}")
    for candidate in members:
        mine = reasons[candidate.id]
        if (
            rules.within_ns
            and past
            and candidate.received_ns > past[0].received_ns - rules.within_ns
        ):
            mine.append("within")
        if candidate.received_ns > now_ns:
            mine.append("received in the future")
        elif now_ns - candidate.received_ns < rules.min_age_ns:
            mine.append("younger than the minimum age")
        if candidate.pinned:
            mine.append(candidate.pinned)
    return [Decision(candidate, tuple(reasons[candidate.id])) for candidate in members]
