"""A repair: what verifies is kept, what is lost is found elsewhere or named, and nothing is hidden.

Damaged segments give up their good frames to new ones and are set aside under another name. Lost
chunks are taken from a source or another repository when they are offered and have the very id.
Points that still lack content are marked: their trees stay as they are, so that what is found later
makes them whole again. Killed anywhere, the same steps lead on from where it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Final

import msgspec

from repo.errors import Damaged, Interrupted
from repo.format.manifest import Loss, Origin, Point
from repo.index.condemned import Condemned
from repo.index.doubt import cast_doubt, doubts, settle_doubts
from repo.index.scratch import Scratch
from repo.points import remark_point, write_point
from repo.reader import Reader
from repo.repository import Repository
from repo.scanner import reader_of
from repo.storage.fetcher import Fetcher
from repo.types import CHUNK_KEY_BYTES, MIB, ChunkId, PointId, SegmentClass, SegmentId
from repo.upkeep.damage import Damage
from repo.upkeep.diagnosis import Diagnosis, diagnose
from repo.upkeep.healing import Healer, RepositoryHealer, Store
from repo.upkeep.losses import Losses
from repo.upkeep.lossfinder import LossFinder, Part
from repo.upkeep.marking import find_losses, remarked
from repo.upkeep.rescue import Rescue, forget_segments
from repo.upkeep.salvage import Salvage

PASSES_MAX: Final = 32
"""Names that come back may show that others are lost: so often the trees are walked again."""

CACHE_BYTES: Final = 32 * MIB

MakeHealers = Callable[[Store], Sequence[Healer]]
"""Makes those that may have what is lost; they are given where to put it."""


@dataclass(slots=True)
class PointLoss:
    """What is lost of a point. paths: from its root, at most PATHS_MAX."""

    point: Point
    loss: Loss
    paths: list[bytes] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class RepairReport:
    """What came of a repair. marked: points whose marks were written or changed; whole: points that
    were marked, and are whole again.
    """

    diagnosis: Diagnosis
    losses: list[PointLoss] = field(default_factory=list)
    chunks_salvaged: int = 0
    chunks_lost: int = 0
    chunks_healed: int = 0
    set_aside: list[str] = field(default_factory=list)
    points_brought_back: list[PointId] = field(default_factory=list)
    points_lost: list[PointId] = field(default_factory=list)
    marked: int = 0
    whole: int = 0
    seconds: float = 0.0

    @property
    def exit_status(self) -> int:
        """0, or 4 when something is lost or remains damaged."""
        remains = self.losses or self.points_lost or self.diagnosis.key_slots
        return Damaged.exit_status if remains else 0

    @property
    def damaged(self) -> bool:
        """Whether anything was damaged besides key slots."""
        found = self.diagnosis
        return bool(found.segments or found.points or found.index)

    @property
    def key_slots(self) -> list[Damage]:
        """Damaged key slots, which are the user's to remove."""
        return self.diagnosis.key_slots


@dataclass(frozen=True, slots=True)
class RepairProgress:
    """How far a repair is: the step, and segments or points of that step."""

    doing: str
    items: int
    items_expected: int
    bytes_read: int
    losses: int


OnProgress = Callable[[RepairProgress], None]
OnNotice = Callable[[str], None]


def repair(
    repository: Repository,
    *,
    healers: MakeHealers = lambda _store: (),
    dry_run: bool = False,
    streams: int = 0,
    on_progress: OnProgress = lambda _progress: None,
    on_notice: OnNotice = lambda _text: None,
    stopped: Callable[[], bool] = lambda: False,
) -> RepairReport:
    """Repair a repository, or say what would be lost. Raises RepositoryFailed.

    stopped: asked again and again; when it says so, Interrupted is raised between two steps.
    """
    if not dry_run:
        repository.recover()
    with repository.lease("repair"):
        return _Repair(repository, healers, dry_run, streams, on_progress, on_notice, stopped).run()


