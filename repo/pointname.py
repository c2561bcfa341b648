"""A point's name: what a user may write for a point, besides the beginning of its id."""

from __future__ import annotations

from datetime import datetime, timedelta

from repo.errors import UsageError
from repo.format.manifest import Point


def names_source(point: Point, text: str) -> bool:
    """Whether a text is the source of a point, by id or path."""
    return text in (point.source_id, point.source_path)


def until_ns(text: str) -> int:
    """The end of the day, hour, minute or second that a local ISO time names, in nanoseconds.

    Raises UsageError.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            "not a time", where=text, next_step="write it like 2026-01-31T18:00 or 2026-01-31"
        ) from None
    clock = text[11:].partition("+")[0].partition("-")[0]
    if not clock:
        moment += timedelta(days=1)
    elif "." not in clock:
        moment += (timedelta(hours=1), timedelta(minutes=1), timedelta(seconds=1))[clock.count(":")]
    return int(moment.timestamp() * 1_000_000) * 1000 - 1
