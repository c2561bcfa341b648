"""A sweep: garbage collection, from the marks of what is alive to the space that is free again.

1. Forgotten points go for good. What the rest relies on is marked, from nodes alone.
2. Dead chunks leave the index in slices, each with an epoch of its own: look-ups miss them then, so
   that writers store them anew, and whoever found one before sees at his publishing that the epoch
   has moved. In the transaction of a slice the points are listed: when a new one is there, it is
   marked first. Their places stay in the table of the condemned.
3. Segments in which nothing is alive are retired. Then those that are mostly dead are copied into
   new ones, and retired when the index has the new places.
4. Retired segments are removed as leases allow (`repo.upkeep.removal`); those that somebody may
   still read go with the next run.

Killed anywhere, it leaves what the next run goes on from. Memory: a part of the keys, and a few
numbers for each segment.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Final

from repo import recovery
from repo.errors import Damaged, RepositoryFailed, TryLater, UsageError
from repo.format import layout
from repo.format.segment import FooterFrame
from repo.index.condemned import Condemned
from repo.index.doubt import doubts, settle_doubts
from repo.index.environment import Transaction
from repo.index.places import Places
from repo.index.scratch import Scratch
from repo.points import read_pin
from repo.reach import Reach
from repo.repository import Repository
from repo.scanner import reader_of, scan
from repo.storage.durable import FILE_MODE, repository_io, try_lock
from repo.storage.lease import live
from repo.types import CHUNK_KEY_BYTES, MIB, PointId, SegmentClass, SegmentId
from repo.upkeep.gcreport import GcProgress, GcReport, OnProgress
from repo.upkeep.liveness import Liveness, SegmentState, segment_states
from repo.upkeep.marker import Marker
from repo.upkeep.marks import Marks
from repo.upkeep.removal import Removal
from repo.upkeep.repack import Repacker
from repo.upkeep.room import Room, is_full, too_full

REPACK_BELOW: Final = 0.7
DEAD_LEFT_MAX: Final = 0.1
"""Above this share of dead bytes in all, segments are repacked that are alive beyond the limit."""

READER_BYTES: Final = 64 * MIB
RELEASED_AFTER_KEYS: Final = 1 << 20
RESERVE_BYTES: Final = 4 * MIB
"""Free space that is needed besides what is rewritten at once: new pages of the index."""

_WRITERS: Final = frozenset({"ingest", "synth", "copy", "repair"})
_SLICE: Final = 1 << 15
"""Rows that leave the index in one transaction at most."""


def collect(
    repository: Repository,
    *,
    dry_run: bool = False,
    repack_below: float = REPACK_BELOW,
    streams: int = 0,
    on_progress: OnProgress = lambda _progress: None,
    on_notice: Callable[[str], None] = lambda _text: None,
) -> GcReport:
    """Give free what no point relies on. Runs beside everything else; two at once: TryLater.

    repack_below: segments of which less than this share is alive are rewritten.
    Raises Damaged, before anything is changed, when a point cannot be read wholly, and
    RepositoryFailed; what was done until then stays done.
    """
    if not 0 <= repack_below <= 1:
        raise UsageError("the limit of repacking is a share between 0 and 100 %")
    began = time.monotonic()
    streams = streams or len(os.sched_getaffinity(0))
    report = GcReport(dry_run=dry_run, reserve_bytes=RESERVE_BYTES)
    room = Room(repository, on_notice)
    with ExitStack() as stack:
        if not dry_run:
            room.make_if_full()
        while True:
            try:
                if not dry_run:
                    stack.enter_context(_only_one(repository))
                    _go_on(repository, on_notice)
                _Sweep(stack, repository, report, room, streams, on_progress).run(repack_below)
                break
            except RepositoryFailed as failure:
                stack.close()
                if dry_run or not is_full(failure) or not room.make():
                    raise too_full(failure, report.reserve_bytes) from failure
                repository.close()  # an index that could not be written takes no more
                report = GcReport(dry_run=dry_run, reserve_bytes=RESERVE_BYTES)
    if not dry_run:
        repository.keep_reserve()
    report.seconds = time.monotonic() - began
    return report


@contextmanager
def _only_one(repository: Repository) -> Iterator[None]:
    path = repository.path / layout.GC_LOCK
    with repository_io("cannot lock the garbage collection", path):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    try:
        if not try_lock(fd):
            raise TryLater(
                "another garbage collection runs",
                where=str(path),
                next_step="run the same command again when it has ended",
            )
        yield
        fcntl.flock(fd, fcntl.LOCK_UN)
    finally:
        os.close(fd)


def _go_on(repository: Repository, on_notice: Callable[[str], None]) -> None:
    """Lead what a killed run left behind to where this one can begin."""
    repository.recover()
    aside = repository.folder.segments_aside()
    if aside:
        on_notice(
            f"going on after a garbage collection that was killed: {len(aside)} segments back"
        )
        repository.folder.put_segments_back(aside)
        recovery.reconcile(repository.folder, repository.keys, repository.environment)


class _Sweep:
    """One garbage collection."""

    def __init__(
        self,
        stack: ExitStack,
        repository: Repository,
        report: GcReport,
        room: Room,
        streams: int,
        on_progress: OnProgress,
    ) -> None:
        self._room = room
        self._repository = repository
        self._folder = repository.folder
        self._dry_run = report.dry_run
        self._streams = streams
        self._on_progress = on_progress
        self.report = report
        self._places = Places(repository.environment)
        self._condemned = Condemned(self._places)
        self._environment = repository.environment
        scratch_folder = room.scratch_folder()
        self._marks = stack.enter_context(Marks(scratch_folder, self._places.count()))
        seen = stack.enter_context(Scratch.make(scratch_folder))
        self._fresh: list[bytes] | None = None
        self._looked = 0
        self._reach = Reach(repository.new_reader(cache_bytes=READER_BYTES), seen, self._take_keys)

    def _take_keys(self, keys: Sequence[bytes]) -> None:
        self._marks.add(keys)
        self._looked += len(keys)
        if self._looked >= RELEASED_AFTER_KEYS:  # each node was a look-up somewhere in the index
            self._looked = 0
            self._environment.release_memory()
        if self._fresh is not None:
            self._fresh += keys

    def _tell(self, doing: str, done: int, of: int | None) -> None:
        self._on_progress(GcProgress(doing=doing, items=done, items_expected=of))

    def run(self, repack_below: float) -> None:
        """Do all of it, or look at what it would be."""
        doubts_before = doubts(self._environment)
        left_out = self._purge()
        self._marker = Marker(
            self._repository,
            self._reach,
            left_out=left_out,
            on_point=lambda done, of: self._tell("marking points", done, of),
        )
        # Before the marks: what is stored from now on is not to be taken for dead.
        states = self._states()
        self._marker.catch_up()
        self._liveness = Liveness(self._places, self._marks, states)
        self._condemn()
        if not (self._dry_run or self.report.chunks_lost):
            settle_doubts(self._environment, doubts_before)
        self._removal = Removal(self._repository, self._places, self._catch_up, self._damaged)
        victims = self._choose(states, repack_below)
        if not self._dry_run:
            self._retire_dead([s for s in victims if not self._liveness.alive_bytes[s.number]])
            self._repack([s for s in victims if self._liveness.alive_bytes[s.number]])
            self._removal.run()
            self._finish()
        self.report.points = self._marker.points
        self.report.points_marked = self._marker.with_losses

    # Points

    def _purge(self) -> frozenset[PointId]:
        """Remove forgotten points for good, but for pinned ones and those that deltas lie over."""
        forgotten = self._folder.forgotten()
        if not forgotten:
            return frozenset()
        bases = self._repository.bases()
        now_ns = time.time_ns()
        gone: list[PointId] = []
        for point_id in forgotten:
            pin = read_pin(self._folder, self._repository.keys, point_id)
            if pin is not None and pin.holds(now_ns):
                if not self._dry_run:
                    self._folder.put_back(point_id)  # a forgetting was killed before it looked
            elif point_id not in bases:
                gone.append(point_id)
                if not self._dry_run and self._folder.remove_forgotten(point_id):
                    self._folder.remove_pin(point_id)
        self.report.points_removed = len(gone)
        return frozenset(gone) if self._dry_run else frozenset()

    def _catch_up(self) -> None:
        """Mark the points that are new, and revive what they rely on."""
        self._fresh = []
        try:
            while self._marker.catch_up():
                fresh, self._fresh = self._fresh, []
                for at in range(0, len(fresh), _SLICE):
                    self._revive(fresh[at : at + _SLICE])
        finally:
            self._fresh = None

    def _revive(self, keys: Sequence[bytes]) -> set[bytes]:
        """Put keys that were condemned back; those that nothing holds."""
        lost = set(keys) - self._places.known(keys)
        if not lost:
            return lost
        gone = self._environment.write(lambda txn: self._condemned.revive(txn, lost))
        self.report.chunks_revived += len(lost) - len(gone)
        return gone

    # Chunks

    def _states(self) -> dict[int, SegmentState]:
        """The segments that may be collected: not those which somebody may be writing."""
        identity = self._environment.identity
        first = [
            lease.first_segment
            for lease in live(self._folder)
            if lease.of_index == identity and lease.purpose.partition(" ")[0] in _WRITERS
        ]
        below = min([self._places.next_number(), *first])
        states = segment_states(self._places, below, set(self._condemned.retired()))
        self._environment.release_memory()
        return states

    def _condemn(self) -> None:
        """Take dead chunks out of the index, and revive marked ones that were out of it."""
        parts = list(self._liveness.parts())
        for number in parts:
            self._tell("looking for dead chunks", number, len(parts))
            part = self._liveness.part(number)
            if self._dry_run:
                known = self._condemned.find_many(part.lost) if part.lost else {}
                self.report.chunks_lost += len(part.lost) - len(known)
                continue
            if part.lost:
                self.report.chunks_lost += len(self._revive(sorted(part.lost)))
            for at in range(0, len(part.dead), _SLICE):
                self._condemn_slice(part.dead[at : at + _SLICE])
        self.report.chunks_alive = self._liveness.alive_chunks
        self.report.chunks_dead = self._liveness.dead_chunks

    def _condemn_slice(self, rows: list[bytes]) -> None:
        while True:

            def change(txn: Transaction, rows: Sequence[bytes] = rows) -> bool:
                # Publishing is a transaction too: no point appears between this look and the end.
                if self._marker.has_new_points():
                    return False
                self._condemned.condemn(txn, rows)
                return True

            if self._environment.write(change):
                return
            fresh: list[bytes] = []
            self._fresh = fresh
            self._marker.catch_up()
            self._fresh = None
            self._revive_all(fresh)
            needed = set(fresh)
            rows = [row for row in rows if row[:CHUNK_KEY_BYTES] not in needed]

    def _revive_all(self, keys: Sequence[bytes]) -> None:
        for at in range(0, len(keys), _SLICE):
            self._revive(keys[at : at + _SLICE])

    # Segments

    def _choose(self, states: dict[int, SegmentState], repack_below: float) -> list[SegmentState]:
        """The segments to rewrite or drop, the deadest first; fills in the report."""
        alive = self._liveness.alive_bytes

        def share(state: SegmentState) -> float:
            return alive[state.number] / state.plain_bytes if state.plain_bytes else 0.0

        ordered = sorted(states.values(), key=lambda s: (share(s), s.number))
        total = sum(state.sealed_bytes for state in ordered)
        dead = {s.number: round(s.sealed_bytes * (1 - min(1, share(s)))) for s in ordered}
        left = sum(dead.values())
        report = self.report
        report.segments, report.bytes_total, report.bytes_dead = len(ordered), total, left
        victims: list[SegmentState] = []
        rewritten = 0
        for state in ordered:
            remaining = total - (report.bytes_dead - left)
            beyond = left > DEAD_LEFT_MAX * remaining
            if share(state) >= repack_below and not (beyond and repack_below > 0):
                break
            if not dead[state.number] and alive[state.number]:
                break
            victims.append(state)
            left -= dead[state.number]
            if alive[state.number]:
                report.segments_repacked += 1
                rewritten = max(rewritten, state.sealed_bytes - dead[state.number])
                report.bytes_written += state.sealed_bytes - dead[state.number]
            else:
                report.segments_dead += 1
        report.bytes_dead_left = left
        report.reserve_bytes = self._reserve(rewritten)
        if self._dry_run:
            report.bytes_removed = sum(self._file_bytes(state.segment_id) for state in victims)
            report.bytes_freed = report.bytes_removed - report.bytes_written
        else:
            report.bytes_written = report.segments_repacked = 0
        return victims

    def _reserve(self, rewritten: int) -> int:
        """Free space that is needed at most: what is rewritten at once, and pages of the index."""
        pages = 4096 * min(self._places.chunk_table_pages(), 4 * _SLICE)
        batch = self._repository.header.segment_bytes(SegmentClass.DATA)
        at_once = min(self.report.bytes_written, batch + rewritten)
        return at_once + pages + RESERVE_BYTES

    def _retire_dead(self, states: Sequence[SegmentState]) -> None:
        for done, state in enumerate(states):
            self._tell("retiring dead segments", done, len(states))
            frames = self._frames(state)
            if frames is not None:
                self._retire(state, _keys(frames), {})
        if states:
            self._removal.run()

    def _repack(self, states: Sequence[SegmentState]) -> None:
        """Rewrite segments, as many at a time as fill one; each goes before the next is begun."""
        by_class: dict[SegmentClass, list[SegmentState]] = {}
        for state in states:
            by_class.setdefault(state.segment_class, []).append(state)
        repacker = Repacker(self._repository, self._places, streams=self._streams)
        done = 0
        try:
            for segment_class, members in by_class.items():
                limit = self._repository.header.segment_bytes(segment_class)
                copied: list[tuple[SegmentState, set[bytes]]] = []
                began = repacker.bytes_written
                for state in self._in_order(members):
                    self._tell("repacking segments", done, len(states))
                    done += 1
                    if not self._fits(state):
                        self._replace(repacker, copied)  # which may give free what is missing
                        copied, began = [], repacker.bytes_written
                        if not self._fits(state):
                            self._leave(state)
                            continue
                    keys = self._copy(repacker, state)
                    if keys is not None:
                        copied.append((state, keys))
                    if repacker.bytes_written - began >= limit:
                        self._replace(repacker, copied)
                        copied, began = [], repacker.bytes_written
                self._replace(repacker, copied)
        finally:
            repacker.end()
        self.report.bytes_written = repacker.bytes_written

    def _in_order(self, states: Sequence[SegmentState]) -> list[SegmentState]:
        """As they were written; where not all can be rewritten at once, the smallest first."""
        if sum(map(self._live_bytes, states)) > self._room.free():
            return sorted(states, key=self._live_bytes)
        return sorted(states, key=lambda state: state.number)

    def _live_bytes(self, state: SegmentState) -> int:
        """About what the live chunks of a segment take."""
        share = self._liveness.alive_bytes[state.number] / max(1, state.plain_bytes)
        return round(state.sealed_bytes * min(1, share))

    def _fits(self, state: SegmentState) -> bool:
        return self._live_bytes(state) + RESERVE_BYTES <= self._room.free()

    def _leave(self, state: SegmentState) -> None:
        """There is no room to rewrite a segment: the next run sees to it."""
        short = self._live_bytes(state) + RESERVE_BYTES - self._room.free()
        report = self.report
        report.bytes_short = min(report.bytes_short or short, short)
        report.segments_left += 1

    def _copy(self, repacker: Repacker, state: SegmentState) -> set[bytes] | None:
        """Copy what is alive in a segment; the keys of all that it holds. None when damaged."""
        frames = self._frames(state)
        if frames is None:
            return None
        keys = _keys(frames)
        found = self._places.find_many(keys)
        alive = {key for key, place in found.items() if place.segment == state.number}
        try:
            repacker.copy(state.segment_id, state.segment_class, frames, alive)
        except Damaged as damage:
            # What was copied of it stays where it is as well: the segment is not retired then.
            self._damaged(damage)
            return None
        return keys

    def _replace(
        self, repacker: Repacker, copied: Sequence[tuple[SegmentState, set[bytes]]]
    ) -> None:
        """Give chunks their new places, retire what they have left, remove it."""
        moves = repacker.close()
        for state, keys in copied:
            self.report.segments_repacked += self._retire(state, keys, moves)
        if copied:
            self._removal.run()

    def _retire(self, state: SegmentState, keys: set[bytes], moves: dict[bytes, bytes]) -> bool:
        """Move a segment's live chunks to their new places, and retire it when none is left."""

        def change(txn: Transaction) -> bool:
            here = [
                key
                for key, place in self._places.find_many(keys, txn).items()
                if place.segment == state.number
            ]
            moved = [(key, moves[key]) for key in sorted(here) if key in moves]
            self._places.move_places(txn, moved)
            if len(moved) < len(here):
                return False  # revived since we looked: it stays, and the next run sees to it
            self._condemned.retire(txn, [state.number])
            return True

        return self._environment.write(change)

    def _frames(self, state: SegmentState) -> list[FooterFrame] | None:
        """The frames of a closed segment by its footer; None when that is damaged."""
        try:
            read, size = reader_of(self._repository.fetcher, state.segment_id)
            return scan(read, size, self._repository.keys, state.segment_id).frames
        except Damaged as damage:
            self._damaged(damage)
            return None

    def _damaged(self, damage: Damaged) -> None:
        text = str(damage)
        if text not in self.report.damages:
            self.report.damages.append(text)

    def _finish(self) -> None:
        report = self.report
        if report.segments_left and not self._removal.removed:
            report.reserve_bytes = report.bytes_short
            raise RepositoryFailed(
                f"no room to rewrite any segment: {os.strerror(errno.ENOSPC)}",
                where=str(self._folder.path),
            )
        report.segments_removed = self._removal.removed
        report.bytes_removed = self._removal.freed_bytes
        report.bytes_freed = report.bytes_removed - report.bytes_written
        held, holders = self._removal.held_back()
        report.bytes_held_back = sum(map(self._file_bytes, held))
        report.holders = [f"{h.purpose} (process {h.pid} on {h.host})" for h in holders]

    def _file_bytes(self, segment_id: SegmentId) -> int:
        with suppress(OSError):  # it is gone
            return self._folder.segment_path(segment_id).stat().st_size
        return 0


def _keys(frames: Sequence[FooterFrame]) -> set[bytes]:
    return {key for frame in frames for key, _, _ in frame.places()}
