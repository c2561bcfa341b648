"""A damage: one place of a repository that is not as it was written, and who relies on it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from repo.format import layout
from repo.format.place import Place
from repo.types import CHUNK_KEY_BYTES, SegmentId

NAMED_MAX: Final = 100
"""Points and paths that one damage names; beyond they are only counted."""

FRAMES_MAX: Final = 10_000
"""Damaged frames told one by one; beyond, a damaged frame condemns its whole segment."""

RELATED_MAX: Final = 100_000
"""Single chunks that are known to suffer from a damage."""

COPY: Final = "put back a copy of this file if there is one, then run `repo rebuild-index`"
DISK: Final = "check the disk (kernel log, SMART)"
REBUILD: Final = "run `repo rebuild-index`, then `repo verify`"


@dataclass(slots=True, kw_only=True)
class Damage:
    """What is wrong, where, and which files of which points rely on it.

    where: the file of the repository, below its folder. segment: id in hex, "" when it is none
    of a segment. offset: bytes from the start of that file. paths: from the root of the point,
    as `os.fsdecode` gives them, "." for the root itself. Lists are capped at `NAMED_MAX`;
    `paths_total` counts a file once for each point that it is damaged in. unfinished: the
    checkpoints of runs that have not ended which rely on it, by id; they are no points.
    """

    what: str
    where: str
    next_step: str
    segment: str = ""
    frame: int | None = None
    offset: int | None = None
    points: list[str] = field(default_factory=list)
    points_total: int = 0
    paths: list[str] = field(default_factory=list)
    paths_total: int = 0
    unfinished: list[str] = field(default_factory=list)
    _point: str = field(default="", init=False, repr=False)
    _path: bytes | None = field(default=None, init=False, repr=False)

    def hit(self, point: str, path: bytes | None) -> None:
        """Note that a point relies on this place, with the file at `path` (None: by itself).

        Points come one after the other, and so do the files of one: the same twice is one.
        """
        if point != self._point:
            self._point, self._path = point, None
            self.points_total += 1
            if len(self.points) < NAMED_MAX:
                self.points.append(point)
        if path is None or path == self._path:
            return
        self._path = path
        self.paths_total += 1
        name = os.fsdecode(path or b".")
        if len(self.paths) < NAMED_MAX and name not in self.paths:
            self.paths.append(name)

    def hit_unfinished(self, point: str) -> None:
        """Note that the checkpoint of a run relies on this place."""
        if point not in self.unfinished and len(self.unfinished) < NAMED_MAX:
            self.unfinished.append(point)

    @property
    def hits(self) -> bool:
        """Whether anybody relies on this place."""
        return bool(self.points_total or self.unfinished)


class Findings:
    """All damage found, and the way from a place to the damage that lies there."""

    def __init__(self) -> None:
        self.damages: list[Damage] = []
        self._segments: dict[bytes, Damage] = {}
        self._frames: dict[tuple[bytes, int], Damage] = {}
        self._chunks: dict[bytes, Damage] = {}
        self._missing: Damage | None = None

    def file(self, where: str, what: str, *, next_step: str) -> Damage:
        """Damage of a file as a whole: header, key slot, point, index."""
        return self._add(Damage(what=what, where=where, next_step=next_step))

    def index(self, what: str, *, segment_id: SegmentId | None = None) -> Damage:
        """The index does not say what the segments say."""
        segment = "" if segment_id is None else segment_id.hex()
        return self._add(Damage(what=what, where=layout.INDEX, segment=segment, next_step=REBUILD))

    def footer(self, segment_id: SegmentId, what: str, *, next_step: str = COPY) -> Damage:
        """Damage of a segment that leaves its frames readable."""
        return self._add(_of_segment(segment_id, what, next_step))

    def segment(self, segment_id: SegmentId, what: str, *, next_step: str = COPY) -> Damage:
        """Damage that makes all of a segment unreadable."""
        damage = self._segments.get(segment_id)
        if damage is None:
            damage = self._add(_of_segment(segment_id, what, next_step))
            self._segments[segment_id] = damage
        return damage

    def block(
        self, segment_id: SegmentId, offset: int, what: str, *, next_step: str = COPY
    ) -> Damage:
        """Damage of bytes of a segment that may belong to any frame."""
        damage = _of_segment(segment_id, what, next_step)
        damage.offset = offset
        return self._add(damage)

    def frame(
        self,
        segment_id: SegmentId,
        number: int,
        what: str,
        *,
        offset: int | None = None,
        next_step: str = COPY,
    ) -> Damage:
        """Damage of one frame."""
        damage = self._segments.get(segment_id) or self._frames.get((segment_id, number))
        if damage is not None:
            return damage
        if len(self._frames) >= FRAMES_MAX:
            return self.segment(segment_id, f"more than {FRAMES_MAX} frames are damaged, some here")
        damage = _of_segment(segment_id, what, next_step)
        damage.frame, damage.offset = number, offset
        self._frames[segment_id, number] = damage
        return self._add(damage)

    def cut(self, segment_id: SegmentId, numbers: Sequence[int], size: int) -> None:
        """A segment that ends before its frames do: one damage for all that are not there."""
        what = f"the segment is cut short: {len(numbers)} frames are not there"
        damage = self.block(segment_id, size, what)
        for number in numbers:
            self.relate_frame(segment_id, number, damage)

    def relate_frame(self, segment_id: SegmentId, number: int, damage: Damage) -> None:
        """Say that a frame suffers from a damage."""
        self._frames.setdefault((segment_id, number), damage)

    def chunk(self, chunk_id: bytes, segment_id: SegmentId, frame: int, what: str) -> Damage:
        """Damage of one chunk in an intact frame: a node that makes no sense."""
        damage = self.of_chunk(chunk_id)
        if damage is None:
            damage = _of_segment(segment_id, f"{what}: chunk {chunk_id.hex()[:16]}", COPY)
            damage.frame = frame
            self.relate(chunk_id, self._add(damage))
        return damage

    def misplaced(self, chunk_id: bytes, segment_id: SegmentId | None, what: str) -> Damage:
        """The index names a wrong place for a chunk."""
        damage = self.of_chunk(chunk_id)
        if damage is None:
            damage = self.index(f"{what}: chunk {chunk_id.hex()[:16]}", segment_id=segment_id)
            self.relate(chunk_id, damage)
        return damage

    def relate(self, chunk_id: bytes, damage: Damage) -> None:
        """Say that a chunk, given by its id or key, suffers from a damage."""
        if len(self._chunks) < RELATED_MAX:
            self._chunks.setdefault(chunk_id[:CHUNK_KEY_BYTES], damage)

    def of_chunk(self, chunk_id: bytes) -> Damage | None:
        """The damage that was related to a chunk."""
        return self._chunks.get(chunk_id[:CHUNK_KEY_BYTES])

    def missing(self) -> Damage:
        """The one damage of all chunks that nothing holds."""
        if self._missing is None:
            what = "chunks are missing: no segment that can be read holds them"
            self._missing = self._add(
                Damage(
                    what=what,
                    where=layout.SEGMENTS,
                    next_step="put back the segment files that are missing or damaged, then run "
                    "`repo rebuild-index`",
                )
            )
        return self._missing

    def is_missing(self, damage: Damage) -> bool:
        """Whether a damage is that of the chunks that nothing holds."""
        return damage is self._missing

    def told(self) -> list[Damage]:
        """All damage, without the missing chunks of which each point that suffers says so."""
        return [d for d in self.damages if d is not self._missing or d.hits]

    def at(self, chunk_id: bytes, segment_id: SegmentId, place: Place) -> Damage | None:
        """The known damage that a chunk at this place suffers from."""
        return (
            self._segments.get(segment_id)
            or self._frames.get((segment_id, place.frame))
            or self.of_chunk(chunk_id)
        )

    def is_lost(self, segment_id: SegmentId) -> bool:
        """Whether nothing of a segment can be read."""
        return segment_id in self._segments

    def _add(self, damage: Damage) -> Damage:
        self.damages.append(damage)
        return damage


def _of_segment(segment_id: SegmentId, what: str, next_step: str) -> Damage:
    where = layout.segment_path(segment_id, is_open=False)
    return Damage(what=what, where=where, segment=segment_id.hex(), next_step=next_step)
