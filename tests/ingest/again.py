"""Ingesting again: one source run after run, in this process, each point held against it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import ingest.base
from ingest.session import IngestRequest, IngestSummary
from ingest.session import ingest as run_ingest
from repo.format.manifest import Point
from repo.repository import Repository
from tests.support import command, readback


class Runs:
    """The runs over one source. `notices`: what the last one said; `notices_before`: the last that
    was `right`.
    """

    def __init__(self, repository: Repository, source: Path) -> None:
        self.repository = repository
        self.source = source
        self.notices: list[str] = []
        self.notices_before: list[str] = []

    def run(self, **request: Any) -> IngestSummary:
        """Ingest, without holding the point against anything."""
        self.notices = []
        request = {"paths": [str(self.source)], "streams": 1, **request}
        return run_ingest(self.repository, IngestRequest(**request), on_notice=self.notices.append)

    def right(self, **request: Any) -> IngestSummary:
        """Ingest; the point must be like the source, and like one that has no base."""
        summary = self.run(**request)
        self.notices_before = self.notices
        (point,) = summary.points
        assert readback.differences(self.repository, point, self.source) == []
        whole = self.run(**{**request, "base": "none", "dry_run": True})
        for figure in ("files", "directories", "bytes_source", "problems"):
            assert getattr(summary, figure) == getattr(whole, figure), figure
        return summary

    @property
    def newest(self) -> Point:
        """The newest point."""
        return self.repository.points()[-1]


@contextmanager
def runs(made: command.Repository, source: Path) -> Iterator[Runs]:
    """Runs over a source with the repository of a test."""
    with readback.opened(made) as repository:
        yield Runs(repository, source)


def without_racy_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let files that have just been made be old enough: a test need not wait for the clock."""
    monkeypatch.setattr(ingest.base, "RACY_NS", 0)


def outlive_the_racy_guard(source: Path) -> None:
    """Wait until all that a tree holds has not changed for longer than the guard asks."""
    newest = max(os.lstat(path).st_ctime_ns for path in [source, *source.rglob("*")])
    while time.time_ns() <= newest + ingest.base.RACY_NS:
        time.sleep(0.05)
