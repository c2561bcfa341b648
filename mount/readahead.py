"""Read-ahead: who reads in sequence, and how far ahead it pays to fetch. Pure.

Positions are bytes of a file, or ranks of the files of a point: whoever reads a tree in the
order in which it is listed opens files of rising rank. Several streams in one file (or tree)
are told apart. A stream may come out of order, as the kernel's own read-ahead does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

STREAMS_MAX: Final = 8


class Habit(NamedTuple):
    """What counts as reading in sequence, and what is fetched ahead; in positions.

    slack: how far from where a stream stands a request may lie. The window is `first` when a
    stream is found, doubles with each plan and ends at `most`. `hits`: requests in sequence
    before anything is fetched.
    """

    slack: int
    first: int
    most: int
    hits: int = 1


@dataclass(slots=True)
class Stream:
    """Somebody who reads in sequence.

    following: where the next request is expected. planned: up to where everything is fetched
    or being fetched. window: how far ahead of `following` that should reach. handed: up to where
    everything was handed to the kernel unasked.
    """

    following: int
    planned: int
    behind: int
    handed: int = 0
    window: int = 0
    hits: int = 0


class Plan(NamedTuple):
    """What to fetch next, for a stream: from `start` to `stop`."""

    stream: Stream
    start: int
    stop: int


class Detector:
    """The streams of one file or tree."""

    __slots__ = ("_habit", "_streams")

    def __init__(self, habit: Habit) -> None:
        self._habit = habit
        self._streams: list[Stream] = []  # the one seen last is the last one

    def observe(self, start: int, stop: int) -> Stream | None:
        """A request came; the stream it belongs to, if it is in sequence."""
        stream = self._stream(start)
        if stream is None:
            stream = Stream(following=stop, planned=stop, behind=start)
            self._streams.append(stream)
            del self._streams[:-STREAMS_MAX]
            if start > 0:
                return None
        elif self._streams[-1] is not stream:
            self._streams.remove(stream)
            self._streams.append(stream)
        stream.following = max(stream.following, stop)
        stream.planned = max(stream.planned, stream.following)
        stream.hits += 1
        return stream if stream.hits >= self._habit.hits else None

    def plan(self, stream: Stream) -> Plan | None:
        """What to fetch now for a stream, if less than half of its window is left.

        A caller who does not get so far sets `stream.planned` back.
        """
        if stream.planned - stream.following > stream.window // 2:
            return None
        stream.window = min(max(self._habit.first, 2 * stream.window), self._habit.most)
        plan = Plan(stream, stream.planned, stream.following + stream.window)
        stream.planned = plan.stop
        return plan

    def _stream(self, start: int) -> Stream | None:
        slack = self._habit.slack
        for stream in reversed(self._streams):
            if -slack <= start - stream.following <= slack + stream.window:
                return stream
        return None

    def passed(self, stream: Stream) -> tuple[int, int]:
        """What the stream has left behind it since this was asked last, out-of-order included."""
        start, stop = stream.behind, max(stream.behind, stream.following - self._habit.slack)
        stream.behind = stop
        return start, stop
