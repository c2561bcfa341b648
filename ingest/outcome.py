"""An outcome: what became of an entry. A file that fails is a value, never an exception."""

from __future__ import annotations

import os
from typing import NamedTuple

from ingest.statx import Stat
from ingest.task import Path
from repo.format.manifest import Problem
from repo.format.node import Entry


class Saved(NamedTuple):
    """The entry was read wholly. `bytes_read` is what was read of its content."""

    entry: Entry
    bytes_read: int = 0


class Torn(NamedTuple):
    """The entry changed while it was read: its content may be a mixture of two states."""

    entry: Entry
    bytes_read: int
    detail: str


class Deferred(NamedTuple):
    """A large file, which goes back to the master as range tasks. Its extents are missing."""

    entry: Entry
    version: tuple[int, int, int, int, int]
    stat: Stat


class Failed(NamedTuple):
    """A step on the entry failed with an errno of the source."""

    name: bytes
    step: str
    errno: int
    detail: str


class Vanished(NamedTuple):
    """The entry was gone before it could be opened: there was nothing to save."""

    name: bytes


Outcome = Saved | Torn | Deferred | Failed | Vanished


def failed(name: bytes, step: str, error: OSError) -> Failed:
    """The outcome for an OSError of the source."""
    number = error.errno or 0
    return Failed(name, step, number, os.strerror(number) if number else str(error))


def problem(path: Path, outcome: Failed | Torn) -> Problem:
    """How an outcome is recorded in the point. `path` is that of the directory."""
    if isinstance(outcome, Torn):
        return Problem(b"/".join((*path, outcome.entry.name)), "read", 0, outcome.detail)
    return Problem(b"/".join((*path, outcome.name)), outcome.step, outcome.errno, outcome.detail)
