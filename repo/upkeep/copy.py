"""A copy: chosen points of one repository, once more in another, under the other's key.

Each copied point names the point it came from, so that the next run knows what is there already.
Points are published when everything that they rely on is durable in the target; what a killed run
had stored is found again. The origin is only read. Both sides are held by a lease.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple

import msgspec

from repo.errors import Damaged, Interrupted, RepoError, UsageError
from repo.format.manifest import Origin, Point
from repo.index.scratch import Scratch
from repo.repository import Repository
from repo.types import ChunkId, PointId
from repo.upkeep.copies import Copies, identity
from repo.upkeep.losses import Losses
from repo.upkeep.marking import unmarked_problems
from repo.upkeep.readback import read_back
from repo.upkeep.rewriter import Rewriter
from repo.upkeep.sides import ORIGIN, TARGET, side
from repo.upkeep.transfer import Figures, Transfer
from repo.upkeep.translation import Pairing, Translation
from repo.writer import Writer

PUBLISH_SECONDS: Final = 30.0
"""Points that are complete wait at most so long for others, as publishing closes segments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyRequest:
    """Which points to copy, and how.

    sources, tags: those that have any of the sources and all of the tags. since_ns, until_ns:
    received in [since, until). streams: threads, 0 for one per processor. level: of compression,
    None stores raw. verify: read what the copied points rely on back before they are published.
    again: try points anew whose copy is marked by losses.
    """

    points: Sequence[str] = ()
    sources: Sequence[str] = ()
    tags: Sequence[str] = ()
    since_ns: int | None = None
    until_ns: int | None = None
    streams: int = 0
    level: int | None = 3
    verify: bool = False
    again: bool = False
    dry_run: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyProgress:
    """How far a copy is. Bytes: covered is the content of files that was looked at or known."""

    doing: str
    points: int
    points_expected: int
    bytes_covered: int
    bytes_expected: int
    bytes_new: int
    losses: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyReport:
    """What came of a copy. `copied`: pairs (point, its copy); of a dry run the copy is the point.

    there: points that the target had, or got from another run meanwhile; damages: of manifests of
    the origin that cannot be read.
    """

    copied: Sequence[tuple[Point, Point]]
    there: int
    damages: Sequence[Damaged]
    bytes_read: int
    bytes_new: int
    bytes_stored: int
    seconds: float

    @property
    def exit_status(self) -> int:
        """0, or 4 when not everything of the origin could be read."""
        lossy = any(copy.loss.noted_ns for _, copy in self.copied)
        return Damaged.exit_status if lossy or self.damages else 0


OnProgress = Callable[[CopyProgress], None]
OnNotice = Callable[[str], None]


def copy(
    origin: Repository,
    target: Repository,
    request: CopyRequest,
    *,
    on_progress: OnProgress = lambda _progress: None,
    on_notice: OnNotice = lambda _text: None,
    stopped: Callable[[], bool] = lambda: False,
) -> CopyReport:
    """Copy points. Raises RepositoryFailed, JobFailed or, for the target, Damaged.

    stopped: asked again and again; when it says so, Interrupted is raised at the next good place.

    What is damaged of the origin is left out, and the copy of a point that suffers says so.
    """
    if os.path.realpath(origin.path) == os.path.realpath(target.path):
        raise UsageError(
            "origin and target are the same repository",
            where=str(target.path),
            next_step="name another one with --to",
        )
    with side(ORIGIN), origin.lease("copy", reading=True), _target_lease(target):
        job = _Job(origin, target, request, on_progress, on_notice, stopped)
        return job.run()


@contextmanager
def _target_lease(target: Repository) -> Iterator[None]:
    with side(TARGET):
        target.recover()
        with target.lease("copy"):
            yield


class _Ready(NamedTuple):
    """A point whose copy is complete, and the copy that was there when it was begun (`again`)."""

    point: Point
    copied: Point
    before: Point | None


