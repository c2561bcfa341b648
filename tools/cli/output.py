"""The console: decides once how a command prints, so that no command asks about terminals.

- plain: aligned text without colours, when stdout is not a terminal
- rich: tables, trees and colours on a terminal (rich is imported at the first use)
- json: JSON objects, one per line, and nothing else on stdout
Results go to stdout; progress, hints and warnings go to stderr. --quiet keeps results that
were asked for, warnings and errors, and drops the rest.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TextIO

from tools.cli import human, jsonline

if TYPE_CHECKING:
    from rich.console import Console as RichConsole

    from tools.cli.choices import Choices
    from tools.cli.progress import Reporter, Wording


class Column(NamedTuple):
    """A column of a table.

    right: numbers, aligned to the right. On a terminal: style, and folds, whether the column
    gives way when the terminal is too narrow.
    """

    title: str
    right: bool = False
    style: str = ""
    folds: bool = False


class Console:
    """Prints what a command has to say, in the way this run wants it."""

    def __init__(
        self,
        choices: Choices,
        *,
        out: TextIO | None = None,
        err: TextIO | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._out = sys.stdout if out is None else out
        self._err = sys.stderr if err is None else err
        self.json = choices.json
        self.quiet = choices.quiet
        dumb = environ.get("TERM", "") in ("", "dumb")
        self._rich_out = not self.json and not dumb and self._out.isatty()
        self._rich_err = not dumb and self._err.isatty()
        self._color = not choices.no_color and not environ.get("NO_COLOR")
        self._listening = True

    # Results

    def emit(self, record: object) -> None:
        """A result as one JSON line. Raises BrokenPipeError when nobody reads any more."""
        self._out.write(jsonline.encode(record) + "\n")

    def result(self, text: str) -> None:
        """A line that was asked for: printed even with --quiet."""
        self._out.write(text + "\n")

    def say(self, text: str) -> None:
        """A line that is nice to know on success: not with --quiet, not with --json."""
        if not self.quiet and not self.json:
            self._out.write(text + "\n")

    def table(self, columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> None:
        """A table; on a terminal with colours, else in plain aligned columns."""
        if self._rich_out:
            self._rich_table(columns, rows)
        else:
            self._out.write(plain_table(columns, [list(row) for row in rows]))

    def fields(self, pairs: Iterable[tuple[str, str]]) -> None:
        """A list of names and values; a value of several lines is indented as a whole."""
        listed = [(name, value) for name, value in pairs if value]
        width = max((len(name) for name, _ in listed), default=0)
        for name, value in listed:
            first, *more = value.split("\n")
            shown = self.styled(name.ljust(width), "bold")
            self._out.write(f"{shown}  {first}\n")
            for line in more:
                self._out.write(f"{' ' * width}  {line}\n")

    def styled(self, text: str, style: str) -> str:
        """Text in a style on a terminal, else as it is. Only for what is known to be printable."""
        if not (style and self._rich_out and self._color):
            return text
        return f"\x1b[{_STYLES[style]}m{text}\x1b[0m"

    # Reports of long work: they must never end it

    def event(self, name: str, **fields: object) -> None:
        """A JSON event of long work, at once. Work goes on when nobody reads any more."""
        if not self._listening:
            return
        try:
            self._out.write(jsonline.encode({"event": name, **fields}) + "\n")
            self._out.flush()
        except BrokenPipeError:
            self._listening = False
            # What is still in the buffer would fail again when the program ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._out.fileno())

    def warn(self, text: str) -> None:
        """A line on stderr that is worth reading even with --quiet."""
        self._write_err(human.one_line(text))

    def hint(self, text: str) -> None:
        """A line on stderr that helps; not with --quiet."""
        if not self.quiet:
            self._write_err(human.one_line(text))

    def _write_err(self, text: str) -> None:
        try:
            self._err.write(text + "\n")
            self._err.flush()
        except (BrokenPipeError, OSError):
            # The terminal is gone; the work is not.
            return

    def reporter(self, wording: Wording) -> Reporter:
        """Who shows the progress of long work: on the terminal, in lines or as events."""
        from tools.cli import progress

        if self.json:
            return progress.EventReporter(self.event, wording)
        if self.quiet:
            return progress.QuietReporter(self.warn)
        if self._rich_err:
            return progress.LiveReporter(self._rich(self._err), wording)
        return progress.LineReporter(self.warn, wording)

    # rich, at the first use

    def _rich(self, file: TextIO) -> RichConsole:
        from rich.console import Console as RichConsole

        return RichConsole(
            file=file,
            highlight=False,
            markup=False,
            emoji=False,
            no_color=not self._color,
            soft_wrap=False,
        )

    def _rich_table(self, columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> None:
        from rich.table import Table
        from rich.text import Text

        rows = list(rows)
        # Room is scarce here: what says nothing in any row is left out.
        telling = [i for i in range(len(columns)) if any(row[i] not in ("", "-") for row in rows)]
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        for i in telling:
            column = columns[i]
            table.add_column(
                column.title,
                justify="right" if column.right else "left",
                style=column.style or None,
                overflow="fold",
                no_wrap=not column.folds,
            )
        for row in rows:
            table.add_row(*(Text(row[i]) for i in telling))
        self._rich(self._out).print(table)


_STYLES = {
    "bold": "1",
    "dim": "2",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "blue": "34;1",
    "cyan": "36",
}


def plain_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns, two blanks apart, nothing cut off; an empty string when there is no row."""
    if not rows:
        return ""
    titles = [column.title.upper() for column in columns]
    lines = [titles, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    return "".join(_plain_row(columns, widths, line) for line in lines)


def _plain_row(columns: Sequence[Column], widths: Sequence[int], cells: Sequence[str]) -> str:
    placed = (
        cell.rjust(width) if column.right else cell.ljust(width)
        for column, width, cell in zip(columns, widths, cells, strict=True)
    )
    return "  ".join(placed).rstrip() + "\n"
