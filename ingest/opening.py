"""An opening: how the sources of a job come to be read, each as a snapshot where there is one."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress

from ingest.base import selection_of
from ingest.exclusion import Exclusion
from ingest.hooks.hooks import Hooks
from ingest.job import JobSource
from ingest.opened import OpenedSource
from ingest.request import IngestRequest
from ingest.snapshots.custody import Custody
from ingest.snapshots.snapshot import Snapshot
from ingest.source import SourceIdentity
from ingest.task import Subject
from repo.errors import RepoError
from repo.format.manifest import Point
from repo.repository import Repository


class Opening:
    """Opens sources: takes their snapshots, names them, finds what lies inside."""

    def __init__(
        self,
        repository: Repository,
        request: IngestRequest,
        exclusion: Exclusion,
        points: Sequence[Point],
        custody: Custody,
        hooks: Hooks,
        on_notice: Callable[[str], None],
    ) -> None:
        self._request = request
        self._exclusion = exclusion
        self._points = points
        self._custody = custody
        self._hooks = hooks
        self._snapshots: list[tuple[str, str]] = []
        self._lineages = dict(zip(request.paths, request.lineages, strict=False))
        self._on_notice = on_notice
        # The index is opened for this: building it anew would make another folder of it.
        folders = [path.stat() for path in (repository.path, repository.environment.path)]
        self._own_folders = [(stat.st_dev, stat.st_ino) for stat in folders]

    def all_of(self, path: str, source_id: str, point_id: bytes) -> Iterator[OpenedSource]:
        """A source, and the sources inside it that its snapshot does not hold."""
        source = self._open(path, source_id, point_id)
        yield source
        for child in source.held.children:
            inner = os.path.relpath(child.path, source.snapshot.live_path)
            if self._exclusion and self._exclusion.excludes(os.fsencode(inner).split(b"/"), True):
                continue
            if child.snapshot or self._request.one_file_system:
                kind = "a snapshot" if child.snapshot else "another subvolume"
                self._on_notice(f"{child.path}: not included, it is {kind}")
                continue
            self._on_notice(f"{child.path}: a subvolume of its own, backed up as its own source")
            inner_id = f"{source_id}/{inner}" if source_id else ""
            yield self._open(child.path, inner_id, secrets.token_bytes(16))

    def tell_removed(self) -> None:
        """The snapshots of the job are given up: the scripts of `removed` hear of each."""
        with suppress(RepoError):
            for name, path in self._snapshots:
                self._hooks.run("removed", source=name, snapshot=path)

    def _open(self, path: str, source_id: str, point_id: bytes) -> OpenedSource:
        name = source_id or SourceIdentity.of(path).id

        def quiet() -> AbstractContextManager[bool]:
            return self._hooks.frozen(source=name)

        started_ns = time.time_ns()
        held = self._custody.hold(path, quiet, self._on_notice, self._lineages.get(path, {}))
        snapshot, request = held.snapshot, self._request
        if snapshot.frozen:
            self._snapshots.append((name, snapshot.path))
            self._hooks.run("post-snapshot", source=name, snapshot=snapshot.path)
        subject = Subject(
            rules=self._exclusion.pack() if self._exclusion else b"",
            excluded=self._excluded(snapshot),
            exclude_caches=request.exclude_caches,
            one_file_system=request.one_file_system,
            skip_bad_blocks=request.skip_bad_blocks,
            frozen=snapshot.frozen,
            placeholder=snapshot.placeholder,
        )
        exclusions = self._exclusion.hash()
        selection = selection_of(
            exclusions,
            exclude_caches=request.exclude_caches,
            one_file_system=request.one_file_system,
        )
        source = OpenedSource(
            self._identity(path, source_id, snapshot),
            held,
            JobSource(held.root_fd, subject),
            exclusions,
            selection,
            point_id,
            started_ns,
            tuple(request.tags),
            request.made_by,
        )
        source.job_source.as_point = source.point
        return source

    def _identity(self, path: str, source_id: str, snapshot: Snapshot) -> SourceIdentity:
        if snapshot.adopted and not source_id:
            identity, live_path = snapshot.identity, snapshot.live_path
            return SourceIdentity.of_adopted(path, identity, live_path, self._points)
        return SourceIdentity.of(path, source_id)

    def _excluded(self, snapshot: Snapshot) -> tuple[tuple[int, int], ...]:
        """(st_dev, inode) of what is never backed up: the repository itself and its index, and
        what a snapshot shows of them.
        """
        shown = [
            (snapshot.device, inode)
            for device, inode in self._own_folders
            if device == snapshot.live_device
        ]
        return (*self._own_folders, *shown)