class _Job:
    """One run."""

    def __init__(
        self,
        origin: Repository,
        target: Repository,
        request: CopyRequest,
        on_progress: OnProgress,
        on_notice: OnNotice,
        stopped: Callable[[], bool],
    ) -> None:
        self._stopped = stopped
        self._origin = origin
        self._target = target
        self._request = request
        self._on_progress = on_progress
        self._on_notice = on_notice
        self._started = time.monotonic()
        self._published_at = self._started
        self._damages: list[Damaged] = []
        self._copied: list[tuple[Point, Point]] = []
        self._ready: list[_Ready] = []
        self._there = 0
        self._figures = Figures()
        self._doing = ""
        self._done = self._expected = self._bytes_expected = self._losses = 0

    def run(self) -> CopyReport:
        """Copy what is chosen and not there yet."""
        with side(ORIGIN):
            chosen = choose(self._origin, self._request, self._damages.append)
        with side(TARGET):
            there = Copies(self._target, self._on_notice)
        todo = [point for point in chosen if self._is_wanted(point, there)]
        self._there = len(chosen) - len(todo)
        self._expected = len(todo)
        self._bytes_expected = sum(point.root.bytes_below for point in todo)
        stored = 0
        if self._request.dry_run:
            self._copied = [(point, point) for point in todo]
        elif todo:
            stored = self._copy(todo, there)
        return CopyReport(
            copied=self._copied,
            there=self._there,
            damages=self._damages,
            bytes_read=self._figures.read,
            bytes_new=self._figures.new,
            bytes_stored=stored,
            seconds=time.monotonic() - self._started,
        )

    def _identity(self, point: Point) -> Origin:
        return identity(point, self._origin)

    def _is_wanted(self, point: Point, there: Copies) -> bool:
        copy = there.of(self._identity(point))
        return copy is None or (self._request.again and copy.loss.noted_ns > 0)

    def _copy(self, todo: Sequence[Point], there: Copies) -> int:
        writer = self._target.writer(level=self._request.level)
        try:
            with Scratch.make(self._target.index_path.parent) as scratch, side(TARGET):
                translation = Translation(scratch, self._target.keys)
                with self._transfer(writer, translation) as transfer:
                    self._figures = transfer.figures
                    self._points(todo, there, writer, translation, transfer)
        except Interrupted:
            # Raised between two steps only: what is complete can be published.
            with suppress(RepoError):
                self._stopped = _never
                self._publish(writer, there)
            writer.abandon()
            raise
        except BaseException:
            writer.abandon()
            raise
        return writer.written.stored_bytes

    def _transfer(self, writer: Writer, translation: Translation) -> Transfer:
        return Transfer(
            self._origin,
            self._target,
            writer,
            translation,
            streams=self._request.streams or len(os.sched_getaffinity(0)),
            level=self._request.level,
            on_step=self._report,
        )

    def _points(
        self,
        todo: Sequence[Point],
        there: Copies,
        writer: Writer,
        translation: Translation,
        transfer: Transfer,
    ) -> None:
        pairing = Pairing(self._origin.tree, self._target.tree, translation)
        for listed in todo:
            there.refresh()
            if not self._is_wanted(listed, there):  # another copy was faster
                self._there += 1
                self._done += 1
                continue
            try:
                point = self._origin.resolved(listed)
            except Damaged as damage:  # what a delta lies over is not there
                self._damages.append(damage)
                self._done += 1
                continue
            self._doing = f"point {point.id.hex()[:8]}"
            self._report()
            with side(ORIGIN):
                base = there.base(point, self._origin)
            if base is not None and not self._target.in_doubt:
                pairing.learn(point.root, base[0].root, base[1].root)
            covered = transfer.figures.covered
            new, stored, began = transfer.figures.new, writer.written, time.monotonic()
            transfer.tree(point.root)
            transfer.figures.covered = covered + point.root.bytes_below
            copied = self._rewrite(point, writer, translation, transfer)
            done = msgspec.structs.replace(
                point.statistics,
                bytes_new=transfer.figures.new - new,
                bytes_stored=writer.written.stored_bytes - stored.stored_bytes,
                seconds=time.monotonic() - began,
            )
            copied = msgspec.structs.replace(copied, statistics=done)
            self._ready.append(_Ready(point, copied, there.of(self._identity(point))))
            if time.monotonic() - self._published_at >= PUBLISH_SECONDS:
                self._publish(writer, there)
            self._done += 1
        self._publish(writer, there)
        self._report()

    # A copy keeps the times of its point, by which it is found and kept.
    def _rewrite(
        self, point: Point, writer: Writer, translation: Translation, transfer: Transfer
    ) -> Point:
        def put(data: bytes) -> ChunkId:
            chunk_id = self._target.keys.chunk_id(data)
            writer.put_meta(chunk_id, data)
            if writer.commit_due():
                transfer.checkpoint()
                self._report()
            return chunk_id

        losses = Losses(put)
        rewriter = Rewriter(self._origin.folder, self._origin.reader, translation, put, losses)
        root = rewriter.root(point.root)
        # What the origin's mark names is found again, and named by the copy's own.
        lists, total = unmarked_problems(point)
        problems = rewriter.problems(lists)
        loss = losses.loss()
        if loss.noted_ns:
            self._losses += 1
            self._on_notice(
                f"{ORIGIN}: {loss.files} files and {loss.directories} directories of point "
                f"{point.id.hex()[:8]} are damaged: its copy is marked"
            )
        return msgspec.structs.replace(
            point,
            id=PointId(os.urandom(16)),
            root=root,
            problems_total=total + losses.total,
            problems=(*problems, *loss.lists),
            origin=self._identity(point),
            loss=loss,
            base=b"",  # an id of the origin
            delta=False,  # what was copied is the full that it shows
        )

    def _publish(self, writer: Writer, there: Copies) -> None:
        """Publish the points that are complete, but those that another copy has published."""
        if not self._ready:
            return
        writer.commit(close=True)
        if self._request.verify:
            self._doing = "reading back"
            read_back(self._target, [one.copied for one in self._ready], on_step=self._report)
        while self._ready:
            one = self._ready[0]
            if writer.publish(one.copied, unless=partial(there.have_better, *one[1:])):
                self._copied.append(one[:2])
            else:
                self._there += 1
            del self._ready[0]
        self._published_at = time.monotonic()

    def _report(self) -> None:
        if self._stopped():
            raise Interrupted(
                "interrupted", next_step="run the same command again: what is durable is kept"
            )
        self._on_progress(
            CopyProgress(
                doing=self._doing,
                points=self._done,
                points_expected=self._expected,
                bytes_covered=self._figures.covered,
                bytes_expected=self._bytes_expected,
                bytes_new=self._figures.new,
                losses=self._losses,
            )
        )


def _never() -> bool:
    return False


def choose(
    origin: Repository, request: CopyRequest, on_damage: Callable[[Damaged], None]
) -> list[Point]:
    """The points that a request means, oldest first. Raises UsageError when it names none."""
    if request.points:
        named = {point.id: point for point in map(origin.point, request.points)}
        points = sorted(named.values(), key=lambda point: (point.received_ns, point.id))
        for point in points:
            if point.unfinished:
                raise UsageError(
                    "the run that makes this point has not ended",
                    where=point.id.hex(),
                    next_step="copy it when it has",
                )
    else:
        points = origin.points(on_damage=on_damage)
    return [point for point in points if _fits(point, request)]


def _fits(point: Point, request: CopyRequest) -> bool:
    return (
        (
            not request.sources
            or {point.source_id, point.source_path} & set(request.sources) != set()
        )
        and set(request.tags) <= set(point.tags)
        and (request.since_ns is None or point.received_ns >= request.since_ns)
        and (request.until_ns is None or point.received_ns < request.until_ns)
    )
