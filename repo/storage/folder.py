"""A folder: the files of one repository, by their names."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from repo.errors import Damaged, NotARepository, UsageError
from repo.format import layout, limits
from repo.format.magic import KEY_SLOT_MAGIC
from repo.storage.abandoned import AbandonedSegment
from repo.storage.durable import (
    fsync_directory,
    make_directory,
    read_all,
    replace,
    replace_existing,
    repository_io,
    sweep_temporaries,
    write_new,
)
from repo.types import KIB, PointId, SegmentId

HEADER_BYTES_MAX: Final = 64 * KIB
KEY_BYTES_MAX: Final = 64 * KIB
"""What is read of these at most, whatever the length of the file."""

_OURS: Final = frozenset(
    (layout.HEADER, layout.INDEX, layout.SNAPSHOTS, layout.RESERVE, *layout.DIRECTORIES)
)


class Folder:
    """The repository's files. Holds no descriptor; every OSError becomes RepositoryFailed."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    @classmethod
    def create(cls, path: str | os.PathLike[str]) -> Folder:
        """Makes the directories of a new repository, durably; the header is written last, by
        `write_header`, and makes it one.

        A folder left by an interrupted creation (nothing but key slots and files in the making) is
        taken over and its key slots, which belong to a root key nobody has, are removed. Raises
        UsageError when the folder holds a repository or anything else.
        """
        folder = cls(path)
        with repository_io("cannot make the repository", path):
            folder.path.parent.mkdir(parents=True, exist_ok=True)
            make_directory(folder.path)
            folder._refuse_strangers()
            for name in layout.DIRECTORIES:
                make_directory(folder.path / name)
            for name in os.listdir(folder.path / layout.KEYS):
                os.unlink(folder.path / layout.KEYS / name)
            fsync_directory(folder.path)
        return folder

    @classmethod
    @contextmanager
    def making(cls, path: str | os.PathLike[str]) -> Iterator[Folder]:
        """`create` for a block that ends with `write_header`: one at a time for each folder.

        A second one waits, and then finds a repository: it would take the key slot of the first
        for a leftover. Raises as `create` does.
        """
        with repository_io("cannot make the repository", path):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            make_directory(path)
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with repository_io("cannot make the repository", path):
                fcntl.flock(fd, fcntl.LOCK_EX)
            yield cls.create(path)
        finally:
            os.close(fd)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Folder:
        """The folder of an existing repository. Raises NotARepository when there is no header."""
        folder = cls(path)
        with repository_io("cannot open the repository", path):
            try:
                os.stat(folder.path / layout.HEADER)
            except (FileNotFoundError, NotADirectoryError) as error:
                raise NotARepository(
                    "there is no repository here",
                    where=str(path),
                    next_step="check --repository, or make one with `repo init`",
                ) from error
        return folder

    def _refuse_strangers(self) -> None:
        names = set(os.listdir(self.path))
        if layout.HEADER in names:
            raise UsageError(
                "there is a repository here already",
                where=str(self.path),
                next_step="use it as it is, or choose another folder",
            )
        foreign = next(self._strangers(), None)
        if foreign is not None:
            raise UsageError(
                "the folder is not empty",
                where=str(foreign),
                next_step="choose a new or empty folder for the repository",
            )

    def _strangers(self) -> Iterator[Path]:
        """What an interrupted creation has not left here."""
        for top in sorted(self.path.iterdir()):
            if layout.is_temporary(top.name):
                continue
            if top.name not in _OURS:
                yield top
            elif top.name != layout.RESERVE:
                for path in sorted(top.iterdir()):
                    is_slot = top.name == layout.KEYS and _is_slot(path)
                    if not is_slot and not layout.is_temporary(path.name):
                        yield path

    # Header and key slots

    def read_header(self) -> bytes:
        """The header file."""
        return self._read(layout.HEADER, HEADER_BYTES_MAX, "cannot read the header")

    def write_header(self, data: bytes) -> None:
        """Writes the header, once: from now on the folder is a repository."""
        write_new(self.path, layout.HEADER, data)

    def keys(self) -> list[str]:
        """The names of the key slots, sorted."""
        with repository_io("cannot list the key slots", self.path / layout.KEYS):
            return sorted(filter(layout.is_slot_name, os.listdir(self.path / layout.KEYS)))

    def read_key(self, name: str) -> bytes:
        """The wrapped root key of one slot. Raises UsageError when there is no such slot."""
        self._check_slot(name)
        try:
            os.stat(self.path / layout.key_path(name))
        except FileNotFoundError as error:
            raise self._no_slot(name) from error
        return self._read(layout.key_path(name), KEY_BYTES_MAX, "cannot read a key slot")

    def write_key(self, name: str, data: bytes) -> None:
        """Adds a key slot, durably. Raises RepositoryFailed when the name is taken."""
        self._check_slot(name)
        write_new(self.path / layout.KEYS, name, data)

    @contextmanager
    def keys_locked(self) -> Iterator[None]:
        """Inside nobody else is inside: waits. Where no folder can be locked it does not help."""
        with repository_io("cannot lock the key slots", self.path / layout.KEYS):
            fd = os.open(self.path / layout.KEYS, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with suppress(OSError):
                fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def remove_key(self, name: str) -> None:
        """Removes a key slot, durably. Raises UsageError when there is no such slot."""
        self._check_slot(name)
        with repository_io("cannot remove a key slot", self.path / layout.key_path(name)):
            try:
                os.unlink(self.path / layout.key_path(name))
            except FileNotFoundError as error:
                raise self._no_slot(name) from error
            fsync_directory(self.path / layout.KEYS)

    @staticmethod
    def _check_slot(name: str) -> None:
        if not layout.is_slot_name(name):
            raise UsageError(
                "a key slot cannot have this name",
                where=name,
                next_step="use up to 64 letters, digits and _ . @ -",
            )

    @staticmethod
    def _no_slot(name: str) -> UsageError:
        return UsageError(
            "there is no such key slot", where=name, next_step="list them with `repo key list`"
        )

    # Segments

    def segments(self) -> Iterator[tuple[SegmentId, bool]]:
        """All segments as (id, still open), sorted by id within each directory.

        A segment that is closed meanwhile is listed once, with either state; one that is there
        throughout is never missed.
        """
        top = self.path / layout.SEGMENTS
        with repository_io("cannot list the segments", top):
            if not top.is_dir():
                return
            shards = sorted(filter(layout.is_shard, os.listdir(top)))
        for shard in shards:
            yield from sorted(self._shard(top / shard).items())

    @staticmethod
    def _shard(path: Path) -> dict[SegmentId, bool]:
        # A rename during a listing may hide the file from it; two listings that agree on the
        # ids cannot both have missed one, as a segment is renamed only once.
        before: dict[SegmentId, bool] | None = None
        while True:
            with repository_io("cannot list the segments", path):
                parsed = list(filter(None, map(layout.parse_segment_name, os.listdir(path))))
            # One that lies in another's directory is not to be found by its id: a stray.
            parsed = [name for name in parsed if name.segment_id[:1].hex() == path.name]
            found = {name.segment_id: True for name in parsed}
            found.update({name.segment_id: False for name in parsed if not name.is_open})
            if before is not None and before.keys() == found.keys():
                return found
            before = found

    def segment_path(self, segment_id: SegmentId, open: bool = False) -> Path:  # noqa: A002 (says it at the call)
        """The path of a segment's file, sealed or open."""
        return self.path / layout.segment_path(segment_id, is_open=open)

    def set_segments_aside(self, segment_ids: Iterable[SegmentId]) -> None:
        """Gives closed segments the name under which nobody lists them, durably.

        For garbage collection, when no lease is left that is older than their retirement.
        """
        self._rename_segments(segment_ids, layout.segment_path, layout.removed_path)

    def put_segments_back(self, segment_ids: Iterable[SegmentId]) -> None:
        """Gives segments that were set aside their names again, durably."""
        self._rename_segments(segment_ids, layout.removed_path, layout.segment_path)

    def _rename_segments(
        self,
        segment_ids: Iterable[SegmentId],
        source: Callable[[SegmentId], str],
        target: Callable[[SegmentId], str],
    ) -> None:
        changed: set[Path] = set()
        for segment_id in segment_ids:
            path = self.path / source(segment_id)
            with repository_io("cannot move a segment", path), suppress(FileNotFoundError):
                os.rename(path, self.path / target(segment_id))
                changed.add(path.parent)
        for directory in sorted(changed):
            with repository_io("cannot move a segment", directory):
                fsync_directory(directory)

    def segments_aside(self) -> list[SegmentId]:
        """The segments that were set aside and are not removed yet."""
        found: list[SegmentId] = []
        top = self.path / layout.SEGMENTS
        with repository_io("cannot list the segments", top):
            shards = sorted(filter(layout.is_shard, os.listdir(top))) if top.is_dir() else []
            for shard in shards:
                for name in sorted(os.listdir(top / shard)):
                    stem = name.removesuffix(layout.REMOVED_SUFFIX)
                    segment_id = layout.parse_id(stem)
                    if stem != name and segment_id is not None:
                        found.append(SegmentId(segment_id))
        return found

    def remove_segments_aside(self, segment_ids: Iterable[SegmentId]) -> int:
        """Removes segments that were set aside, durably; returns the bytes that it gave free."""
        freed = 0
        changed: set[Path] = set()
        for segment_id in segment_ids:
            path = self.path / layout.removed_path(segment_id)
            with repository_io("cannot remove a segment", path), suppress(FileNotFoundError):
                size = path.stat().st_size
                os.unlink(path)
                freed += size
                changed.add(path.parent)
        for directory in sorted(changed):
            with repository_io("cannot remove a segment", directory):
                fsync_directory(directory)
        return freed

    def removals(self) -> bytes:
        """What changes whenever segments are about to be removed: to be compared only."""
        path = self.path / layout.REMOVALS
        with repository_io("cannot read a file of the repository", path):
            try:
                return read_all(path, limit_bytes=KIB)
            except FileNotFoundError:
                return b""

    def note_removal(self) -> None:
        """Changes what `removals` returns."""
        path = self.path / layout.REMOVALS
        replace(path.parent, path.name, secrets.token_hex(16).encode())

    def set_segment_aside(self, segment_id: SegmentId, is_open: bool) -> None:
        """Gives a damaged segment a name under which nobody lists it, durably.

        Whoever knows a place in it can still read it. No error when it is gone already.
        """
        path = self.segment_path(segment_id, is_open)
        self._rename(path, self.path / layout.damaged_segment_path(segment_id))

    def set_point_aside(self, point_id: PointId) -> None:
        """Gives a damaged manifest a name under which nobody lists it, durably."""
        path = self.path / layout.point_path(point_id)
        self._rename(path, self.path / layout.damaged_point_path(point_id))

    @staticmethod
    def _rename(path: Path, new: Path) -> None:
        with repository_io("cannot set a damaged file aside", path):
            try:
                os.rename(path, new)
            except FileNotFoundError:
                return
            fsync_directory(path.parent)

    def aside(self) -> list[Path]:
        """The files that repairs have set aside."""
        with repository_io("cannot list what was set aside", self.path):
            top = self.path / layout.SEGMENTS
            places = [self.path / layout.POINTS]
            places += [top / shard for shard in sorted(os.listdir(top)) if layout.is_shard(shard)]
            return [
                place / name
                for place in places
                for name in sorted(os.listdir(place))
                if layout.parse_damaged_name(name) is not None
            ]

    def remove_aside(self) -> int:
        """Removes the files that repairs have set aside; returns how many."""
        files = self.aside()
        for path in files:
            with repository_io("cannot remove what was set aside", path):
                path.unlink(missing_ok=True)
        return len(files)

    def recoverable(self) -> Iterator[AbandonedSegment]:
        """The open segments whose writer is dead, each locked until it is finished or closed.

        Segments that somebody writes or recovers at this moment are left out. Close each one
        before taking the next, or use it as a context manager.
        """
        for segment_id, is_open in self.segments():
            if is_open:
                abandoned = AbandonedSegment.take(
                    segment_id,
                    self.segment_path(segment_id, open=True),
                    self.segment_path(segment_id),
                )
                if abandoned is not None:
                    yield abandoned

    # Points

    def points(self, *, unfinished: bool = False) -> Iterator[PointId]:
        """The ids of all points, or of all unfinished ones, sorted."""
        top = self.path / layout.POINTS
        with repository_io("cannot list the points", top):
            names = sorted(os.listdir(top)) if top.is_dir() else []
        for name in names:
            stem = name.removesuffix(layout.UNFINISHED_SUFFIX)
            point_id = layout.parse_id(stem)
            if point_id is not None and (stem != name) is unfinished:
                yield PointId(point_id)

    def read_point(self, point_id: PointId, *, unfinished: bool = False) -> bytes:
        """A sealed manifest. Raises Damaged when it is missing."""
        path = layout.point_path(point_id, unfinished=unfinished)
        if not os.path.lexists(self.path / path):
            raise Damaged(
                "a point is missing",
                where=str(self.path / path),
                next_step="it may have been forgotten meanwhile: list them with `repo points`",
            )
        return self._read(path, limits.MANIFEST_BYTES_MAX, "cannot read a point")

    def write_point(self, point_id: PointId, data: bytes) -> None:
        """Publishes a point: when this returns, it is complete and durable."""
        write_new(self.path / layout.POINTS, point_id.hex(), data)

    def replace_point(self, point_id: PointId, data: bytes) -> bool:
        """Puts another manifest in the place of a point's; False when the point is gone."""
        return replace_existing(self.path / layout.POINTS, point_id.hex(), data)

    def replace_unfinished(self, point_id: PointId, data: bytes) -> None:
        """Puts a newer checkpoint in the place of the last one, durably, or leaves that one."""
        path = layout.point_path(point_id, unfinished=True)
        replace(self.path / layout.POINTS, os.path.basename(path), data)

    def remove_point(self, point_id: PointId, *, unfinished: bool = False) -> None:
        """Forgets a point, durably; no error when it is gone already."""
        self._unlink(layout.point_path(point_id, unfinished=unfinished), "cannot remove a point")

    def forgotten(self) -> list[PointId]:
        """The ids of the points that were forgotten and not collected yet, sorted."""
        return self._suffixed(layout.FORGOTTEN_SUFFIX)

    def read_forgotten(self, point_id: PointId) -> bytes:
        """The sealed manifest of a forgotten point. Raises Damaged when it is missing."""
        path = layout.forgotten_path(point_id)
        if not os.path.lexists(self.path / path):
            raise Damaged(
                "a forgotten point is missing",
                where=str(self.path / path),
                next_step="it may have been taken back or collected meanwhile",
            )
        return self._read(path, limits.MANIFEST_BYTES_MAX, "cannot read a forgotten point")

    def set_aside(self, point_id: PointId) -> bool:
        """Takes a point out of the list, durably, for `put_back` or garbage collection.

        Returns whether it was there.
        """
        return self._move(layout.point_path(point_id), layout.forgotten_path(point_id))

    def put_back(self, point_id: PointId) -> bool:
        """Makes a forgotten point one of the points again, durably; whether it was there."""
        return self._move(layout.forgotten_path(point_id), layout.point_path(point_id))

    def remove_forgotten(self, point_id: PointId) -> bool:
        """Removes a forgotten point for good, durably; whether it was there."""
        return self._unlink(layout.forgotten_path(point_id), "cannot remove a forgotten point")

    def pins(self) -> list[PointId]:
        """The ids of the points that are pinned, sorted."""
        return self._suffixed(layout.PIN_SUFFIX)

    def read_pin(self, point_id: PointId) -> bytes | None:
        """A sealed pin; None when the point has none."""
        with repository_io("cannot read a pin", self.path / layout.pin_path(point_id)):
            try:
                return read_all(
                    self.path / layout.pin_path(point_id), limit_bytes=limits.MANIFEST_BYTES_MAX
                )
            except FileNotFoundError:
                return None

    def write_pin(self, point_id: PointId, data: bytes) -> None:
        """Pins a point, durably, in the place of an earlier pin."""
        replace(self.path / layout.POINTS, os.path.basename(layout.pin_path(point_id)), data)

    def remove_pin(self, point_id: PointId) -> bool:
        """Removes a pin, durably; whether it was there."""
        return self._unlink(layout.pin_path(point_id), "cannot remove a pin")

    def has_point(self, point_id: PointId) -> bool:
        """Whether a point is among the points now."""
        return os.path.lexists(self.path / layout.point_path(point_id))

    def _suffixed(self, suffix: str) -> list[PointId]:
        top = self.path / layout.POINTS
        with repository_io("cannot list the points", top):
            names = sorted(os.listdir(top)) if top.is_dir() else []
        stems = (name.removesuffix(suffix) for name in names if name.endswith(suffix))
        return [PointId(found) for found in map(layout.parse_id, stems) if found is not None]

    def _move(self, source: str, target: str) -> bool:
        with repository_io("cannot move a point", self.path / source):
            try:
                os.rename(self.path / source, self.path / target)
            except FileNotFoundError:
                return False
            fsync_directory(self.path / layout.POINTS)
            return True

    def _unlink(self, name: str, what: str) -> bool:
        path = self.path / name
        with repository_io(what, path):
            try:
                os.unlink(path)
            except FileNotFoundError:
                return False
            fsync_directory(path.parent)
            return True

    # Upkeep

    def sweep(self) -> int:
        """Removes the files in the making that dead processes left; returns how many."""
        removed = 0
        with repository_io("cannot remove leftovers of a dead process", self.path):
            places = [self.path, *(self.path / name for name in layout.DIRECTORIES)]
            top = self.path / layout.SEGMENTS
            places += [top / shard for shard in os.listdir(top) if layout.is_shard(shard)]
            for place in places:
                removed += sweep_temporaries(place)
        return removed

    def _read(self, name: str, limit_bytes: int, what: str) -> bytes:
        path = self.path / name
        with repository_io(what, path):
            return read_all(path, limit_bytes=limit_bytes)


def _is_slot(path: Path) -> bool:
    """Whether a file is a key slot, and nobody else's key."""
    if not layout.is_slot_name(path.name) or path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(KEY_SLOT_MAGIC)) == KEY_SLOT_MAGIC