class _Repair:
    """One run."""

    def __init__(
        self,
        repository: Repository,
        healers: MakeHealers,
        dry_run: bool,
        streams: int,
        on_progress: OnProgress,
        on_notice: OnNotice,
        stopped: Callable[[], bool],
    ) -> None:
        self._repository = repository
        self._folder = repository.folder
        self._keys = repository.keys
        self._make_healers = healers
        self._dry_run = dry_run
        self._streams = streams
        self._on_progress = on_progress
        self._on_notice = on_notice
        self._stopped = stopped
        self._started = time.monotonic()
        self._report = RepairReport(diagnosis=Diagnosis())
        self._good: dict[int, frozenset[int]] = {}  # of a dry run: frames that can be salvaged

    def run(self) -> RepairReport:
        """Diagnose, salvage, heal, mark."""
        self._report.diagnosis = found = diagnose(
            self._repository,
            recovered=not self._dry_run,
            streams=self._streams,
            on_segment=self._tell_segment,
        )
        if found.index and not self._dry_run:
            self._on_notice(f"{found.index}: building it anew from the segments")
            self._repository.rebuild_index()
        self._salvage_all(found)
        with Scratch.make(self._repository.index_path.parent) as healed:
            rescue = Rescue(self._repository)
            try:
                self._heal_and_mark(rescue, healed, found)
            except BaseException:
                rescue.abandon()
                raise
        self._report.seconds = time.monotonic() - self._started
        return self._report

    # Segments

    def _salvage_all(self, found: Diagnosis) -> None:
        places = self._repository.places
        # Retired ones hold nothing that anybody needs: garbage collection is about to remove them.
        retired = Condemned(places).retired()
        rows = {row.segment_id: row.number for row in places.segments()}
        dead = {i for i in found.segments if rows.get(i) in retired}
        with closing(Fetcher(self._folder)) as fetcher:
            for done, segment_id in enumerate(found.segments):
                self._tell("salvaging", done, len(found.segments))
                if segment_id not in dead:
                    self._salvage(fetcher, segment_id, rows.get(segment_id))
        if self._dry_run:
            return
        numbers = [rows[i] for i in found.segments if i in rows and i not in dead]
        if numbers:
            cast_doubt(self._repository.environment)  # until all points are marked
        self._report.chunks_lost = forget_segments(places, self._repository, numbers)
        for segment_id in found.segments:
            for is_open in (True, False):
                self._folder.set_segment_aside(segment_id, is_open)
            self._report.set_aside.append(f"segments/{segment_id[:1].hex()}/{segment_id.hex()}")
        # Whoever opened the index in between has found the segment again.
        again = [n for i in found.segments if i not in dead and (n := places.by_id(i)) is not None]
        forget_segments(places, self._repository, again)

    def _salvage(self, fetcher: Fetcher, segment_id: SegmentId, number: int | None) -> None:
        """Store what verifies of a segment once more, as far as nothing else holds it."""
        places = self._repository.places
        good: set[int] = set()
        rescue = Rescue(self._repository)
        try:
            read, size = reader_of(fetcher, segment_id)
            salvage = Salvage(read, size, self._keys, segment_id)
            for frame in salvage.frames():
                good.add(frame.number)
                keys = [chunk_id[:CHUNK_KEY_BYTES] for chunk_id in frame.chunks]
                held = places.find_many(keys)
                condemned = Condemned(places).find_many(keys)
                for chunk_id, row in frame.chunks.items():
                    key = chunk_id[:CHUNK_KEY_BYTES]
                    place = held.get(key)
                    if place is None and key in condemned:
                        continue  # no point relies on it
                    if place is not None and place.segment != number:
                        continue
                    self._report.chunks_salvaged += 1
                    if not self._dry_run:
                        data = bytes(frame.content[row.offset : row.offset + row.length])
                        rescue.add(salvage.segment_class, chunk_id, data)
        except Damaged as damage:
            self._on_notice(str(damage))
        except BaseException:
            rescue.abandon()
            raise
        if number is not None:
            self._good[number] = frozenset(good)
        rescue.commit()

    # Points

    def _heal_and_mark(self, rescue: Rescue, healed: Scratch, found: Diagnosis) -> None:
        def store(chunk_id: bytes, data: bytes) -> None:
            self._report.chunks_healed += 1
            healed.add(chunk_id)
            if not self._dry_run:
                rescue.add(SegmentClass.DATA, chunk_id, data)

        good = self._good if self._dry_run else {}
        healers = self._make_healers(store)
        if not self._dry_run:
            for point_id in found.points:
                self._bring_back(point_id, healers)
        else:
            self._report.points_lost = list(found.points)
        for _ in range(PASSES_MAX if healers else 0):
            if not self._heal(healers, good, healed):
                break
        rescue.commit()
        self._mark(rescue, good, healed)

    def _points(self) -> list[Point]:
        return self._repository.points(on_damage=lambda damage: self._on_notice(str(damage)))

    def _finder(
        self, clean: Scratch, good: dict[int, frozenset[int]], healed: Scratch
    ) -> LossFinder:
        fetcher = self._repository.fetcher
        reader = Reader(fetcher, self._keys, self._repository.places, cache_bytes=CACHE_BYTES)
        return LossFinder(self._folder, reader, clean, good=good, rescued=healed.__contains__)

    def _heal(
        self, healers: Sequence[Healer], good: dict[int, frozenset[int]], healed: Scratch
    ) -> bool:
        """Offer everything that is lost to all that may have it; whether to look again."""
        again = False
        points = self._points()
        with Scratch.make(self._repository.index_path.parent) as clean:
            finder = self._finder(clean, good, healed)
            for done, point in enumerate(points):
                self._tell("looking elsewhere", done, len(points))
                for lost in finder.point(point):
                    if lost.part is Part.CONTENT:
                        any(healer.content(point, lost) for healer in healers)
                    elif not self._dry_run:
                        mended = any(healer.structure(point, lost) for healer in healers)
                        self._report.chunks_healed += mended
                        again = again or mended
        return again

    def _mark(self, rescue: Rescue, good: dict[int, frozenset[int]], healed: Scratch) -> None:
        """Note what is lost of each point, and take back what is not lost any more."""
        doubts_before = doubts(self._repository.environment)
        points = self._points()
        changed: list[Point] = []
        with Scratch.make(self._repository.index_path.parent) as clean:
            finder = self._finder(clean, good, healed)
            for done, point in enumerate(points):
                self._tell("checking points", done, len(points))
                losses = Losses(self._hash if self._dry_run else rescue.put)
                named = find_losses(finder, point, losses)
                loss = losses.loss()
                if loss.noted_ns:
                    self._report.losses.append(PointLoss(point, loss, named))
                if _same(loss, point.loss):
                    continue
                changed.append(remarked(point, loss))
            whole = self._dry_run or all(
                next(finder.point(point), None) is None for point in self._unfinished()
            )
        self._report.marked = sum(1 for point in changed if point.loss.noted_ns)
        self._report.whole = len(changed) - self._report.marked
        if self._dry_run:
            return
        rescue.commit()  # the lists, before anything names them
        for point in changed:
            remark_point(self._folder, self._keys, self._repository.header, point)
        if whole:  # what points lack is marked; a checkpoint cannot be
            settle_doubts(self._repository.environment, doubts_before)

    def _unfinished(self) -> list[Point]:
        return self._repository.unfinished(on_damage=lambda damage: self._on_notice(str(damage)))

    def _hash(self, data: bytes) -> ChunkId:
        return self._keys.chunk_id(data)

    def _bring_back(self, point_id: PointId, healers: Sequence[Healer]) -> None:
        """Make a damaged manifest anew from a copy of the point, or set it aside."""
        self._folder.set_point_aside(point_id)
        first = Origin(self._repository.header.repository_id, point_id)
        for healer in healers:
            if not isinstance(healer, RepositoryHealer):
                continue
            for twin in healer.twins(first):
                with suppress(Damaged):
                    root, problems = healer.whole_point(twin)
                    point = msgspec.structs.replace(
                        twin, id=point_id, root=root, problems=problems, origin=Origin()
                    )
                    write_point(self._folder, self._keys, self._repository.header, point)
                    self._report.points_brought_back.append(point_id)
                    return
        self._report.points_lost.append(point_id)

    # Progress

    def _tell_segment(self, done: int, expected: int, bytes_read: int) -> None:
        self._report.diagnosis.bytes_read = bytes_read
        self._tell("reading segments", done, expected)

    def _tell(self, doing: str, done: int, expected: int) -> None:
        if self._stopped():
            raise Interrupted("interrupted", next_step="run the same command again")
        self._on_progress(
            RepairProgress(
                doing,
                done,
                expected,
                self._report.diagnosis.bytes_read,
                len(self._report.losses),
            )
        )


def _same(new: Loss, old: Loss) -> bool:
    """Whether two losses say the same, whenever they were noted."""
    return msgspec.structs.replace(new, noted_ns=0) == msgspec.structs.replace(old, noted_ns=0)
