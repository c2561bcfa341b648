"""An opening: how the sources of a job come to be read, each as a snapshot where there is one."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress

from ingest.base import selection_of
from ingest.exclusion import Exclusion
from ingest.hooks.hooks import Hooks
from ingest.jobsource import JobSource
from ingest.mounts import mounted_below
from ingest.opened import OpenedSource
from ingest.request import IngestRequest
from ingest.snapshots.custody import Custody
from ingest.snapshots.directory import check_there
from ingest.snapshots.snapshot import Snapshot
from ingest.source import SourceIdentity
from ingest.task import Subject
from repo.errors import RepoError, SnapshotFailed
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
        self._quiet: Callable[[str], AbstractContextManager[bool]]
        self._quiet = lambda name: hooks.frozen(source=name)
        self._snapshots: list[tuple[str, str]] = []
        self._lineages = dict(zip(request.paths, request.lineages, strict=False))
        self._on_notice = on_notice
        # The index is opened for this: building it anew would make another folder of it.
        folders = [path.stat() for path in (repository.path, repository.environment.path)]
        self._own_folders = [(stat.st_dev, stat.st_ino) for stat in folders]

    def sources(self, wanted: Sequence[tuple[str, str, bytes]]) -> Iterator[OpenedSource]:
        """The sources at these paths, with their ids ("" for HOST:PATH) and those of their points;
        each is opened when it is asked for, or all of them together.

        Raises UsageError at once when one is not there.
        """
        for path, _, _ in wanted:
            check_there(path)
        if self._request.together and not self._request.dry_run:
            return iter(self._together(wanted))
        return (source for words in wanted for source in self._all_of(*words))

    def _together(self, wanted: Sequence[tuple[str, str, bytes]]) -> list[OpenedSource]:
        """One moment for all: what freezes is frozen once, around all snapshots."""
        names = ", ".join(name or SourceIdentity.of(path).id for path, name, _ in wanted)
        with self._hooks.frozen(source=names) as hushed:
            self._quiet = lambda _name: nullcontext(hushed)
            found = [source for words in wanted for source in self._all_of(*words)]
            for source in found:
                if not source.snapshot.frozen:
                    raise SnapshotFailed(
                        "no snapshot of it could be made: the sources are not of one moment",
                        where=source.identity.path,
                        next_step="see the message above, or leave --together away",
                    )
        return found

    def _all_of(self, path: str, source_id: str, point_id: bytes) -> Iterator[OpenedSource]:
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
        yield from self._mounted_inside(source, source_id)

    def _mounted_inside(self, source: OpenedSource, source_id: str) -> Iterator[OpenedSource]:
        """The file systems mounted inside a source, of which its snapshot has the folders only."""
        live = source.snapshot.live_path
        if not source.snapshot.frozen or source.snapshot.adopted or not live:
            return
        handled = {child.path for child in source.held.children}
        for where in mounted_below(live):
            inner = os.path.relpath(where, live)
            excluded = self._exclusion and self._exclusion.excludes(
                os.fsencode(inner).split(b"/"), True
            )
            if excluded or where in handled:
                continue
            if reason := self._left_out(where):
                self._on_notice(f"{where}: not included, {reason}")
                continue
            self._on_notice(f"{where}: another file system, backed up as its own source")
            inner_id = f"{source_id}/{inner}" if source_id else ""
            yield from self._all_of(where, inner_id, secrets.token_bytes(16))

    def _left_out(self, where: str) -> str:
        """Why a file system mounted inside a source is no source of its own, if so."""
        if self._request.one_file_system:
            return "it is another file system"
        try:
            status = os.stat(where)
        except OSError as error:
            return f"it cannot be looked at: {error.strerror}"
        own = (status.st_dev, status.st_ino) in self._own_folders
        return "it is the repository" if own else ""

    def tell_removed(self) -> None:
        """The snapshots of the job are given up: the scripts of `removed` hear of each."""
        with suppress(RepoError):
            for name, path in self._snapshots:
                self._hooks.run("removed", source=name, snapshot=path)

    def _open(self, path: str, source_id: str, point_id: bytes) -> OpenedSource:
        name = source_id or SourceIdentity.of(path).id

        def quiet() -> AbstractContextManager[bool]:
            return self._quiet(name)

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
