"""An index check: whether the index says what the footers say, in both directions.

Every chunk of a footer must have a place; every place must be one that a footer lists. The
first is looked up row by row, the second follows from counting: a place that a footer confirms
is confirmed by one row only, so that numbers which agree leave none unconfirmed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

from repo.format.frame import TABLE_ROW
from repo.format.place import Place
from repo.format.segment import FooterFrame
from repo.index.condemned import Condemned
from repo.index.places import Places
from repo.multiplexer import frame_table
from repo.types import SegmentId
from repo.upkeep.damage import RELATED_MAX, Findings
from repo.upkeep.survey import Survey

_BATCH: Final = 4096
_LOST: Final = "the index has no place for chunks of this segment"
_WRONG: Final = "the index has wrong places for chunks of this segment"


class IndexCheck:
    """Compares one segment after the other, then the index as a whole."""

    def __init__(self, places: Places, findings: Findings) -> None:
        self._places = places
        self._condemned = Condemned(places)
        self._findings = findings
        self._confirmed: Counter[int] = Counter()  # rows by segment number, of those compared
        self._elsewhere: dict[int, list[bytes]] = {}  # keys by the segment that the index names
        self._elsewhere_count = 0

    def segment(self, survey: Survey) -> None:
        """Compare what a footer lists with the index; a segment without one is left out."""
        number = self._places.by_id(survey.segment_id)
        if number is None:
            what = "the index does not have this segment"
            self._findings.index(what, segment_id=survey.segment_id)
            return
        if not survey.listed:
            return
        row = self._places.segment(number, fresh=True)
        table = frame_table(survey.frames)
        known = (survey.segment_id, survey.header.segment_class, table)
        if (row.segment_id, row.segment_class, row.frames) != known:
            what = "the index's table of frames is not that of the footer"
            damage = self._findings.index(what, segment_id=survey.segment_id)
            for frame in _different(row.frames, table):
                self._findings.relate_frame(survey.segment_id, frame, damage)
        self._confirmed[number] = 0
        self._tell(survey.segment_id, self._differences(number, survey.frames))

    def _differences(
        self, number: int, frames: Sequence[FooterFrame]
    ) -> Iterator[tuple[bytes, str]]:
        """The chunks that the index misses, or has in a place of no footer; and which of these."""
        for batch in _batches(frames):
            found = self._places.find_many([key for key, _ in batch])
            lost = [key for key, _ in batch if key not in found]
            condemned = self._condemned.find_many(lost) if lost else {}
            for key, (_, frame, offset, length) in batch:
                place = found.get(key)
                if place is None:
                    if key not in condemned:
                        yield key, _LOST
                elif place == (number, frame, offset, length):
                    self._confirmed[number] += 1
                elif place.segment != number:
                    self._note_elsewhere(place.segment, key)
                elif not _holds(frames, key, place):
                    yield key, _WRONG

    def _note_elsewhere(self, number: int, key: bytes) -> None:
        """The index has a chunk in another segment: it was stored twice, or its place rotted."""
        if self._elsewhere_count < RELATED_MAX:
            self._elsewhere_count += 1
            self._elsewhere.setdefault(number, []).append(key)

    def _tell(self, segment_id: SegmentId, differences: Iterable[tuple[bytes, str]]) -> None:
        damages = {}
        for key, what in differences:
            if what not in damages:
                damages[what] = self._findings.index(what, segment_id=segment_id)
            self._findings.relate(key, damages[what])

    def finish(self) -> None:
        """Compare the numbers, when every segment was seen."""
        held = Counter(place.segment for _, place in self._places.rows())
        known = {row.number for row in self._places.segments()}
        if self._places.next_number() <= max(known, default=-1):
            self._findings.index("the index would give the number of a segment again")
        astray = sum(count for number, count in held.items() if number not in known)
        if astray:
            self._findings.index(f"{astray} places of the index name segments that it has not")
        for number, confirmed in sorted(self._confirmed.items()):
            if held[number] != confirmed:
                segment_id = self._places.segment(number).segment_id
                what = f"{held[number] - confirmed} places of the index are in no footer"
                damage = self._findings.index(what, segment_id=segment_id)
                # Which of them cannot be told any more: whoever relies on one that may be is named.
                for key in self._elsewhere.get(number, ()):
                    self._findings.relate(key, damage)


def _batches(frames: Sequence[FooterFrame]) -> Iterator[list[tuple[bytes, Place]]]:
    rows = (
        (key, Place(0, frame.number, offset, length))
        for frame in frames
        for key, offset, length in frame.places()
    )
    while batch := list(islice(rows, _BATCH)):
        yield batch


def _different(table: bytes, other: bytes) -> Iterator[int]:
    """The numbers of the frames whose rows differ in two tables."""
    size = TABLE_ROW.size
    for at in range(0, max(len(table), len(other)), size):
        if table[at : at + size] != other[at : at + size]:
            yield at // size


def _holds(frames: Sequence[FooterFrame], key: bytes, place: Place) -> bool:
    """Whether a footer lists this chunk at this place too: it may have been stored twice."""
    wanted = (key, place.offset, place.length)
    return any(frame.number == place.frame and wanted in frame.places() for frame in frames)
