"""A session: what `repo ingest` does, from the request to the published points."""

from __future__ import annotations

import secrets
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

from ingest.base import Foundation
from ingest.changes.changesource import Verdict
from ingest.conductor import Conductor, OnNotice, OnProgress, cores
from ingest.exclusion import Exclusion
from ingest.foundation import found, is_base
from ingest.hooks.hooks import Hooks
from ingest.opened import OpenedSource
from ingest.opening import Opening
from ingest.progress import ProgressState
from ingest.request import LEVELS_AUTO, IngestRequest
from ingest.snapshots.custody import Custody, janitor, tag_of
from ingest.source import SourceIdentity
from ingest.upcoming import Upcoming
from repo.errors import JobFailed, SnapshotVanished, UsageError
from repo.format.manifest import Point
from repo.repository import Repository
from repo.types import PointId
from repo.writer import Writer

__all__ = ["LEVELS_AUTO", "IngestRequest", "IngestSummary", "cores", "ingest"]


@dataclass(frozen=True, kw_only=True)
class IngestSummary:
    """What came of it. Sizes in bytes; `failed` are sources that could not be read at all,
    `hooks_failed` counts hooks that did not end well while the points were published,
    `plan_seconds` is the time spent on finding out what changed.
    """

    points: Sequence[Point]
    files: int
    directories: int
    files_reused: int
    bytes_source: int
    bytes_read: int
    bytes_new: int
    bytes_stored: int
    problems: int
    files_audited: int
    change_source: str
    verdict: str
    streams: int
    seconds: float
    plan_seconds: float = 0.0
    failed: Sequence[str] = ()
    hooks_failed: int = 0


_RANK: Final = {verdict: rank for rank, verdict in enumerate(Verdict)}


def ingest(
    repository: Repository,
    request: IngestRequest,
    *,
    on_progress: OnProgress = lambda _state: None,
    on_notice: OnNotice = lambda _text: None,
) -> IngestSummary:
    """Back up the sources of a request in one multiplexed job; a point for each.

    Raises UsageError for a source that is not there, RepositoryFailed when the repository fails,
    Interrupted after SIGINT or SIGTERM, JobFailed when not one source could be read.
    """
    names = request.source_ids or [""] * len(request.paths)
    identities = [SourceIdentity.of(*pair) for pair in zip(request.paths, names, strict=True)]
    hooks = Hooks(
        "" if request.dry_run else request.hooks,
        location=repository.path,
        protected=(repository.environment.path,),
        on_notice=on_notice,
    )
    with ExitStack() as stack:
        stack.enter_context(_terminated_as_interrupted())
        stack.enter_context(hooks.reporting([identity.id for identity in identities]))
        exclusion = Exclusion.read(request.exclude, request.exclude_from)
        recovered = repository.recover()
        if recovered:
            on_notice(f"recovered {recovered} segments that a killed process left open")
        stack.enter_context(repository.lease("ingest"))
        if left := janitor(repository.path):
            on_notice(f"removed {left} snapshots and marks that a killed process left")
        points = _points_before(repository, request)
        custody = _custody(repository, request)
        opening = Opening(repository, request, exclusion, points, custody, hooks, on_notice)
        stack.callback(opening.tell_removed)
        stack.callback(custody.close)
        point_ids = request.point_ids or [secrets.token_bytes(16) for _ in request.paths]
        wanted = list(zip(request.paths, names, point_ids, strict=True))

        conductor = Conductor(
            repository,
            request,
            on_progress=on_progress,
            on_notice=on_notice,
            bytes_expected=_expected(points, [identity.id for identity in identities]),
        )
        stack.callback(conductor.close)

        def prepare(source: OpenedSource) -> None:
            source.job_source.foundation = _foundation(
                repository, request, source, points, on_notice
            )
            stack.callback(_close, source.foundation)
            if request.base in ("auto", "none"):  # a base that is chosen is believed again
                source.distrusted = _distrusted(points, source)

        def pre_read(source: OpenedSource) -> None:
            hooks.run("pre-read", source=source.identity.id, snapshot=source.snapshot.path)

        upcoming = Upcoming(opening.sources(wanted), pre_read, prepare, conductor.survey)
        conductor.run(upcoming)
        sources, writer = upcoming.sources, conductor.writer
        _check_alive(sources)
        made, failed = _points(sources, conductor.state)
        if isinstance(writer, Writer):
            for source, point in made:
                writer.publish(point)
                source.held.keep(tag_of(repository.header.repository_id, point.source_id), point.id)
                _drop_unfinished(repository, point)
                hooks.run("post-ingest", source=point.source_id)
        return _summary([point for _, point in made], failed, conductor, sources, hooks.problems)


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM is SIGINT's exception where the loop does not watch both: before and after it."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _distrusted(points: Sequence[Point], source: OpenedSource) -> tuple[str, ...]:
    """The change sources that an audit of this source has found wrong, for the next run, too."""
    mine = (point for point in points if point.source_id == source.identity.id)
    newest = next(mine, None)
    return newest.base_record.distrusted if newest is not None else ()


