"""Progress: how far long work has come, on a terminal, in lines or as JSON events.

The engine calls `update(ProgressState)` as often as it likes and knows no terminal; a reporter
decides when that is worth drawing. Nothing here has a thread or a timer of its own.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from tools.cli import human, jsonline

if TYPE_CHECKING:
    from rich.console import Console as RichConsole
    from rich.console import Group
    from rich.text import Text

Clock = Callable[[], float]

BAR_WIDTH: Final = 50
WINDOW_SECONDS: Final = 10.0
"""The speed shown is that of the last so many seconds."""


class StreamState(NamedTuple):
    """What one stream does now. path: of the file in work, empty when idle."""

    number: int
    path: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressState:
    """How far the work has come. Expected totals are None while nobody knows them.

    items: what is counted, files as a rule (`Wording.noun` says). doing: the step of the work.
    """

    items: int = 0
    items_expected: int | None = None
    bytes_in: int = 0
    bytes_expected: int | None = None
    bytes_new: int | None = None
    problems: int = 0
    doing: str = ""
    streams: Sequence[StreamState] = ()


class Wording(NamedTuple):
    """What to call the work (title), what it counts (noun), what it does with bytes (verb).

    An empty verb: it counts no bytes.
    """

    title: str
    noun: str = "files"
    verb: str = "read"


class Meter:
    """Speed and time left, from samples of (time, bytes)."""

    def __init__(self, now: float) -> None:
        self._samples: deque[tuple[float, int]] = deque([(now, 0)])

    def take(self, now: float, count: int) -> None:
        """A sample: so many bytes in all at this time."""
        self._samples.append((now, count))
        while len(self._samples) > 2 and self._samples[1][0] <= now - WINDOW_SECONDS:
            self._samples.popleft()

    def bytes_per_second(self) -> float:
        """The speed over the window; 0 before there are two samples apart."""
        (start, first), (end, last) = self._samples[0], self._samples[-1]
        return (last - first) / (end - start) if end > start else 0.0

    def seconds_left(self, expected: int | None) -> float | None:
        """How long the rest takes at this speed; None when nobody can say."""
        done = self._samples[-1][1]
        speed = self.bytes_per_second()
        if expected is None or speed <= 0:
            return None
        return max(0.0, (expected - done) / speed)


class Reporter:
    """Shows progress every `interval_seconds` at most; used as a context manager."""

    interval_seconds = 1.0

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._start = clock()
        self._meter = Meter(self._start)
        self._due = self._start + self.interval_seconds
        self._sampled = self._start

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def update(self, state: ProgressState) -> None:
        """Take a new state; drawn when it is time."""
        now = self._clock()
        if now - self._sampled >= 0.1:
            self._meter.take(now, state.bytes_in)
            self._sampled = now
        if now >= self._due:
            self._due = now + self.interval_seconds
            self.show(state, now - self._start)

    def problem(self, path: bytes, step: str, errno: int, detail: str) -> None:
        """A file that cannot be taken as it should: told at once."""

    def notice(self, text: str) -> None:
        """A line that is worth reading, besides the figures."""

    def show(self, state: ProgressState, seconds: float) -> None:
        """Draw a state, `seconds` after the beginning."""

    def close(self) -> None:
        """Leave the terminal as it was."""


def problem_line(path: bytes, step: str, errno: int, detail: str) -> str:
    """A problem as one line: "cannot read home/x: Permission denied"."""
    why = human.one_line(detail) or (os.strerror(errno) if errno else "unknown reason")
    return f"cannot {step} {human.printable(path)}: {why}"


def summary_words(state: ProgressState, meter: Meter, wording: Wording) -> list[str]:
    """The figures of a state, each with its word, in the order of importance."""
    items = human.count(state.items)
    if state.items_expected:
        items += f" of {human.count(state.items_expected)}"
    words = [f"{items} {wording.noun}"]
    if wording.verb:
        amount = human.size(state.bytes_in)
        if state.bytes_expected:
            amount += f" of {human.size(state.bytes_expected)}"
        words.append(f"{amount} {wording.verb}")
        if state.bytes_new is not None:
            words.append(f"{human.size(state.bytes_new)} new")
        words.append(f"{human.size(meter.bytes_per_second())}/s")
        left = meter.seconds_left(state.bytes_expected)
        if left is not None:
            words.append(f"ETA {human.clock(left)}")
    if state.problems:
        words.append(human.plural(state.problems, "problem"))
    return words


class QuietReporter(Reporter):
    """With --quiet: problems and notices only."""

    def __init__(self, warn: Callable[[str], None], clock: Clock = time.monotonic) -> None:
        super().__init__(clock)
        self._warn = warn

    def notice(self, text: str) -> None:
        """Tell it as a warning."""
        self._warn(f"repo: {text}")

    def problem(self, path: bytes, step: str, errno: int, detail: str) -> None:
        """Tell a problem as a warning."""
        self._warn(f"repo: {problem_line(path, step, errno, detail)}")


class LineReporter(QuietReporter):
    """Where no terminal is: a line every few seconds, fit for a log."""

    interval_seconds = 5.0

    def __init__(
        self,
        warn: Callable[[str], None],
        wording: Wording,
        clock: Clock = time.monotonic,
    ) -> None:
        super().__init__(warn, clock)
        self._wording = wording

    def show(self, state: ProgressState, seconds: float) -> None:
        """Print a line."""
        words = summary_words(state, self._meter, self._wording)
        if state.doing:
            words.insert(0, state.doing)
        self._warn(f"{self._wording.title} {human.clock(seconds)}: {', '.join(words)}")


class EventReporter(Reporter):
    """With --json: {"event":"progress",...} every second, {"event":"problem",...} at once."""

    def __init__(
        self, event: Callable[..., Any], wording: Wording, clock: Clock = time.monotonic
    ) -> None:
        super().__init__(clock)
        self._event = event
        self._noun = wording.noun

    def show(self, state: ProgressState, seconds: float) -> None:
        """Send {"event":"progress"}."""
        left = self._meter.seconds_left(state.bytes_expected)
        self._event(
            "progress",
            seconds=round(seconds, 3),
            doing=state.doing,
            **{self._noun: state.items, f"{self._noun}_expected": state.items_expected},
            bytes_in=state.bytes_in,
            bytes_expected=state.bytes_expected,
            bytes_new=state.bytes_new,
            bytes_per_second=round(self._meter.bytes_per_second()),
            seconds_left=None if left is None else round(left, 1),
            problems=state.problems,
            streams=[{"stream": s.number, **jsonline.name("path", s.path)} for s in state.streams],
        )

    def notice(self, text: str) -> None:
        """Send {"event":"notice"}."""
        self._event("notice", text=text)

    def problem(self, path: bytes, step: str, errno: int, detail: str) -> None:
        """Send {"event":"problem"}."""
        self._event(
            "problem",
            **jsonline.name("path", path),
            step=step,
            errno=errno,
            message=detail or (os.strerror(errno) if errno else ""),
        )


class LiveReporter(Reporter):
    """On a terminal: figures, a bar and a line per stream, redrawn in place."""

    interval_seconds = 0.2

    def __init__(
        self,
        console: RichConsole,
        wording: Wording,
        clock: Clock = time.monotonic,
    ) -> None:
        from rich.live import Live

        super().__init__(clock)
        self._console = console
        self._wording = wording
        # Not refreshed by a thread: what is not running cannot disturb a fork or a trace.
        self._live = Live(
            console=console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._shown = False

    def show(self, state: ProgressState, seconds: float) -> None:
        """Draw the figures, the bar and the streams over the last ones."""
        if not self._shown:
            self._live.start()
            self._shown = True
        self._live.update(self._draw(state, seconds), refresh=True)

    def problem(self, path: bytes, step: str, errno: int, detail: str) -> None:
        """Print a line that stays, above what is redrawn."""
        self.notice(problem_line(path, step, errno, detail))

    def notice(self, text: str) -> None:
        """Print a line that stays, above what is redrawn."""
        from rich.text import Text

        line = Text("repo: ", style="yellow")
        self._console.print(line.append(human.one_line(text), style="default"))

    def close(self) -> None:
        """Take the figures away: a summary follows."""
        if self._shown:
            self._live.stop()

    def _draw(self, state: ProgressState, seconds: float) -> Group:
        from rich.console import Group
        from rich.text import Text

        head = Text(no_wrap=True, overflow="ellipsis")
        head.append(self._wording.title, style="bold")
        head.append(f"  {human.clock(seconds)}")
        if state.doing:
            head.append(f"  {state.doing}", style="dim")
        figures = Text("  ".join(summary_words(state, self._meter, self._wording)))
        figures.no_wrap, figures.overflow = True, "ellipsis"
        parts: list[Any] = [head, figures]
        total = state.bytes_expected if self._wording.verb else state.items_expected
        if total:
            parts.append(_bar((state.bytes_in if self._wording.verb else state.items) / total))
        parts.extend(self._stream_line(stream) for stream in state.streams)
        return Group(*parts)

    def _stream_line(self, stream: StreamState) -> Text:
        from rich.text import Text

        line = Text(f"{stream.number:>3} ", style="dim", no_wrap=True)
        room = max(10, self._console.width - 5)
        path = human.printable(stream.path)
        line.append(shortened(path, room) if path else "-", style="default")
        return line


def _bar(share: float) -> Text:
    from rich.text import Text

    filled = round(min(1.0, share) * BAR_WIDTH)
    bar = Text("━" * filled, style="green", no_wrap=True, overflow="crop")
    bar.append("━" * (BAR_WIDTH - filled), style="bright_black")
    return bar.append(f" {min(1.0, share):4.0%}", style="default")


def shortened(path: str, room: int) -> str:
    """A path of at most `room` characters: what is cut out lies in the middle."""
    if len(path) <= room:
        return path
    tail = (room - 1) * 2 // 3
    return f"{path[: room - 1 - tail]}…{path[-tail:]}"
