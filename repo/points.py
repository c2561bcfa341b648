"""Points: the sealed manifests of a repository; those of unfinished runs are replaced, and
others where a repair notes what is lost.

And their pins, which are sealed in the same way.
"""

from __future__ import annotations

import secrets

from repo.errors import Damaged
from repo.format.frame import Record
from repo.format.header import Header
from repo.format.magic import PIN_MAGIC, POINT_MAGIC
from repo.format.manifest import Point, PointFile
from repo.format.pin import Pin
from repo.keys import Keys
from repo.storage.folder import Folder
from repo.types import PointId


def write_point(folder: Folder, keys: Keys, header: Header, point: Point) -> None:
    """Seal a manifest and link it into points/, never replacing one. Raises RepositoryFailed.

    The checkpoint of an unfinished point replaces the one before.
    """
    data = _sealed(keys, header, point)
    if point.unfinished:
        folder.replace_unfinished(PointId(point.id), data)
    else:
        folder.write_point(PointId(point.id), data)


def remark_point(folder: Folder, keys: Keys, header: Header, point: Point) -> bool:
    """Put a manifest in the place of the point's own; False when the point is gone.

    For a repair alone: what a point is never changes, but what is known to be lost of it does.
    """
    return folder.replace_point(PointId(point.id), _sealed(keys, header, point))


def _sealed(keys: Keys, header: Header, point: Point) -> bytes:
    salt = secrets.token_bytes(32)
    point_id = PointId(point.id)
    key = keys.container(salt, "manifest", point_id)
    sealed = key.seal(0, Record.MANIFEST, point.pack())
    return PointFile(header.repository_id, point_id, salt, key.commitment, sealed).pack()


def read_point(folder: Folder, keys: Keys, point_id: PointId, *, unfinished: bool = False) -> Point:
    """Read, check and unseal a manifest. Raises Damaged, naming the point."""
    data = folder.read_point(point_id, unfinished=unfinished)
    return parse_point(keys, point_id, data, unfinished=unfinished)


def read_forgotten(folder: Folder, keys: Keys, point_id: PointId) -> Point:
    """Read, check and unseal the manifest of a forgotten point. Raises Damaged."""
    return parse_point(keys, point_id, folder.read_forgotten(point_id))


def parse_point(keys: Keys, point_id: PointId, data: bytes, *, unfinished: bool = False) -> Point:
    """Check and unseal a manifest's file. Raises Damaged, naming the point."""
    where = f"{'unfinished ' if unfinished else ''}point {point_id.hex()}"
    plain = _open(keys, point_id, data, POINT_MAGIC, where)
    point = Point.parse(plain, where=where)
    if point.id != point_id:
        raise _stray("a point lies under another's name", where)
    if point.unfinished is not unfinished:
        raise _stray("an unfinished point and a complete one have changed names", where)
    return point


def write_pin(folder: Folder, keys: Keys, header: Header, point_id: PointId, pin: Pin) -> None:
    """Seal a pin and put it beside its point, durably. Raises RepositoryFailed."""
    salt = secrets.token_bytes(32)
    key = keys.container(salt, "manifest", point_id)
    sealed = key.seal(0, Record.PIN, pin.pack())
    file = PointFile(header.repository_id, point_id, salt, key.commitment, sealed)
    folder.write_pin(point_id, file.pack(PIN_MAGIC))


def read_pin(folder: Folder, keys: Keys, point_id: PointId) -> Pin | None:
    """The pin of a point, if it has one. One that is damaged holds without an end."""
    data = folder.read_pin(point_id)
    if data is None:
        return None
    where = f"pin of point {point_id.hex()}"
    try:
        return Pin.parse(_open(keys, point_id, data, PIN_MAGIC, where), where=where)
    except Damaged as damage:
        return Pin(reason=f"unreadable: {damage.what}")


def _open(keys: Keys, point_id: PointId, data: bytes, magic: bytes, where: str) -> bytes:
    file = PointFile.parse(data, where=where, magic=magic)
    if file.point_id != point_id:
        raise _stray("a point lies under another's name", where)
    if file.repository_id != keys.repository_id:
        raise _stray("a point belongs to another repository", where)
    key = keys.container(file.salt, "manifest", point_id)
    key.check_commitment(file.commitment, where=where)
    return key.open(0, Record.PIN if magic == PIN_MAGIC else Record.MANIFEST, file.sealed)


def _stray(what: str, where: str) -> Damaged:
    return Damaged(what, where=where, next_step="put the file back to where it belongs")
