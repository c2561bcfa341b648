"""A catalogue: the points of a repository by id, source and time, as a mounted one names them.

Listing ids costs one look at a folder; what a point belongs to stands in its manifest, which
is read once, when somebody lists by source or the like.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from datetime import datetime
from hashlib import blake2b
from types import MappingProxyType
from typing import Final, NamedTuple

from repo.errors import Damaged, JobFailed
from repo.format.manifest import Point
from repo.format.node import Entry
from repo.index.environment import IndexUnusable
from repo.points import read_point
from repo.repository import Repository
from repo.types import CHUNK_KEY_BYTES, PointId

SOURCE_NAME_BYTES_MAX: Final = 200

log = logging.getLogger("repo.mount")


class Summary(NamedTuple):
    """What the catalogue keeps of a point."""

    id: bytes
    source_id: str
    received_ns: int
    root: Entry

    @classmethod
    def of(cls, point: Point) -> Summary:
        """The summary of a point."""
        return cls(point.id, point.source_id, point.received_ns, point.root)


class Names(NamedTuple):
    """All names of a catalogue: source -> time -> point id, and source -> id of its newest."""

    by_source: Mapping[bytes, Mapping[bytes, bytes]]
    latest: Mapping[bytes, bytes]


NO_NAMES: Final = Names(MappingProxyType({}), MappingProxyType({}))


def name_points(summaries: Iterable[Summary]) -> Names:
    """Give every source and every point of it a name that is a file name."""
    by_source: dict[bytes, dict[bytes, bytes]] = {}
    latest: dict[bytes, bytes] = {}
    names: dict[str, bytes] = {}
    for summary in sorted(summaries, key=lambda one: (one.received_ns, one.id)):
        source = names.get(summary.source_id)
        if source is None:
            source = source_name(summary.source_id, taken=by_source)
            names[summary.source_id] = source
        times = by_source.setdefault(source, {})
        times[_time_name(summary, taken=times)] = summary.id
        latest[source] = summary.id
    return Names(by_source, latest)


def source_name(source_id: str, *, taken: Mapping[bytes, object]) -> bytes:
    """A source's id as a file name: slashes become `_`; what is long or taken gets a hash."""
    text = source_id.encode("utf-8", "surrogateescape").replace(b"/", b"_").replace(b"\0", b"_")
    name = text[:SOURCE_NAME_BYTES_MAX]
    if name != text or name in taken or name in (b"", b".", b".."):
        digest = blake2b(source_id.encode("utf-8", "surrogateescape"), digest_size=4)
        name += b"~" + digest.hexdigest().encode()
    return name


def _time_name(summary: Summary, *, taken: Mapping[bytes, object]) -> bytes:
    moment = datetime.fromtimestamp(summary.received_ns // 1_000_000_000).astimezone()
    name = moment.strftime("%Y-%m-%dT%H:%M:%S").encode()
    return name if name not in taken else name + b"~" + summary.id.hex()[:8].encode()


class Catalogue:
    """The points of one repository. `scan_ids` and `scan` take time, the rest does not.

    A scan replaces what the properties give as a whole: it may run in a thread of its own.
    """

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._summaries: dict[bytes, Summary] = {}
        self._damaged: set[bytes] = set()
        self._forgotten: set[bytes] = set()  # just before they were read; they may come back
        self._named: frozenset[bytes] = frozenset()
        self.ids: frozenset[bytes] = frozenset()
        self.names = NO_NAMES

    def summary(self, point_id: bytes) -> Summary | None:
        """A point, if its manifest was read."""
        return self._summaries.get(point_id)

    def summaries(self) -> list[Summary]:
        """All points whose manifests were read."""
        return list(self._summaries.values())

    def read(self, point_id: bytes) -> None:
        """Read the manifest of one point; a damaged one is left out, and the log says so."""
        if point_id in self._summaries or point_id in self._damaged:
            return
        try:
            point = read_point(self._repository.folder, self._repository.keys, PointId(point_id))
            if not self._repository.places.known([point.root.node[:CHUNK_KEY_BYTES]]):
                self._repository.catch_up()
            point = self._repository.resolved(point)
        # JobFailed: a delta that is too large to be shown.
        except (Damaged, IndexUnusable, JobFailed) as failure:
            if not self._repository.folder.has_point(PointId(point_id)):
                self._forgotten.add(point_id)
                return
            self._damaged.add(point_id)
            log.warning("%s", failure)
            return
        self._summaries[point_id] = Summary.of(point)

    def is_unreadable(self, point_id: bytes) -> bool:
        """Whether the manifest of a point was found damaged, or gone, when it was to be read."""
        return point_id in self._damaged or point_id in self._forgotten

    def _list(self) -> frozenset[bytes]:
        ids = frozenset(self._repository.folder.points())
        self._forgotten -= ids
        return ids

    def scan_ids(self) -> None:
        """Look which points there are."""
        self.ids = self._list()

    def scan(self) -> None:
        """Look which points there are, and read the manifests of those that are new."""
        ids = self._list()
        for point_id in ids:
            self.read(point_id)
        if ids != self._named:
            held = self._summaries
            self.names = name_points(held[one] for one in ids if one in held)
        self.ids, self._named = ids, ids - self._forgotten
