"""A manifest: the sealed record of one backup point.

The file is a plain head (whose it is, how its key is derived), the sealed manifest and an
xxh3-64 of both, so that damage is seen without a key (FORMAT.md, Point).
"""

from __future__ import annotations

from struct import Struct
from typing import Any, NamedTuple

import msgspec
from xxhash import xxh3_64_intdigest

from repo.errors import Damaged
from repo.format import limits
from repo.format.frame import SEAL_BYTES
from repo.format.magic import FORMAT_VERSION, POINT_MAGIC
from repo.format.node import UNPARSABLE, Entry, check_root
from repo.types import CHUNK_ID_BYTES, PointId, RepositoryId

_HEAD = Struct("<8sH6x16s16s32s32s")
assert _HEAD.size == 112  # FORMAT.md, Point head
_CHECKSUM = Struct("<Q")
HEAD_BYTES = _HEAD.size
_NEXT = "run `repo verify`"


class Statistics(msgspec.Struct, frozen=True):
    """What a job did for one source: counts, and bytes read, new and stored.

    A chunk is new of the source for which it was stored first. Of several sources of one job, what
    was stored is shared out in proportion to what was new.
    """

    files: int = 0
    directories: int = 0
    files_reused: int = 0
    bytes_source: int = 0
    bytes_read: int = 0
    bytes_new: int = 0
    bytes_stored: int = 0
    seconds: float = 0.0


class Snapshot(msgspec.Struct, frozen=True):
    """The frozen view that was read: its provider, the provider's own identity of it, and the
    consistency reached (`crash`, `fs`, `app`, or `none` for a live tree).
    """

    provider: str = "directory"
    identity: dict[str, str] = {}
    consistency: str = "none"


class BaseRecord(msgspec.Struct, frozen=True):
    """What a later run must know of a point to take it as its base.

    `taken_ns`: when what was read was frozen, or the reading of a live tree began (0: take
    `created_ns`): a file whose ctime is later, or shortly before, may hold what this point has
    not. `selection`: a hash of all that decides what of the source is in the point. `volumes`:
    file systems entered besides that of the root. `anchor`: what the change source left behind
    on the file system to know the state by. `distrusted`: kinds of change sources whose word
    was found wrong for this source.
    """

    taken_ns: int = 0
    selection: bytes = b""
    volumes: int = 0
    anchor: dict[str, str] = {}
    distrusted: tuple[str, ...] = ()


class Synthesis(msgspec.Struct, frozen=True):
    """What a synthetic point was made from: ids of points, the first counts most, and the rules
    that were given beside them, as they were written. `made_ns`: when; 0 for a point that was read
    from a source.
    """

    points: tuple[bytes, ...] = ()
    rules: tuple[str, ...] = ()
    made_ns: int = 0


class Origin(msgspec.Struct, frozen=True):
    """Where a copied point comes from: the repository that took it first, and its id there."""

    repository: bytes = b""
    point: bytes = b""


class Loss(msgspec.Struct, frozen=True):
    """What of a point is known to be lost: files that lack content, and directories.

    A directory counts when names in it are unknown; `bytes_lost` is the length of what is missing
    of files. `lists` are those of the point's problem lists that name them (step `lost`), and
    `problems` is their number. `noted_ns`: when that was found, 0 when nothing is lost.
    """

    files: int = 0
    directories: int = 0
    bytes_lost: int = 0
    lists: tuple[bytes, ...] = ()
    noted_ns: int = 0
    problems: int = 0


class Problem(msgspec.Struct, array_like=True, frozen=True):
    """A file (path from the root of the source) that is not in the point as it should be.

    `step` is what failed (list, open, read, ...); `errno` is 0 when no system call failed.
    """

    path: bytes
    step: str
    errno: int = 0
    detail: str = ""


