"""A layout: the names of a repository's files, relative to its folder.

    header                    keys/<slot>
    segments/<xx>/<id>        sealed; <id>.open while one process writes it
    segments/<xx>/<id>.removed  about to be removed by garbage collection
    points/<id>               index/            leases/<id>
    points/<id>.unfinished    the last checkpoint of a run that has not ended
    points/<id>.forgotten     a point that goes with the next garbage collection
    points/<id>.pin           why a point must not be forgotten
    reserve                   blocks that are kept for garbage collection on a full disk
    snapshots/<id>            what a running ingest made on file systems of its sources
    segments/<xx>/<id>.damaged, points/<id>.damaged    set aside by a repair, and no part of it

Ids are 32 lower-case hex digits; <xx> are the first two of them. A name that begins with
`.new-` is a file in the making: it means nothing to a reader and may be removed as soon as
nobody holds its lock.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from repo.types import PointId, SegmentId

HEADER: Final = "header"
KEYS: Final = "keys"
SEGMENTS: Final = "segments"
POINTS: Final = "points"
INDEX: Final = "index"
LEASES: Final = "leases"
SNAPSHOTS: Final = "snapshots"
RESERVE: Final = "reserve"
REMOVALS: Final = "leases/removals"
GC_LOCK: Final = "leases/gc"

DIRECTORIES: Final = (KEYS, SEGMENTS, POINTS, LEASES)
"""The directories every repository has from the beginning (`index` is made by the index)."""

TEMPORARY_PREFIX: Final = ".new-"
OPEN_SUFFIX: Final = ".open"
REMOVED_SUFFIX: Final = ".removed"
UNFINISHED_SUFFIX: Final = ".unfinished"
FORGOTTEN_SUFFIX: Final = ".forgotten"
PIN_SUFFIX: Final = ".pin"
DAMAGED_SUFFIX: Final = ".damaged"
ID_BYTES: Final = 16

_ID: Final = re.compile(r"[0-9a-f]{32}")
_SHARD: Final = re.compile(r"[0-9a-f]{2}")
_SLOT: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}")


class SegmentName(NamedTuple):
    """What the name of a segment file says."""

    segment_id: SegmentId
    is_open: bool


def segment_shard(segment_id: SegmentId) -> str:
    """The directory of a segment: `segments/<xx>`."""
    return f"{SEGMENTS}/{segment_id[:1].hex()}"


def segment_name(segment_id: SegmentId, *, is_open: bool) -> str:
    """The name of a segment inside its directory."""
    return segment_id.hex() + (OPEN_SUFFIX if is_open else "")


def segment_path(segment_id: SegmentId, *, is_open: bool = False) -> str:
    """The path of a segment below the repository."""
    return f"{segment_shard(segment_id)}/{segment_name(segment_id, is_open=is_open)}"


def removed_path(segment_id: SegmentId) -> str:
    """The path of a segment that is about to be removed."""
    return segment_path(segment_id, is_open=False) + REMOVED_SUFFIX


def parse_segment_name(name: str) -> SegmentName | None:
    """The segment a file name stands for; None when it is not one."""
    stem = name.removesuffix(OPEN_SUFFIX)
    if _ID.fullmatch(stem) is None:
        return None
    return SegmentName(SegmentId(bytes.fromhex(stem)), stem != name)


def is_shard(name: str) -> bool:
    """Whether a name below `segments` is a directory of segments."""
    return _SHARD.fullmatch(name) is not None


def point_path(point_id: PointId, *, unfinished: bool = False) -> str:
    """The path of a manifest below the repository."""
    return f"{POINTS}/{point_id.hex()}{UNFINISHED_SUFFIX if unfinished else ''}"


def forgotten_path(point_id: PointId) -> str:
    """The path of a forgotten point's manifest below the repository."""
    return f"{POINTS}/{point_id.hex()}{FORGOTTEN_SUFFIX}"


def pin_path(point_id: PointId) -> str:
    """The path of a point's pin below the repository."""
    return f"{POINTS}/{point_id.hex()}{PIN_SUFFIX}"


def damaged_segment_path(segment_id: SegmentId) -> str:
    """The path of a segment that a repair has set aside."""
    return segment_path(segment_id, is_open=False) + DAMAGED_SUFFIX


def damaged_point_path(point_id: PointId) -> str:
    """The path of a manifest that a repair has set aside."""
    return point_path(point_id) + DAMAGED_SUFFIX


def parse_damaged_name(name: str) -> bytes | None:
    """The id in the name of a file that was set aside; None when it is not one."""
    stem = name.removesuffix(DAMAGED_SUFFIX)
    return parse_id(stem) if stem != name else None


def parse_id(name: str) -> bytes | None:
    """The 16 bytes a point or lease is named by; None when the name is not an id."""
    return bytes.fromhex(name) if _ID.fullmatch(name) is not None else None


def is_slot_name(name: str) -> bool:
    """Whether a name may be that of a key slot: 1 to 64 of A-Z a-z 0-9 _ . @ -, not hidden."""
    return _SLOT.fullmatch(name) is not None


def key_path(name: str) -> str:
    """The path of a key slot below the repository."""
    return f"{KEYS}/{name}"


def is_temporary(name: str) -> bool:
    """Whether a name is that of a file in the making."""
    return name.startswith(TEMPORARY_PREFIX)
