"""Parameters: kinds of values that several commands take."""

from __future__ import annotations

import re
from typing import Any, Final

import click


class NumberOr(click.ParamType[int | str]):
    """A whole number within a range, or one of some words."""

    def __init__(self, least: int, most: int, *words: str) -> None:
        self.name = "|".join((*words, "N"))
        self.words = words
        self.least, self.most = least, most

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        """Check what was typed. Fails as a usage error."""
        if value in self.words:
            return str(value)
        try:
            number = int(value)
        except ValueError:
            number = self.least - 1
        if not self.least <= number <= self.most:
            known = ", ".join(self.words)
            self.fail(f"{value!r} is not {known} or {self.least}..{self.most}", param, ctx)
        return number


STREAMS: Final = NumberOr(1, 1024, "auto")
"""How many parallel streams at most; auto: as many as processors."""


_UNIT_SECONDS: Final = {
    "s": 1,
    "min": 60,
    "h": 3600,
    "d": 86400,
    "w": 7 * 86400,
    "mo": 30 * 86400,
    "y": 365 * 86400,
}
_TERM: Final = re.compile(r"(\d+) *(s|min|h|d|w|mo|y)(?![a-z])")


class Duration(click.ParamType[int]):
    """A length of time such as 36h, 7d or 1y6mo, as nanoseconds; a bare 0 is one, too."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Check what was typed. Fails as a usage error."""
        if isinstance(value, int):
            return value
        text = str(value).replace(" ", "")
        terms = _TERM.findall(text)
        if text != "0" and (not terms or "".join(n + unit for n, unit in terms) != text):
            self.fail(
                f"{value!r} is not a length of time: write 36h, 7d, 8w, 6mo or 1y", param, ctx
            )
        return sum(int(n) * _UNIT_SECONDS[unit] for n, unit in terms) * 10**9


class Moment(click.ParamType[int]):
    """A local ISO time, as nanoseconds since 1970; a date alone is its beginning."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Check what was typed. Fails as a usage error."""
        if isinstance(value, int):
            return value
        from datetime import datetime

        try:
            return int(datetime.fromisoformat(value).timestamp()) * 10**9
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is not a time: write 2026-01-31 or 2026-01-31T18:00", param, ctx)


DURATION: Final = Duration()
MOMENT: Final = Moment()
