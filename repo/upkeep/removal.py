"""A removal: retired segments go, in an order that loses nothing whatever runs beside it.

1. No lease is older than a segment's retirement, nor of another index, whose epochs say nothing.
2. The segment is set aside under another name, and that is noted: whoever takes a lease from now on
   with an index that still names it sees the note and looks for his segments again.
3. The leases are asked once more: whoever took one before the note was there is seen now.
4. The points are listed once more. Whoever might have relied on the segment has ended, so what he
   published is there: what it needs is revived, and its segment is put back.
5. The segment leaves the index; that is made durable; the file goes.

A kill anywhere leaves the segment where the next run puts it back, or nothing. No clock decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from repo.errors import Damaged
from repo.index.condemned import Condemned
from repo.index.environment import Environment
from repo.index.places import Places
from repo.repository import Repository
from repo.scanner import reader_of, scan
from repo.storage.fetcher import Fetcher
from repo.storage.lease import LeaseInfo, live
from repo.types import SegmentId

_SEGMENTS_TOGETHER = 64


def segment_keys(repository: Repository, fetcher: Fetcher, segment_id: SegmentId) -> set[bytes]:
    """The keys of all chunks that a closed segment holds, dead or alive. Raises Damaged."""
    read, size = reader_of(fetcher, segment_id)
    frames = scan(read, size, repository.keys, segment_id).frames
    return {key for frame in frames for key, _, _ in frame.places()}


class Removal:
    """Removes what is retired, as far as leases allow."""

    def __init__(
        self,
        repository: Repository,
        places: Places,
        catch_up: Callable[[], None],
        on_damage: Callable[[Damaged], None],
    ) -> None:
        """catch_up: marks the points that are new, and revives what they rely on."""
        self._repository = repository
        self._folder = repository.folder
        self._environment: Environment = places.environment
        self._places = places
        self._condemned = Condemned(places)
        self._catch_up = catch_up
        self._on_damage = on_damage
        self.removed = 0
        self.freed_bytes = 0

    def run(self) -> None:
        """Remove all that may go now. Raises RepositoryFailed."""
        while numbers := self._ready(self._retired_segments()):
            some = dict(list(numbers.items())[:_SEGMENTS_TOGETHER])
            before = self.removed
            self._remove(some)
            if self.removed == before:
                return  # revived or held again: the next run sees to it

    def held_back(self) -> tuple[list[SegmentId], list[LeaseInfo]]:
        """The retired segments that are still there, and the leases that hold them back."""
        numbers = self._retired_segments()
        if not numbers:
            return [], []
        retired = self._condemned.retired()
        newest = max(retired[n] for n in numbers)
        holders = [
            lease
            for lease in live(self._folder)
            if lease.older_than(newest, self._environment.identity)
        ]
        return list(numbers.values()), holders

    def _retired_segments(self) -> dict[int, SegmentId]:
        retired = self._condemned.retired()
        if not retired:
            return {}
        return {r.number: r.segment_id for r in self._places.segments() if r.number in retired}

    def _ready(self, numbers: dict[int, SegmentId]) -> dict[int, SegmentId]:
        """Those that no lease holds back."""
        retired = self._condemned.retired()
        leases = live(self._folder) if numbers else []
        identity = self._environment.identity
        return {
            number: segment_id
            for number, segment_id in numbers.items()
            if number in retired
            and not any(lease.older_than(retired[number], identity) for lease in leases)
        }

    def _remove(self, numbers: dict[int, SegmentId]) -> None:
        with_keys = self._keys(numbers)
        numbers = {number: numbers[number] for number in with_keys}
        self._environment.sync()  # retired durably, before the names change
        self._folder.set_segments_aside(numbers.values())
        self._folder.note_removal()
        ready = self._ready(numbers)
        self._put_back(numbers[number] for number in numbers.keys() - ready.keys())
        if not ready:
            return
        self._catch_up()
        gone: list[SegmentId] = []
        for number, segment_id in ready.items():
            keys = with_keys[number]
            if self._environment.write(
                lambda txn, n=number, k=keys: self._condemned.drop_segment(txn, n, k)  # type: ignore[misc]
            ):
                gone.append(segment_id)
            else:
                self._put_back([segment_id])
        self._environment.sync()
        for segment_id in gone:
            self._repository.fetcher.forget(segment_id)
        self.freed_bytes += self._folder.remove_segments_aside(gone)
        self.removed += len(gone)

    def _put_back(self, segment_ids: Iterable[SegmentId]) -> None:
        self._folder.put_segments_back(segment_ids)

    def _keys(self, numbers: dict[int, SegmentId]) -> dict[int, Sequence[bytes]]:
        found: dict[int, Sequence[bytes]] = {}
        for number, segment_id in numbers.items():
            try:
                found[number] = sorted(
                    segment_keys(self._repository, self._repository.fetcher, segment_id)
                )
            except Damaged as damage:
                self._on_damage(damage)
        return found
