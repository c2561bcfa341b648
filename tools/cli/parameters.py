"""Parameters: kinds of values that several commands take."""

from __future__ import annotations

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
