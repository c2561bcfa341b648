from __future__ import annotations

import io
import os

import pytest

from tools.cli import jsonline
from tools.cli.choices import Choices
from tools.cli.output import Column, Console, plain_table
from tools.cli.progress import (
    EventReporter,
    LineReporter,
    LiveReporter,
    QuietReporter,
    Reporter,
    Wording,
)

COLUMNS = (Column("name"), Column("size", right=True))
ROWS = [("a", "1.00 KiB"), ("longer", "7 B")]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def make(
    choices: Choices | None = None, *, terminal: bool = False, **environ: str
) -> tuple[Console, io.StringIO, io.StringIO]:
    kind = Terminal if terminal else io.StringIO
    out, err = kind(), kind()
    environ.setdefault("TERM", "xterm")
    return Console(choices or Choices(), out=out, err=err, environ=environ), out, err


def test_a_plain_table_is_aligned_and_cuts_nothing() -> None:
    console, out, _ = make()
    console.table(COLUMNS, ROWS)
    assert out.getvalue() == "NAME        SIZE\na       1.00 KiB\nlonger       7 B\n"
    assert plain_table(COLUMNS, []) == ""


def test_a_table_on_a_terminal_has_colours_unless_they_are_off() -> None:
    console, out, _ = make(terminal=True)
    console.table(COLUMNS, ROWS)
    assert "\x1b[1mname" in out.getvalue()
    for quiet in (make(Choices(no_color=True), terminal=True), make(terminal=True, NO_COLOR="1")):
        quiet[0].table((Column("x", style="red"),), [("y",)])
        quiet[0].fields([("z", "1")])
        assert "\x1b[31m" not in quiet[1].getvalue()
        assert quiet[0].styled("t", "red") == "t"
    dumb, out, _ = make(terminal=True, TERM="dumb")
    dumb.table(COLUMNS, ROWS)
    assert "\x1b" not in out.getvalue()


def test_a_cell_is_text_and_no_markup() -> None:
    console, out, _ = make(terminal=True)
    console.table((Column("x"),), [("[red]no[/red]",)])
    assert "[red]no[/red]" in out.getvalue()


def test_fields_line_up_and_leave_out_what_is_empty() -> None:
    console, out, _ = make()
    console.fields([("a", "1"), ("bcd", "2\n3"), ("e", "")])
    assert out.getvalue() == "a    1\nbcd  2\n     3\n"


def test_what_quiet_and_json_drop() -> None:
    for choices, said, hinted in (
        (Choices(), "s\n", "h\n"),
        (Choices(quiet=True), "", ""),
        (Choices(json=True), "", "h\n"),
    ):
        console, out, err = make(choices)
        console.say("s")
        console.hint("h")
        console.warn("w")
        assert out.getvalue() == said
        assert err.getvalue() == hinted + "w\n"


def test_json_lines() -> None:
    console, out, _ = make(Choices(json=True))
    console.emit({"a": "ä"})
    console.event("progress", n=1)
    assert out.getvalue() == '{"a":"ä"}\n{"event":"progress","n":1}\n'


def test_long_work_outlives_its_listener() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    out = os.fdopen(writer, "w")
    console = Console(Choices(json=True), out=out, err=io.StringIO(), environ={})
    console.event("progress")
    console.event("summary")
    out.flush()  # goes nowhere now, and does not fail
    out.close()


def test_a_warning_nobody_can_see_ends_nothing() -> None:
    class Gone(io.StringIO):
        def write(self, _text: str) -> int:
            raise BrokenPipeError

    Console(Choices(), out=io.StringIO(), err=Gone(), environ={}).warn("x")


@pytest.mark.parametrize(
    ("choices", "terminal", "kind"),
    [
        (Choices(), True, LiveReporter),
        (Choices(), False, LineReporter),
        (Choices(json=True), True, EventReporter),
        (Choices(quiet=True), True, QuietReporter),
    ],
)
def test_who_reports_progress(choices: Choices, terminal: bool, kind: type[Reporter]) -> None:
    console, _, _ = make(choices, terminal=terminal)
    assert type(console.reporter(Wording("Working"))) is kind


def test_names_in_json() -> None:
    assert jsonline.name("path", "ä".encode()) == {"path": "ä"}
    assert jsonline.name("path", b"\xe4") == {"path": "\ufffd", "path_base64": "5A=="}


def test_a_line_is_never_lost_for_a_name() -> None:
    record = {"a\udcff": ["b\udce4", ("c", 1)], "d": None}
    assert jsonline.encode(record) == '{"a\ufffd":["b\ufffd",["c",1]],"d":null}'
