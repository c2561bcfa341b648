"""An opened source: one source of a job, from the snapshot that is read to the point it becomes."""

from __future__ import annotations

import time
from dataclasses import dataclass

from ingest.base import Foundation
from ingest.changes.changesource import Verdict
from ingest.jobsource import JobSource
from ingest.owners import owner_names
from ingest.progress import ProgressState
from ingest.snapshots.snapshot import Held, Snapshot
from ingest.source import SourceIdentity
from repo.format.manifest import BaseRecord, Point, Statistics
from repo.format.node import Entry


@dataclass(slots=True)
class OpenedSource:
    """A source while it is read. `point_id`: of the point that it will be; until then the
    checkpoints of this run have it.
    """

    identity: SourceIdentity
    held: Held
    job_source: JobSource
    exclusions: bytes
    selection: bytes
    point_id: bytes
    started_ns: int
    tags: tuple[str, ...]
    made_by: str
    distrusted: tuple[str, ...] = ()

    @property
    def snapshot(self) -> Snapshot:
        """What is read of it."""
        return self.held.snapshot

    @property
    def foundation(self) -> Foundation:
        """What its ingest builds on."""
        return self.job_source.foundation

    @property
    def verdict(self) -> Verdict:
        """How far it is known what changed."""
        plan = self.foundation.plan
        return plan.verdict if plan is not None else Verdict.FULL

    @property
    def change_source(self) -> str:
        """Who said what changed."""
        return self.foundation.plan.kind if self.foundation.plan is not None else "none"

    def point(self, root: Entry, state: ProgressState) -> Point:
        """The point with that root. `state` is the job's, whose bytes on disk are shared out among
        its sources by what was new of each.
        """
        assembly = self.job_source.assembly
        bytes_new = self.job_source.chunks_new + self.job_source.nodes_new
        users, groups = owner_names(assembly.owners)
        foundation = self.foundation
        before = [tree.point for tree in foundation.trees]
        for point in reversed(before):  # who owns what was taken over was not looked at
            users, groups = {**point.users, **users}, {**point.groups, **groups}
        return Point(
            id=self.point_id,
            source_id=self.identity.id,
            source_path=self.identity.path,
            host=self.identity.host,
            created_ns=self.started_ns,
            received_ns=time.time_ns(),
            root=root,
            statistics=Statistics(
                files=assembly.files,
                directories=assembly.directories,
                files_reused=assembly.files_reused,
                bytes_source=assembly.bytes_source,
                bytes_read=assembly.bytes_read,
                bytes_new=bytes_new,
                bytes_stored=round(state.bytes_stored * bytes_new / (state.bytes_new or 1)),
                seconds=state.seconds,
            ),
            snapshot=self.snapshot.record(),
            problems_total=assembly.problems_total,
            problems=tuple(assembly.problem_chunks),
            tags=self.tags,
            users=users,
            groups=groups,
            exclusions=self.exclusions,
            has_xattrs=assembly.has_xattrs or any(point.has_xattrs for point in before),
            made_by=self.made_by,
            verdict=self.verdict,
            change_source=self.change_source,
            base=foundation.base.point.id if foundation.base else b"",
            base_record=BaseRecord(
                taken_ns=self.snapshot.taken_ns or self.started_ns,
                selection=self.selection,
                volumes=len(assembly.volumes),
                anchor=dict(self.snapshot.anchor),
                distrusted=self.distrusted,
            ),
        )