def _check_alive(sources: Sequence[OpenedSource]) -> None:
    """After the last read, before anything is published: the snapshots must still be there."""
    for source in sources:
        if not source.held.alive():
            raise SnapshotVanished(
                "the source disappeared while it was read",
                where=source.identity.path,
                next_step="nothing was published; what was stored is found again by the next run",
            )


def _custody(repository: Repository, request: IngestRequest) -> Custody:
    return Custody(
        repository.path,
        take=request.take and not request.dry_run,
        pin=request.pin and not request.dry_run,
        keep=request.keep_snapshot,
    )


def _points_before(repository: Repository, request: IngestRequest) -> list[Point]:
    """The points that may serve as base, the newest first."""
    if request.base not in ("auto", "none"):
        return [repository.point(request.base, stored=True)]
    return repository.points(on_damage=lambda _damage: None)[::-1]


def _foundation(
    repository: Repository,
    request: IngestRequest,
    source: OpenedSource,
    points: Sequence[Point],
    on_notice: OnNotice,
) -> Foundation:
    """What a source builds on: with `--base none` nothing, not even what was left unfinished."""
    if request.base == "none":
        return Foundation()
    if request.base == "auto":
        points = [point for point in points if point.source_id == source.identity.id]
    elif not is_base(points[0]):
        raise UsageError(
            "this point cannot be a base: content of it is lost, it is a delta, or made of others",
            where=request.base,
            next_step="`--base auto` takes the newest that can",
        )
    return found(
        repository,
        points,
        source.identity.id,
        source.selection,
        source.snapshot,
        source.job_source.root_fd,
        chosen=request.base != "auto",
        on_notice=on_notice,
    )


def _close(foundation: Foundation) -> None:
    if foundation.plan is not None:
        foundation.plan.close()


def _expected(points: Sequence[Point], ids: Sequence[str]) -> int:
    """Bytes that the sources had when they were last backed up: for the estimate of the end."""
    wanted = set(ids)
    newest = {
        point.source_id: point.root.bytes_below
        for point in reversed(points)
        if point.source_id in wanted
    }
    return sum(newest.values()) if len(newest) == len(wanted) else 0


def _points(
    sources: Sequence[OpenedSource], state: ProgressState
) -> tuple[list[tuple[OpenedSource, Point]], list[str]]:
    """The points of the sources that were read, and what is to be said of the others."""
    points: list[tuple[OpenedSource, Point]] = []
    failed: list[str] = []
    for source in sources:
        failure = source.job_source.failure
        root = source.job_source.assembly.root
        if failure is not None or root is None:
            failed.append(f"{source.identity.path}: {failure.detail if failure else 'not read'}")
        else:
            points.append((source, source.point(root, state)))
    if not points:
        raise JobFailed("no source could be read", where="; ".join(failed))
    return points, failed


def _drop_unfinished(repository: Repository, point: Point) -> None:
    """What a run has left in front of this point, and this run itself, is in it."""
    for unfinished in repository.unfinished(on_damage=lambda _damage: None):
        mine = unfinished.source_id == point.source_id
        if mine and unfinished.created_ns <= point.created_ns:
            repository.folder.remove_point(PointId(unfinished.id), unfinished=True)


def _summary(
    points: Sequence[Point],
    failed: Sequence[str],
    conductor: Conductor,
    sources: Sequence[OpenedSource],
    hooks_failed: int,
) -> IngestSummary:
    state = conductor.state
    # Of several sources the weakest word is the job's.
    weakest = min(sources, key=lambda source: _RANK[source.verdict])
    return IngestSummary(
        points=points,
        files=state.files,
        directories=state.directories,
        files_reused=state.files_reused,
        bytes_source=state.bytes_source,
        bytes_read=state.bytes_read,
        bytes_new=state.bytes_new,
        bytes_stored=state.bytes_stored,
        problems=state.problems,
        files_audited=sum(source.job_source.assembly.files_audited for source in sources),
        change_source=weakest.change_source,
        verdict=weakest.verdict,
        streams=conductor.streams,
        seconds=state.seconds,
        plan_seconds=sum(source.foundation.plan_seconds for source in sources),
        failed=failed,
        hooks_failed=hooks_failed,
    )
