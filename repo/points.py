"""Points: the sealed manifests of a repository; only those of unfinished runs are replaced."""

from __future__ import annotations

import secrets

from repo.errors import Damaged
from repo.format.frame import Record
from repo.format.header import Header
from repo.format.manifest import Point, PointFile
from repo.keys import Keys
from repo.storage.folder import Folder
from repo.types import PointId


def write_point(folder: Folder, keys: Keys, header: Header, point: Point) -> None:
    """Seal a manifest and link it into points/, never replacing one. Raises RepositoryFailed.

    The checkpoint of an unfinished point replaces the one before.
    """
    salt = secrets.token_bytes(32)
    point_id = PointId(point.id)
    key = keys.container(salt, "manifest", point_id)
    sealed = key.seal(0, Record.MANIFEST, point.pack())
    file = PointFile(header.repository_id, point_id, salt, key.commitment, sealed)
    if point.unfinished:
        folder.replace_unfinished(point_id, file.pack())
    else:
        folder.write_point(point_id, file.pack())


def read_point(folder: Folder, keys: Keys, point_id: PointId, *, unfinished: bool = False) -> Point:
    """Read, check and unseal a manifest. Raises Damaged, naming the point."""
    where = f"{'unfinished ' if unfinished else ''}point {point_id.hex()}"
    file = PointFile.parse(folder.read_point(point_id, unfinished=unfinished), where=where)
    if file.point_id != point_id:
        raise _stray("a point lies under another's name", where)
    if file.repository_id != keys.repository_id:
        raise _stray("a point belongs to another repository", where)
    key = keys.container(file.salt, "manifest", point_id)
    key.check_commitment(file.commitment, where=where)
    point = Point.parse(key.open(0, Record.MANIFEST, file.sealed), where=where)
    if point.id != point_id:
        raise _stray("a point lies under another's name", where)
    if point.unfinished is not unfinished:
        raise _stray("an unfinished point and a complete one have changed names", where)
    return point


def _stray(what: str, where: str) -> Damaged:
    return Damaged(what, where=where, next_step="put the file back to where it belongs")
