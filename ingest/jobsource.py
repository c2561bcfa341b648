"""A job's source: an open root, what its workers need to know, and what it builds on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ingest.assembly import SourceAssembly
from ingest.base import Foundation
from ingest.largefile import PutMeta
from ingest.progress import ProgressState
from ingest.task import Subject
from repo.format.manifest import Point, Problem
from repo.format.node import Entry

if TYPE_CHECKING:
    from ingest.descent import Descent


@dataclass(slots=True)
class JobSource:
    """A source of a job. Its assembly is there once it has begun."""

    root_fd: int
    subject: Subject
    foundation: Foundation = field(default_factory=Foundation)
    assembly: SourceAssembly = field(init=False)
    descent: Descent = field(init=False)
    failure: Problem | None = None
    chunks_new: int = 0
    nodes_new: int = 0
    """Bytes that the repository had not when they were stored for this source."""

    as_point: Callable[[Entry, ProgressState], Point] | None = None
    """How what is there of it becomes a point; None: it is not kept before it is done."""

    def begin(self, number: int, put_meta: PutMeta) -> None:
        """Begin with the source, which is `number` of the job. It is done at once when a survey
        has found all of it as it was.
        """
        self.assembly = SourceAssembly(number, put_meta)
        foundation = self.foundation
        self.assembly.files_audited = foundation.files_audited
        if foundation.base is not None and foundation.unchanged:
            self.assembly.take_over_root(foundation.base.point.root)
