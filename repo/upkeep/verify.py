"""A verification: whether a repository still is what was written, and who suffers where not.

Nothing is changed, except that an index which cannot be used is built anew, as by any command.
Runs beside everything else: what was there when it began is held by a lease.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from typing import Final

import msgspec

from repo import recovery
from repo.errors import Damaged, RepoError, RepositoryFailed
from repo.format import layout
from repo.format.manifest import Point
from repo.format.segment import BLOCK_BYTES, CHUNK_ROW
from repo.index.condemned import Condemned
from repo.index.doubt import doubts, settle_doubts
from repo.index.environment import DATA_FILE, Environment, IndexUnusable
from repo.index.failure import IndexReplaced
from repo.index.places import Places, SegmentRow
from repo.index.scratch import Scratch
from repo.points import read_point
from repo.reader import Reader
from repo.repository import Repository
from repo.storage.fetcher import Fetcher
from repo.storage.lease import Lease
from repo.types import MIB, PointId, SegmentId
from repo.upkeep.damage import COPY, DISK, Findings
from repo.upkeep.indexcheck import IndexCheck
from repo.upkeep.keyless import verify_keyless
from repo.upkeep.report import (
    Level,
    OnNotice,
    OnProgress,
    VerifyProgress,
    VerifyReport,
    no_notice,
    no_progress,
)
from repo.upkeep.smallfiles import HEADER, SmallFiles
from repo.upkeep.stretch import BadFrame, Checked, Pool, Stretch, check_frames, stretches
from repo.upkeep.survey import Survey, Surveyor
from repo.upkeep.treecheck import TreeCheck

CACHE_BYTES: Final = 32 * MIB
"""Of opened frames, for the walk over the trees: it comes by in the order of writing."""

Listing = Sequence[tuple[SegmentId, bool]]
"""Segments, and whether they are open."""


def verify(
    repository: Repository,
    *,
    level: Level,
    streams: int = 0,
    on_progress: OnProgress = no_progress,
    on_notice: OnNotice = no_notice,
) -> VerifyReport:
    """Look for damage and name everything that relies on it.

    structure: all objects but file content: header, key slots, footers, index, the trees of all
    points. data: also every frame, opened and hashed. keyless: checksums alone. `streams`:
    threads, 0 for one per processor.

    What one file or segment suffers is a damage of the report, a failed read among it. Raises
    RepositoryFailed or NotARepository when the repository as a whole cannot be read.
    """
    if level == "keyless":
        return verify_keyless(
            repository.path, streams=streams, on_progress=on_progress, on_notice=on_notice
        )
    check = _Check(repository, level, streams, on_progress, on_notice)
    with _index(repository, check, on_notice) as environment:
        try:
            check.run(environment)
            return check.report()
        except (IndexUnusable, Damaged) as error:  # Damaged: its rows contradict each other
            unusable = error
    check = _Check(repository, level, streams, on_progress, on_notice)
    if isinstance(unusable, IndexReplaced):
        on_notice(f"{unusable.what}: beginning again with the new one")
        repository.close()
    else:
        # Damaged where only reading it shows; what was found so far may come from that.
        on_notice(f"{unusable.what}: building it anew from the segments")
        repository.rebuild_index()
        check.index_unusable(unusable)
    check.run(repository.environment)
    return check.report()


@contextmanager
def _index(repository: Repository, check: _Check, on_notice: OnNotice) -> Iterator[Environment]:
    """The index as it lies there, so that it can tell of segments that do not; else a new one."""
    with ExitStack() as stack:
        try:
            environment = stack.enter_context(repository.index_as_it_is())
        except IndexUnusable as error:
            if (repository.index_path / DATA_FILE).exists():
                check.index_unusable(error)
            on_notice(f"{error.what}: building it anew from the segments")
            environment = repository.sound_environment()
        yield environment


class _Check:
    """One verification of one repository."""

    def __init__(
        self,
        repository: Repository,
        level: Level,
        streams: int,
        on_progress: OnProgress,
        on_notice: OnNotice,
    ) -> None:
        self._repository = repository
        self._folder = repository.folder
        self._keys = repository.keys
        self._level: Level = level
        self._streams = streams or len(os.sched_getaffinity(0))
        self._on_progress = on_progress
        self._on_notice = on_notice
        self._findings = Findings()
        self._files = SmallFiles(self._folder, self._findings)
        self._started = time.monotonic()
        self._counts = Checked(0, 0, 0, (), ())
        self._bytes_expected: int | None = None
        self._segments = self._open_segments = self._points = self._unfinished = 0
        self._marked = self._files_lost = 0

    def index_unusable(self, error: RepoError) -> None:
        """The index was of no use, and was built anew."""
        next_step = f"it was built anew from the segments; {DISK}"
        self._findings.file(layout.INDEX, error.what, next_step=next_step)

    def run(self, environment: Environment) -> None:
        """Check everything. Raises IndexUnusable or Damaged when the index is of no use."""
        self._places = Places(environment)
        doubts_before = doubts(environment)
        with (
            Lease.acquire_for_reading(
                self._folder, "verify", environment.epoch(), of_index=environment.identity
            ) as lease,
            closing(Fetcher(self._folder)) as fetcher,
            Scratch.make(self._repository.index_path.parent) as clean,
            Scratch.make(self._repository.index_path.parent) as lost,
        ):
            self._check_files()
            # Points before segments: whatever they rely on is then there to be found.
            points = [
                (point_id, unfinished)
                for unfinished in (True, False)
                for point_id in self._folder.points(unfinished=unfinished)
            ]
            retired = self._retired()  # these may go at any time, and nothing relies on them
            listing = [each for each in self._folder.segments() if each[0] not in retired]
            self._follow(listing, environment, fetcher)
            index = IndexCheck(self._places, self._findings)
            self._check_segments(listing, index, fetcher)
            self._check_lost(listing, fetcher)
            if environment.epoch() == lease.info.epoch:
                index.finish()
            else:
                self._on_notice("garbage collection ran meanwhile: index and footers not compared")
            reader = Reader(fetcher, self._keys, self._places, cache_bytes=CACHE_BYTES)
            still_there = self._files.still_there
            trees = TreeCheck(reader, self._places, self._findings, clean, still_there, lost)
            self._check_points(points, trees)
        if not any(damage.hits for damage in self._findings.damages):
            settle_doubts(environment, doubts_before)

    def _check_files(self) -> None:
        header = self._files.header()
        if header is not None:
            try:
                self._keys.check_header(header)
            except Damaged as damage:
                self._findings.file(layout.HEADER, damage.what, next_step=HEADER)
        self._files.key_slots()

    # Segments

    def _retired(self) -> set[SegmentId]:
        numbers = Condemned(self._places).retired()
        return {row.segment_id for row in self._places.segments() if row.number in numbers}

    def _follow(self, listing: Listing, environment: Environment, fetcher: Fetcher) -> None:
        """Add to the index what was closed since it was written; damage is found later."""
        known = {row.segment_id for row in self._places.segments() if row.closed}
        missing = [i for i, is_open in listing if not is_open and i not in known]
        recovery.add_segments(self._places, environment, fetcher, self._keys, missing)

    def _check_segments(self, listing: Listing, index: IndexCheck, fetcher: Fetcher) -> None:
        surveyor = Surveyor(
            fetcher, self._keys, self._findings, self._row_of, self._files.still_there
        )
        if self._level == "data":
            self._bytes_expected = sum(self._size(segment_id) for segment_id, _ in listing)
        with Pool(self._streams) as pool:
            for done, (segment_id, is_open) in enumerate(listing):
                self._report("checking segments", done, len(listing))
                self._open_segments += is_open
                self._segments += not is_open
                survey = surveyor.open(segment_id) if is_open else surveyor.closed(segment_id)
                if survey is None:
                    continue
                if not is_open:
                    index.segment(survey)
                if self._level == "data":
                    self._check_frames(survey, surveyor, fetcher, pool)
                else:
                    chunks = sum(len(frame.chunks) // CHUNK_ROW.size for frame in survey.frames)
                    self._count(Checked(0, len(survey.frames), chunks, (), ()))
            pool.drain()
        self._report("checking segments", len(listing), len(listing))

    def _check_frames(
        self, survey: Survey, surveyor: Surveyor, fetcher: Fetcher, pool: Pool
    ) -> None:
        parts = list(
            stretches(survey.segment_id, survey.content_bytes, survey.checksums, survey.frames)
        )
        tally = _Tally(self._findings, survey, len(parts))

        def take(stretch: Stretch, checked: Checked) -> None:
            if checked.failure is not None:
                surveyor.failed(checked.failure)
            self._count(checked)
            tally.take(stretch, checked)

        for stretch in parts:
            work = partial(check_frames, fetcher, self._keys, survey.key, stretch)
            pool.submit(work, partial(take, stretch))

    def _check_lost(self, listing: Listing, fetcher: Fetcher) -> None:
        """Segments that the index knows and that are not there."""
        listed = {segment_id for segment_id, _ in listing}
        retired = Condemned(self._places).retired()
        for row in self._places.segments():
            if row.segment_id in listed or row.number in retired:
                continue
            try:
                fetcher.size(row.segment_id)  # else one that was made since the listing
            except Damaged as damage:
                self._findings.segment(row.segment_id, damage.what)
            except RepositoryFailed as failure:
                self._files.still_there()
                self._findings.segment(row.segment_id, failure.what, next_step=DISK)

    def _row_of(self, segment_id: SegmentId) -> SegmentRow | None:
        number = self._places.by_id(segment_id)
        return None if number is None else self._places.segment(number, fresh=True)

    def _size(self, segment_id: SegmentId) -> int:
        for is_open in (False, True):
            with suppress(OSError):
                return self._folder.segment_path(segment_id, is_open).stat().st_size
        return 0

    # Points

    def _check_points(self, points: Sequence[tuple[PointId, bool]], trees: TreeCheck) -> None:
        for done, (point_id, unfinished) in enumerate(points):
            self._report("checking points", done, len(points))
            if unfinished:
                self._check_unfinished(point_id, trees)
                continue
            point = self._files.point(point_id, self._read_point)
            if point is not None:
                trees.point(point)
                self._check_bases(point, trees)
                self._marked += bool(point.loss.noted_ns)
                self._files_lost += point.loss.problems
            self._points += 1
        self._report("checking points", len(points), len(points))

    def _check_unfinished(self, point_id: PointId, trees: TreeCheck) -> None:
        """The checkpoint of a run that has not ended; one that is replaced or dropped is let go."""
        point = self._files.checkpoint(point_id, partial(self._read_point, unfinished=True))
        if point is not None:
            trees.point(point)
        self._unfinished += 1

    def _check_bases(self, point: Point, trees: TreeCheck) -> None:
        """A delta relies on all that it lies over, forgotten or not."""
        try:
            bases = self._repository.lineage(point)[1:]
        except Damaged as damage:
            where = layout.point_path(PointId(point.id))
            found = self._findings.file(where, damage.what, next_step=damage.next_step)
            found.hit(point.id.hex(), None)
            return
        for base in bases:
            trees.point(msgspec.structs.replace(base, id=point.id))

    def _read_point(self, point_id: PointId, *, unfinished: bool = False) -> Point:
        return read_point(self._folder, self._keys, point_id, unfinished=unfinished)

    # Figures

    def _count(self, checked: Checked) -> None:
        total = self._counts
        self._counts = total._replace(
            bytes_read=total.bytes_read + checked.bytes_read,
            frames=total.frames + checked.frames,
            chunks=total.chunks + checked.chunks,
        )

    def _report(self, doing: str, done: int, of: int) -> None:
        self._on_progress(
            VerifyProgress(
                doing=doing,
                items=done,
                items_expected=of,
                bytes_read=self._counts.bytes_read,
                bytes_expected=self._bytes_expected,
                damages=len(self._findings.damages),
            )
        )

    def report(self) -> VerifyReport:
        """What came of it."""
        return VerifyReport(
            level=self._level,
            damages=self._findings.told(),
            segments=self._segments,
            open_segments=self._open_segments,
            frames=self._counts.frames,
            chunks=self._counts.chunks,
            points=self._points,
            points_unfinished=self._unfinished,
            points_marked=self._marked,
            losses_known=self._files_lost,
            bytes_read=self._counts.bytes_read,
            seconds=time.monotonic() - self._started,
        )


class _Tally:
    """What the stretches of one segment brought, told when the last one is there.

    A damaged block is told only where no damaged frame explains it.
    """

    def __init__(self, findings: Findings, survey: Survey, outstanding: int) -> None:
        self._findings = findings
        self._segment_id = survey.segment_id
        self._outstanding = outstanding
        self._frames: list[tuple[BadFrame, str]] = []
        self._blocks: list[tuple[int, str, str]] = []

    def take(self, stretch: Stretch, checked: Checked) -> None:
        """Take the result of a stretch; the last one tells the damage."""
        failed = isinstance(checked.failure, RepositoryFailed)
        next_step = DISK if failed else COPY
        self._frames += [(bad, next_step) for bad in checked.bad_frames]
        what = "a block does not match its checksum"
        self._blocks += [(offset, what, COPY) for offset in checked.bad_blocks]
        if checked.failure is not None and not checked.bad_frames:
            self._blocks.append((stretch.start, checked.failure.what, next_step))
        self._outstanding -= 1
        if not self._outstanding:
            self._tell()

    def _tell(self) -> None:
        segment_id = self._segment_id
        for (frame, what), next_step in self._frames:
            self._findings.frame(
                segment_id, frame.number, what, offset=frame.offset, next_step=next_step
            )
        for offset, what, next_step in self._blocks:
            if not any(_touches(bad, offset) for bad, _ in self._frames):
                self._findings.block(segment_id, offset, what, next_step=next_step)


def _touches(bad: BadFrame, offset: int) -> bool:
    start, end = bad.frame.offset, bad.frame.offset + bad.frame.sealed_bytes
    return start < offset + BLOCK_BYTES and offset < end
