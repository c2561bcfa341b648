"""The small files of a repository: header, key slots and points, each checked as a whole."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

from repo.errors import Damaged, NotARepository, RepositoryFailed, UsageError
from repo.format import layout
from repo.format.header import Header
from repo.format.keyslot import KeySlot
from repo.format.magic import HEADER_MAGIC
from repo.storage.folder import Folder
from repo.types import PointId
from repo.upkeep.damage import DISK, Damage, Findings

Result = TypeVar("Result")

HEADER: Final = "put back a copy of the file `header`; its content never changes"
_SLOT: Final = "remove it with `repo key remove`, and add a new one with `repo key add`"
_POINT: Final = "put back a copy of this file; other points do not need it"
_CHECKPOINT: Final = "drop it by `repo forget`: the next run of its source reads more, that is all"


class SmallFiles:
    """Checks the small files of one folder; what is wrong with them goes to the findings."""

    def __init__(self, folder: Folder, findings: Findings) -> None:
        self._folder = folder
        self._findings = findings

    def header(self) -> Header | None:
        """The header; None when it is damaged.

        Raises NotARepository when the folder looks like none of ours, or that of a newer version.
        """
        data = self._folder.read_header()
        try:
            return Header.parse(data)
        except Damaged as damage:
            self._findings.file(layout.HEADER, damage.what, next_step=HEADER)
        except NotARepository:
            # A magic that does not match: that of a damaged header, if all the rest is there.
            ours = all((self._folder.path / name).is_dir() for name in layout.DIRECTORIES)
            if data.startswith(HEADER_MAGIC) or not ours:
                raise
            self._findings.file(layout.HEADER, "the header is damaged", next_step=HEADER)
        return None

    def key_slots(self) -> None:
        """Check every key slot, as far as that goes without opening it."""
        for name in self._folder.keys():  # noqa: SIM118 (not a mapping)
            self._read(layout.key_path(name), partial(self._key_slot, name), _SLOT)

    def _key_slot(self, name: str) -> None:
        try:
            slot = KeySlot.parse(self._folder.read_key(name))
        except UsageError:  # removed meanwhile
            return
        if slot.slot_id.hex() != name:
            raise Damaged("a key slot lies under another's name")

    def point(self, point_id: PointId, read: Callable[[PointId], Result]) -> Result | None:
        """What `read` makes of a point's file; None when it is damaged or gone."""
        where = layout.point_path(point_id)
        name = point_id.hex()
        return self._read(where, partial(read, point_id), _POINT, lambda d: d.hit(name, None))

    def checkpoint(self, point_id: PointId, read: Callable[[PointId], Result]) -> Result | None:
        """The same of the checkpoint of a run."""
        where = layout.point_path(point_id, unfinished=True)
        return self._read(
            where, partial(read, point_id), _CHECKPOINT, lambda d: d.hit_unfinished(point_id.hex())
        )

    def _read(
        self,
        where: str,
        read: Callable[[], Result],
        next_step: str,
        hit: Callable[[Damage], None] = lambda _damage: None,
    ) -> Result | None:
        try:
            return read()
        except Damaged as damage:
            if not (self._folder.path / where).exists():
                return None  # removed meanwhile
            found = self._findings.file(where, damage.what, next_step=next_step)
        except RepositoryFailed as failure:
            self.still_there()
            found = self._findings.file(where, failure.what, next_step=DISK)
        hit(found)
        return None

    def still_there(self) -> None:
        """After a failed read: raise when it is not one file that fails but all of them."""
        Folder.open(self._folder.path).read_header()