class Point(msgspec.Struct, frozen=True):
    """A backup point. Times are nanoseconds since 1970 (UTC).

    `created_ns` is the client's start of reading, `received_ns` the time at which the repository
    took the point (retention counts with it). `root` is the root directory as an entry: its
    node, metadata and totals; its name is empty. `problems` are chunk ids of packed problem
    lists. `users` and `groups` name the numbers met, as text. `has_xattrs`: whether any entry has
    extended attributes; a mount of points without may tell the kernel not to ask.

    `verdict` says how far it is known what changed since the point `base` (FULL: nothing was
    compared; HINT: by the attributes of each file; EXACT: the file system said it), and
    `change_source` by whom. `unfinished`: the last checkpoint of a run that has not ended: what
    is in its tree was read, and the rest is missing.

    `delta`: the tree holds only what changed since the point `base`, over which it lies:
    directories add to those of the base, and names that are gone are marked (`node.REMOVED`).

    `synthesis` tells of a point that was made from others. Its times are those of the newest of
    them, `received_ns` one nanosecond later, so that it stands where the state belongs.

    `origin` is set in copies made by `repo copy`. `loss` marks a point of which content is lost:
    its tree names chunks that are nowhere, so that reading them fails and never gives zeros.
    """

    id: bytes
    source_id: str
    source_path: str
    host: str
    created_ns: int
    received_ns: int
    root: Entry
    statistics: Statistics = Statistics()
    snapshot: Snapshot = Snapshot()
    problems_total: int = 0
    problems: tuple[bytes, ...] = ()
    tags: tuple[str, ...] = ()
    users: dict[str, str] = {}
    groups: dict[str, str] = {}
    exclusions: bytes = b""
    has_xattrs: bool = True
    made_by: str = ""
    verdict: str = "FULL"
    change_source: str = "none"
    base: bytes = b""
    base_record: BaseRecord = BaseRecord()
    unfinished: bool = False
    synthesis: Synthesis = Synthesis()
    origin: Origin = Origin()
    loss: Loss = Loss()
    delta: bool = False

    def pack(self) -> bytes:
        """The plain manifest, before it is sealed."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def parse(cls, data: bytes, *, where: str) -> Point:
        """The point in a plain manifest. Raises Damaged."""
        try:
            point: Point = _decoder.decode(data)
        except UNPARSABLE as error:
            raise Damaged(
                f"a manifest does not parse: {error}", where=where, next_step=_NEXT
            ) from error
        lists = (*point.problems, *point.loss.lists)
        if len(point.id) != 16 or any(len(i) != CHUNK_ID_BYTES for i in lists):
            raise Damaged("a manifest is damaged", where=where, next_step=_NEXT)
        check_root(point.root, where=where)
        return point


_decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(Point)
_problems_decoder = msgspec.msgpack.Decoder(list[Problem])


def pack_problems(problems: list[Problem]) -> bytes:
    """A list of problems as one chunk."""
    return msgspec.msgpack.encode(problems)


def parse_problems(data: bytes, *, where: str) -> list[Problem]:
    """The problems in a chunk. Raises Damaged."""
    try:
        return _problems_decoder.decode(data)
    except UNPARSABLE as error:
        raise Damaged(
            f"a problem list does not parse: {error}", where=where, next_step=_NEXT
        ) from error


class PointFile(NamedTuple):
    """A point's file: `sealed` is the manifest, sealed with the key that `salt` gives.

    A pin's file has the same form, and begins with a magic of its own.
    """

    repository_id: RepositoryId
    point_id: PointId
    salt: bytes
    commitment: bytes
    sealed: bytes

    def pack(self, magic: bytes = POINT_MAGIC) -> bytes:
        """The whole file."""
        head = _HEAD.pack(magic, FORMAT_VERSION, *self[:4])
        body = head + self.sealed
        return body + _CHECKSUM.pack(xxh3_64_intdigest(body))

    @classmethod
    def parse(cls, data: bytes, *, where: str, magic: bytes = POINT_MAGIC) -> PointFile:
        """The parts of a point's file; Damaged when its checksum is wrong."""
        least = HEAD_BYTES + SEAL_BYTES + _CHECKSUM.size
        limits.check(
            "manifest length", len(data), limits.MANIFEST_BYTES_MAX, least=least, where=where
        )
        body, (checksum,) = data[: -_CHECKSUM.size], _CHECKSUM.unpack(data[-_CHECKSUM.size :])
        found, version, *rest = _HEAD.unpack_from(data)
        if found != magic or checksum != xxh3_64_intdigest(body):
            raise Damaged("a point's file is damaged", where=where, next_step=_NEXT)
        if version != FORMAT_VERSION:
            raise Damaged(
                f"a point has format {version}", where=where, next_step="use a newer repo"
            )
        repository_id, point_id, salt, commitment = rest
        return cls(repository_id, point_id, salt, commitment, body[HEAD_BYTES:])
