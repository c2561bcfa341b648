"""A bell: rung when something else than the next request wants the loop.

The loop answers requests without looking around as long as they come; a thread that has
finished, or a task that was started, rings so that it looks. A plain attribute, which costs a
poll nothing and which any thread may set.
"""

from __future__ import annotations


class Bell:
    """Whether anybody rang."""

    __slots__ = ("rung",)

    def __init__(self) -> None:
        self.rung = False

    def ring(self) -> None:
        """From any thread."""
        self.rung = True
