"""A pattern: names and globs that paths are matched with, component by component.

A pattern without a slash is for names anywhere; with one inside, for the last names of a path;
with one in front, for whole paths. A slash behind it asks for directories. `*`, `?` and `[...]`
stay within a name, `**` stands for any number of directories.
"""

from __future__ import annotations

import fnmatch
import os
import re
from typing import Final, NamedTuple

from repo.errors import UsageError

_ANY_DEPTH: Final = None
_NOWHERE: Final = frozenset[int]()


class State(NamedTuple):
    """Where in a pattern a path is: before which components, of those that may match next."""

    positions: frozenset[int]

    @property
    def alive(self) -> bool:
        """Whether anything below can match."""
        return bool(self.positions)


class Pattern:
    """A parsed pattern. Walk down with `start` and `step`."""

    def __init__(self, text: str, *, ignore_case: bool = False) -> None:
        """Raises UsageError for a pattern that nothing can match."""
        self.text = text
        self.directories_only = text.endswith("/")
        names = [name for name in text.split("/") if name not in ("", ".")]
        if not names:
            raise UsageError(
                "a pattern without a name", where=text, next_step="write it like '*.conf'"
            )
        flags = re.IGNORECASE if ignore_case else 0
        self._components = [
            _ANY_DEPTH if name == "**" else re.compile(fnmatch.translate(name), flags)
            for name in names
        ]
        if not text.startswith("/"):
            self._components.insert(0, _ANY_DEPTH)
        self.start = State(self._closed({0}))

    def step(self, state: State, name: bytes) -> tuple[State, bool]:
        """The state below a name, and whether the path that ends with it matches."""
        text = os.fsdecode(name)
        following: set[int] = set()
        for position in state.positions:
            if position == len(self._components):
                continue
            component = self._components[position]
            if component is None:
                following.add(position)
                if position + 1 == len(self._components):
                    following.add(position + 1)
            elif component.match(text):
                following.add(position + 1)
        closed = self._closed(following) if following else _NOWHERE
        return State(closed), len(self._components) in closed

    def _closed(self, positions: set[int]) -> frozenset[int]:
        """Positions, and those that are reached from them by letting `**` stand for nothing."""
        pending, found = list(positions), set(positions)
        while pending:
            position = pending.pop()
            # At the end of a pattern `**` stands for at least one name.
            more = position + 1 < len(self._components) and position + 1 not in found
            if more and self._components[position] is _ANY_DEPTH:
                found.add(position + 1)
                pending.append(position + 1)
        return frozenset(found)
