"""Sides: of two repositories at work together, which one something went wrong in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from repo.errors import Interrupted, JobFailed, RepoError, UsageError

ORIGIN: Final = "the origin"
TARGET: Final = "the target"
_TOLD: Final = (f"{ORIGIN}: ", f"{TARGET}: ")
_NOBODYS: Final = (Interrupted, JobFailed, UsageError)


@contextmanager
def side(name: str) -> Iterator[None]:
    """Say of a failure inside, unless it is said already, on which side it was."""
    try:
        yield
    except RepoError as error:
        if isinstance(error, _NOBODYS) or error.what.startswith(_TOLD):
            raise
        what = f"{name}: {error.what}"
        raise type(error)(what, where=error.where, next_step=error.next_step) from error
