"""A repository: the door to everything below: keys, points, index, readers and writers."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

import msgspec

from repo import recovery, unlock
from repo.closing import close_abandoned
from repo.errors import Damaged, TryLater, UsageError
from repo.format import layout
from repo.format.header import Header
from repo.format.keyslot import KdfCost, KeySlot
from repo.format.manifest import Point
from repo.format.node import Entry
from repo.index.condemned import Condemned
from repo.index.doubt import in_doubt
from repo.index.environment import Environment, IndexUnusable
from repo.index.location import index_folder
from repo.index.places import Places
from repo.index.probe import probe
from repo.kept import Kept
from repo.keys import Credential, Keys, derive, new_root
from repo.lineage import lineage, merged
from repo.pointname import names_source, until_ns
from repo.points import read_forgotten, read_point
from repo.reader import CACHE_BYTES, Reader
from repo.storage.durable import repository_io
from repo.storage.fetcher import Fetcher
from repo.storage.folder import Folder
from repo.storage.lease import Lease
from repo.storage.lease import sweep as sweep_leases
from repo.storage.reserve import Reserve, reserve_bytes
from repo.tree import Tree
from repo.types import PointId, RepositoryId, Secret, SegmentClass
from repo.writer import Writer

Notice = Callable[[str], None]
"""Told in words what is being done that the user did not ask for."""


def _silent(_text: str) -> None:
    """Drop a notice."""


class Repository:
    """An unlocked repository. A context manager: closes what it opened."""

    def __init__(
        self,
        folder: Folder,
        header: Header,
        root: Secret,
        *,
        index_dir: str | os.PathLike[str] | None,
        on_notice: Notice,
    ) -> None:
        self.folder = folder
        self.header = header
        self.keys: Keys = derive(root, header.repository_id)
        self._root = root
        self._index_dir = index_dir
        self._on_notice = on_notice
        self._environment: Environment | None = None
        self._fetcher: Fetcher | None = None
        self._reader: Reader | None = None
        self._kept = Kept()
        self._resolved: dict[bytes, Entry] = {}
        self._removals = b""
        self._condemnations: int | None = None

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        credential: Credential,
        *,
        header: Header | None = None,
        label: str = "",
        cost: KdfCost = unlock.COST,
        index_dir: str | os.PathLike[str] | None = None,
        on_notice: Notice = _silent,
    ) -> Self:
        """Make a repository with one key slot. Raises UsageError when the folder is in use.

        The header is written last: without it the folder is no repository yet.
        """
        if header is None:
            repository_id = RepositoryId(secrets.token_bytes(16))
            header = Header(repository_id=repository_id, created_ns=time.time_ns())
        root = new_root()
        slot = unlock.wrap(root, credential, header.repository_id, label=label, cost=cost)
        with Folder.making(path) as folder:
            folder.write_key(slot.slot_id.hex(), slot.pack())
            header = derive(root, header.repository_id).sign_header(header)
            folder.write_header(header.pack())
        Reserve(folder.path / layout.RESERVE).keep(
            reserve_bytes(header.segment_bytes(SegmentClass.DATA), 0)
        )
        return cls(folder, header, root, index_dir=index_dir, on_notice=on_notice)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        credential: Credential,
        *,
        index_dir: str | os.PathLike[str] | None = None,
        on_notice: Notice = _silent,
    ) -> Self:
        """Open and unlock a repository.

        Raises NotARepository, WrongKey, Damaged (an altered header) or RepositoryFailed.
        """
        folder = Folder.open(path)
        header = Header.parse(folder.read_header())
        names = folder.keys()
        slots = {name: folder.read_key(name) for name in names}
        root = unlock.open_any(slots, credential, header.repository_id).root
        repository = cls(folder, header, root, index_dir=index_dir, on_notice=on_notice)
        repository.keys.check_header(header)
        return repository

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close index and files. The repository is of no use afterwards."""
        if self._fetcher is not None:
            self._fetcher.close()
            self._fetcher = None
        if self._environment is not None:
            self._environment.close()
            self._environment = None
        self._condemnations = None
        self._reader = None

    @property
    def path(self) -> Path:
        """The repository's folder."""
        return self.folder.path

    # -- points -------------------------------------------------------------------------------

    def points(self, on_damage: Callable[[Damaged], None] | None = None) -> list[Point]:
        """All points, oldest first by the time at which the repository received them.

        One that is forgotten meanwhile may be missing. A damaged manifest is handed to
        `on_damage`; without one, Damaged is raised.
        """
        points = self._read_points(on_damage, unfinished=False)
        return sorted(points, key=lambda point: (point.received_ns, point.id))

    def unfinished(self, on_damage: Callable[[Damaged], None] | None = None) -> list[Point]:
        """The last checkpoints of runs that have not ended, oldest first by their beginning.

        What their trees hold must be kept as if they were points. One whose run ends meanwhile
        may be missing. Damage as in `points`.
        """
        points = self._read_points(on_damage, unfinished=True)
        return sorted(points, key=lambda point: (point.created_ns, point.id))

    def _read_points(
        self, on_damage: Callable[[Damaged], None] | None, *, unfinished: bool
    ) -> Iterator[Point]:
        for point_id in self.folder.points(unfinished=unfinished):
            try:
                yield read_point(self.folder, self.keys, point_id, unfinished=unfinished)
            except Damaged as damage:
                if point_id not in self.folder.points(unfinished=unfinished):
                    continue  # gone meanwhile
                if on_damage is None:
                    raise
                on_damage(damage)

    def point(self, spec: str, *, unfinished: bool = False, stored: bool = False) -> Point:
        """The point that a user means: an id prefix, `latest`, `latest:SOURCE` or `SOURCE@TIME`.

        With `unfinished` also what a run has left that has not ended, by its id only. A delta
        comes as the full that it shows, unless it is wanted as it is `stored`.

        TIME is local ISO time, as precise as you like: the newest point of that source received
        up to the end of that day, minute or second is meant.
        Raises UsageError when none or several fit.
        """
        if spec and set(spec) <= set("0123456789abcdef"):
            point = self._point_by_prefix(spec, unfinished=unfinished)
            return point if stored else self.resolved(point)
        points = self.points(on_damage=lambda damage: self._on_notice(str(damage)))
        source, at, time_text = spec.rpartition("@")
        if spec == "latest":
            fitting = points
        elif spec.startswith("latest:"):
            fitting = [p for p in points if names_source(p, spec.removeprefix("latest:"))]
        elif at:
            until = until_ns(time_text)
            fitting = [p for p in points if names_source(p, source) and p.received_ns <= until]
        else:
            fitting = []
        if not fitting:
            raise UsageError(
                "no such point", where=spec, next_step="`repo points` lists what there is"
            )
        return fitting[-1] if stored else self.resolved(fitting[-1])

    def _point_by_prefix(self, prefix: str, *, unfinished: bool) -> Point:
        # A run that has just ended, or died at its very end, has both: the point counts.
        of_runs = self.folder.points(unfinished=True) if unfinished else ()
        states = dict.fromkeys(of_runs, True) | dict.fromkeys(self.folder.points(), False)
        ids = [point_id for point_id in states if point_id.hex().startswith(prefix)]
        if len(ids) != 1:
            what = f"{len(ids)} points begin with this" if ids else "no such point"
            next_step = "give more digits" if ids else "`repo points` lists what there is"
            raise UsageError(what, where=prefix, next_step=next_step)
        return read_point(self.folder, self.keys, ids[0], unfinished=states[ids[0]])

    def lineage(self, point: Point) -> list[Point]:
        """A point and, when it is a delta, all that it lies over, as they are stored; the full
        last. It relies on the trees of all of them, whether they were forgotten or not.

        Raises Damaged when one of them is not there.
        """
        if not point.delta:
            return [point]
        return lineage(self._named(PointId(point.id)), self._named)

    def bases(self) -> set[PointId]:
        """The points that deltas lie over, through others as well.

        Those of them that were forgotten are still relied on: neither their manifests nor what
        their trees hold may be removed. Raises Damaged for a point that cannot be read.
        """
        needed: set[PointId] = set()
        for point in self.points():
            above = point
            with suppress(Damaged):  # a base that is gone needs nothing any more
                while above.delta and above.base not in needed:
                    needed.add(PointId(above.base))
                    above = self._named(PointId(above.base))
        return needed

    def _named(self, point_id: PointId) -> Point:
        try:
            return read_point(self.folder, self.keys, point_id)
        except Damaged:
            if point_id not in set(self.folder.forgotten()):
                raise
            return read_forgotten(self.folder, self.keys, point_id)

    def resolved(self, point: Point) -> Point:
        """A point as a full: the root of a delta is that of its tree over its base's.

        The nodes which that makes are kept as long as the repository is open; every reader of it
        finds them. Raises Damaged.
        """
        if not point.delta:
            return point
        root = self._resolved.get(point.id)
        if root is None:
            root = merged(self.tree, self.lineage(point), self.reader.keep)
            self._resolved[point.id] = root
        return msgspec.structs.replace(point, root=root)

    @property
    def kept(self) -> Kept:
        """The nodes of delta points that were resolved."""
        return self._kept

    # -- key slots ----------------------------------------------------------------------------

    def slots(self) -> list[KeySlot]:
        """The key slots, oldest first. Damaged ones raise Damaged."""
        slots = [
            KeySlot.parse(self.folder.read_key(name), where=f"keys/{name}")
            for name in self.folder.keys()  # noqa: SIM118 (not a mapping)
        ]
        return sorted(slots, key=lambda slot: slot.created_ns)

    def add_slot(
        self, credential: Credential, *, label: str = "", cost: KdfCost = unlock.COST
    ) -> KeySlot:
        """Let another password or key file open the repository."""
        slot = unlock.wrap(
            self._root, credential, self.header.repository_id, label=label, cost=cost
        )
        self.folder.write_key(slot.slot_id.hex(), slot.pack())
        return slot

    def remove_slot(self, prefix: str) -> str:
        """Remove the key slot whose id begins so; returns its id. Never the last intact one.

        One at a time: of two that each left the other's slot none would be left.
        """
        with self.folder.keys_locked():
            names = self.folder.keys()
            fitting = [name for name in names if name.startswith(prefix)]
            if len(fitting) != 1:
                many = f"{len(fitting)} key slots begin with this"
                raise UsageError(
                    many if fitting else "no such key slot",
                    where=prefix,
                    next_step="`repo key list` shows them",
                )
            if not any(self._is_intact(name) for name in names if name != fitting[0]):
                raise UsageError(
                    "the last key slot cannot be removed",
                    where=fitting[0],
                    next_step="add another one first: without any nothing can be read again",
                )
            self.folder.remove_key(fitting[0])
        return fitting[0]

    def _is_intact(self, name: str) -> bool:
        with suppress(Damaged):
            KeySlot.parse(self.folder.read_key(name))
            return True
        return False

    # -- index --------------------------------------------------------------------------------

    @property
    def index_path(self) -> Path:
        """The folder of the index; the same as long as it is open."""
        if self._environment is not None:
            return self._environment.path
        return index_folder(self.path, self.header.repository_id, self._index_dir)

    @property
    def environment(self) -> Environment:
        """The index, opened and brought up to the segments; built anew when it is unusable."""
        if self._environment is None:
            self._environment = self._open_index()
        return self._environment

    def sound_environment(self) -> Environment:
        """The same; built anew also when it opens well and kills the process that reads it."""
        path = self.index_path
        with recovery.rebuilding(path):
            try:
                probe(path)
            except IndexUnusable:
                self.close()
                recovery.rebuild(self.folder, self.keys, path, lambda _done, _of: None)
        return self.environment

    def _open_index(self) -> Environment:
        path = self.index_path
        with suppress(IndexUnusable, Damaged):  # Damaged: its rows contradict each other
            return self._reconciled(path)
        with recovery.rebuilding(path):
            try:
                return self._reconciled(path)
            except (IndexUnusable, Damaged) as error:
                if any(self.folder.segments()):
                    self._on_notice(f"{error.what}: building it anew from the segments")
            recovery.rebuild(self.folder, self.keys, path, lambda _done, _of: None)
            return self._reconciled(path)

    def _reconciled(self, path: Path) -> Environment:
        environment = Environment.open(path, self.header.repository_id, create=False)
        self._removals = self.folder.removals()  # before the segments are looked at
        try:
            found = recovery.reconcile(self.folder, self.keys, environment)
        except BaseException:
            environment.close()
            raise
        for damage in found.damages:
            self._on_notice(str(damage))
        return environment

    @contextmanager
    def index_as_it_is(self) -> Iterator[Environment]:
        """The index without bringing it up to the segments: to look for damage, not to rely on.

        One that is in use already is handed out as it is used. Raises IndexUnusable, also when
        its damage kills the process that reads it first.
        """
        if self._environment is not None:
            yield self._environment
            return
        if self.index_path.exists():
            probe(self.index_path)
        repository_id = self.header.repository_id
        with Environment.open(self.index_path, repository_id, create=False) as environment:
            yield environment

    def rebuild_index(
        self, on_segment: recovery.OnSegment = lambda _done, _of: None
    ) -> tuple[Damaged, ...]:
        """Build the index anew from the segments. Returns the damage met on the way."""
        self.close()
        return recovery.rebuild(self.folder, self.keys, self.index_path, on_segment)

    @property
    def in_doubt(self) -> bool:
        """Whether points may rely on chunks that the index lacks, and nobody has looked yet."""
        return in_doubt(self.environment)

    @property
    def places(self) -> Places:
        """The index's table of chunks and segments."""
        return Places(self.environment)

    def catch_up(self) -> None:
        """Learn of all that was stored since the index was opened, by whatever index others have.

        For those who only read. Raises IndexUnusable when what it names has gone.
        """
        recovery.catch_up(self.folder, self.keys, self.environment)

    # -- reading and writing ------------------------------------------------------------------

    @property
    def fetcher(self) -> Fetcher:
        """The read side of the segment files."""
        if self._fetcher is None:
            self._fetcher = Fetcher(self.folder)
        return self._fetcher

    @property
    def reader(self) -> Reader:
        """The reader that this process shares."""
        if self._reader is None:
            self._reader = self.new_reader()
        return self._reader

    def new_reader(self, *, cache_bytes: int = CACHE_BYTES) -> Reader:
        """A reader with a frame cache of its own."""
        return Reader(
            self.fetcher, self.keys, self.places, cache_bytes=cache_bytes, kept=self._kept
        )

    @property
    def tree(self) -> Tree:
        """Trees of points, through the shared reader."""
        return Tree(self.reader)

    def lease(self, purpose: str, *, reading: bool = False) -> Lease:
        """A lease for a process that relies on what the index says, or a point, from now on.

        Take it before anything is looked up, and before the points are read that are relied on.
        One for `reading` can be had also where nothing can be written. Raises TryLater when
        somebody has just removed segments that this index still names.
        """
        environment = self.environment
        # What is looked up from here on, a writer looks at again when something is condemned.
        self._condemnations = Condemned(self.places).condemnations()
        if reading:
            lease = self._lease_for_reading(purpose)
        else:
            lease = Lease.acquire(
                self.folder,
                purpose,
                environment.epoch(),
                of_index=environment.identity,
                first_segment=self.places.next_number(),
            )
        try:
            self._check_removals(environment)
        except BaseException:
            lease.release()
            raise
        return lease

    def _lease_for_reading(self, purpose: str) -> Lease:
        environment = self.environment
        lease = Lease.acquire_for_reading(
            self.folder, purpose, environment.epoch(), of_index=environment.identity
        )
        if lease.path is None:
            self._on_notice(
                f"nothing can be written to {self.path}: until this ends `repo gc` removes nothing"
            )
        return lease

    def _check_removals(self, environment: Environment) -> None:
        """Whoever removes segments says so, then asks for leases: one of the two sees the other."""
        removals = self.folder.removals()
        if removals == self._removals:
            return
        try:
            recovery.reconcile(self.folder, self.keys, environment)
        except IndexUnusable as error:
            raise TryLater(
                "garbage collection with another index has just removed segments",
                where=error.where,
                next_step="run the same command again: it builds the index anew",
            ) from error
        self._removals = removals

    def recover(self) -> int:
        """Close the segments that dead processes left open; sweep their leases and other files.

        Returns how many segments there were. Done at the start of everything that writes.
        """
        # The index first: it says what of an open segment is relied on.
        closed, damages = close_abandoned(self.folder, self.keys, self.places)
        for damage in damages:
            self._on_notice(str(damage))
        self.folder.sweep()
        published = set(self.folder.points())
        for point_id in self.folder.points(unfinished=True):
            if point_id in published:  # its run died just before it dropped its checkpoint
                self.folder.remove_point(point_id, unfinished=True)
        sweep_leases(self.folder)
        self.keep_reserve()
        recovery.sweep_indexes(self.index_path)
        if closed:
            found = recovery.reconcile(self.folder, self.keys, self.environment)
            for damage in found.damages:
                self._on_notice(str(damage))
        return closed

    # -- space ---------------------------------------------------------------------------------

    @property
    def reserve_bytes(self) -> int:
        """What garbage collection needs to give any space free on a full disk."""
        return reserve_bytes(
            self.header.segment_bytes(SegmentClass.DATA), self.places.segment_count()
        )

    def reserves(self) -> list[Reserve]:
        """The reserve beside the segments, and one beside the index when that lies elsewhere."""
        beside = self.index_path.parent
        found = [Reserve(self.path / layout.RESERVE)]
        with repository_io("cannot look at the index", beside):
            if beside.exists() and beside.stat().st_dev != self.path.stat().st_dev:
                found.append(Reserve(self.index_path.with_suffix(f".{layout.RESERVE}")))
        return found

    def keep_reserve(self) -> None:
        """Make the reserve as large as it should be, as far as there is room."""
        for reserve in self.reserves():
            reserve.keep(self.reserve_bytes)

    def writer(self, *, level: int | None = 3) -> Writer:
        """A writer for one job. `level` is zstd's for nodes; None stores raw."""
        return Writer(
            self.folder,
            self.keys,
            self.header,
            self.environment,
            level=level,
            condemnations=self._condemnations,
        )
