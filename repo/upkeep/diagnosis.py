"""A diagnosis: which segments and manifests are damaged, found by reading all of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial

from repo.errors import Damaged
from repo.format import layout
from repo.index.places import Places, SegmentRow
from repo.points import read_point
from repo.repository import Repository
from repo.storage.fetcher import Fetcher
from repo.types import PointId, SegmentId
from repo.upkeep.damage import Damage, Findings
from repo.upkeep.indexcheck import IndexCheck
from repo.upkeep.smallfiles import SmallFiles
from repo.upkeep.stretch import Checked, Pool, Stretch, check_frames, stretches
from repo.upkeep.survey import Survey, Surveyor


@dataclass(slots=True)
class Diagnosis:
    """What is damaged, and why. index: "" when it says what the segments say."""

    segments: dict[SegmentId, str] = field(default_factory=dict)
    points: dict[PointId, str] = field(default_factory=dict)
    key_slots: list[Damage] = field(default_factory=list)
    index: str = ""
    bytes_read: int = 0


OnSegment = Callable[[int, int, int], None]
"""Told (segments done, of how many, bytes read)."""


def diagnose(
    repository: Repository,
    *,
    recovered: bool,
    streams: int = 0,
    on_segment: OnSegment = lambda _d, _o, _b: None,
) -> Diagnosis:
    """Read and open every frame of every closed segment, and every manifest.

    recovered: whether a recovery has just been, so that what it has left open is damaged.
    Raises RepositoryFailed when the repository as a whole cannot be read.
    """
    found = _Diagnoser(repository, streams or len(os.sched_getaffinity(0)), on_segment).run()
    for segment in repository.folder.recoverable() if recovered else ():
        with segment:
            what = "it was left open, and no footer can name all that is relied on"
            found.segments[segment.segment_id] = what
    return found


class _Diagnoser:
    def __init__(self, repository: Repository, streams: int, on_segment: OnSegment) -> None:
        self._repository = repository
        self._streams = streams
        self._on_segment = on_segment
        self._places: Places = repository.places
        self._findings = Findings()
        self._files = SmallFiles(repository.folder, self._findings)
        self._found = Diagnosis()

    def run(self) -> Diagnosis:
        self._files.key_slots()
        self._found.key_slots = list(self._findings.damages)
        self._points()
        index_findings = Findings()
        index = IndexCheck(self._places, index_findings)
        listing = [i for i, is_open in self._repository.folder.segments() if not is_open]
        with closing(Fetcher(self._repository.folder)) as fetcher, Pool(self._streams) as pool:
            surveyor = Surveyor(
                fetcher,
                self._repository.keys,
                self._findings,
                self._row_of,
                self._files.still_there,
            )
            for done, segment_id in enumerate(listing):
                self._on_segment(done, len(listing), self._found.bytes_read)
                self._segment(segment_id, surveyor, fetcher, pool, index)
            pool.drain()
        index.finish()
        if index_findings.damages:
            self._found.index = index_findings.damages[0].what
        self._on_segment(len(listing), len(listing), self._found.bytes_read)
        return self._found

    def _points(self) -> None:
        folder, keys = self._repository.folder, self._repository.keys
        for point_id in folder.points():
            try:
                read_point(folder, keys, point_id)
            except Damaged as damage:
                if (folder.path / layout.point_path(point_id)).exists():  # else forgotten now
                    self._found.points[point_id] = damage.what

    def _segment(
        self,
        segment_id: SegmentId,
        surveyor: Surveyor,
        fetcher: Fetcher,
        pool: Pool,
        index: IndexCheck,
    ) -> None:
        before = len(self._findings.damages)
        survey = surveyor.closed(segment_id)
        if len(self._findings.damages) > before:
            if self._repository.folder.segment_path(segment_id).exists():  # else collected now
                self._found.segments[segment_id] = self._findings.damages[before].what
            return
        if survey is None:
            return
        index.segment(survey)
        parts = stretches(segment_id, survey.content_bytes, survey.checksums, survey.frames)
        for part in parts:
            work = partial(check_frames, fetcher, self._repository.keys, survey.key, part)
            pool.submit(work, partial(self._take, survey, part))

    def _take(self, survey: Survey, _stretch: Stretch, checked: Checked) -> None:
        self._found.bytes_read += checked.bytes_read
        what = ""
        if checked.bad_frames:
            what = checked.bad_frames[0].what
        elif checked.failure is not None:
            self._files.still_there()
            what = checked.failure.what
        elif checked.bad_blocks:
            what = "a block does not match its checksum"
        if what and self._repository.folder.segment_path(survey.segment_id).exists():
            self._found.segments.setdefault(survey.segment_id, what)

    def _row_of(self, segment_id: SegmentId) -> SegmentRow | None:
        number = self._places.by_id(segment_id)
        return None if number is None else self._places.segment(number, fresh=True)
