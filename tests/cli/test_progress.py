from __future__ import annotations

import io
import re
from typing import Any

import pytest
from rich.console import Console as RichConsole

from tools.cli.progress import (
    EventReporter,
    LineReporter,
    LiveReporter,
    Meter,
    ProgressState,
    QuietReporter,
    StreamState,
    Wording,
    shortened,
)

MIB = 1 << 20
WORDING = Wording("Backing up")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def run(reporter: Any, clock: Clock, seconds: int, per_second: int, **state: Any) -> None:
    """Feed a reporter ten times a second with work at an even speed."""
    for tick in range(seconds * 10):
        clock.now += 0.1
        done = (tick + 1) * per_second // 10
        reporter.update(ProgressState(items=tick + 1, bytes_in=done, **state))


def test_speed_and_time_left_follow_the_last_seconds() -> None:
    meter = Meter(0.0)
    assert meter.bytes_per_second() == 0
    assert meter.seconds_left(1000) is None
    for second in range(1, 101):
        meter.take(float(second), second * 10 if second <= 50 else 500 + (second - 50) * 100)
    assert meter.bytes_per_second() == pytest.approx(100)
    assert meter.seconds_left(5600) == pytest.approx(1)
    assert meter.seconds_left(100) == 0
    assert meter.seconds_left(None) is None


def test_plain_lines_come_every_few_seconds(clock: Clock) -> None:
    lines: list[str] = []
    with LineReporter(lines.append, WORDING, clock) as reporter:
        run(reporter, clock, 12, 10 * MIB, bytes_expected=240 * MIB, bytes_new=MIB, problems=2)
    assert len(lines) == 2
    shape = (
        r"Backing up 0:05: \d+ files, [\d.]+ MiB of 240 MiB read, 1\.00 MiB new, "
        r"10\.0 MiB/s, ETA 0:1\d, 2 problems"
    )
    assert re.fullmatch(shape, lines[0])
    assert lines[1].startswith("Backing up 0:10: ")


def test_work_without_bytes_counts_items_only(clock: Clock) -> None:
    lines: list[str] = []
    wording = Wording("Rebuilding", noun="segments", verb="")
    reporter = LineReporter(lines.append, wording, clock)
    run(reporter, clock, 6, 0, items_expected=1000, doing="reading")
    (line,) = lines
    assert line.endswith("of 1,000 segments")
    assert "reading, " in line


def test_a_short_job_prints_no_line(clock: Clock) -> None:
    lines: list[str] = []
    with LineReporter(lines.append, WORDING, clock) as reporter:
        run(reporter, clock, 3, MIB)
    assert lines == []


def test_problems_are_told_at_once_even_when_quiet(clock: Clock) -> None:
    lines: list[str] = []
    for reporter in (
        QuietReporter(lines.append, clock),
        LineReporter(lines.append, WORDING, clock),
    ):
        reporter.problem(b"home/x\x1b", "open", 13, "")
        reporter.problem(b"home/y", "read", 0, "it shrank")
    assert (
        lines
        == [
            "repo: cannot open home/x\\x1b: Permission denied",
            "repo: cannot read home/y: it shrank",
        ]
        * 2
    )


def test_events(clock: Clock) -> None:
    events: list[tuple[str, dict[str, Any]]] = []

    def listen(name: str, **fields: Any) -> None:
        events.append((name, fields))

    with EventReporter(listen, WORDING, clock) as reporter:
        run(reporter, clock, 2, 10 * MIB, streams=(StreamState(1, b"a/\xff"),), bytes_new=5)
        reporter.problem(b"b", "open", 2, "")
    names = [name for name, _ in events]
    assert names[-1] == "problem"
    assert set(names[:-1]) == {"progress"}
    assert events[-1][1] == {
        "path": "b",
        "step": "open",
        "errno": 2,
        "message": "No such file or directory",
    }
    fields = events[0][1]
    assert fields["files_expected"] is None
    assert fields["bytes_new"] == 5
    assert fields["streams"] == [{"stream": 1, "path": "a/\ufffd", "path_base64": "YS//"}]


def test_a_terminal_shows_figures_streams_and_problems_and_is_left_clean(clock: Clock) -> None:
    screen = io.StringIO()
    console = RichConsole(file=screen, force_terminal=True, width=70, height=20, markup=False)
    streams = (StreamState(1, b"a/very/" + b"long/" * 30 + b"name.c"), StreamState(2))
    with LiveReporter(console, WORDING, clock) as reporter:
        run(reporter, clock, 3, MIB, bytes_expected=10 * MIB, streams=streams, doing="reading")
        reporter.problem(b"[red]x", "open", 13, "")
    text = screen.getvalue()
    assert "Backing up" in text
    assert "of 10.0 MiB read" in text
    assert "name.c" in text
    assert "cannot open [red]x: Permission denied" in text
    assert text.count("\x1b[?25h") == 1  # the cursor is back


def test_a_terminal_that_was_never_drawn_on_is_left_alone(clock: Clock) -> None:
    screen = io.StringIO()
    with LiveReporter(RichConsole(file=screen, force_terminal=True), WORDING, clock):
        pass
    assert screen.getvalue() == ""


def test_a_long_path_loses_its_middle() -> None:
    assert shortened("short", 10) == "short"
    cut = shortened("/a/b/" + "c" * 100 + "/name", 20)
    assert len(cut) == 20
    assert cut.startswith("/a/b/")
    assert cut.endswith("/name")
