"""A source's identity: what its backup points are found by, run after run."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from repo.errors import UsageError
from repo.format.manifest import Point

ID_BYTES_MAX: Final = 1024


class SourceIdentity(NamedTuple):
    """Who a source is, wherever the snapshot lies that is read today.

    id: the name its points share: HOST:/canonical/path, or what the user says. host: this
    machine. path: where the source lies, canonical; for a snapshot that somebody made and whose
    origin is nowhere to be found, the path that was given.
    """

    id: str
    host: str
    path: str

    @classmethod
    def of(cls, path: str, source_id: str = "", *, host: str = "") -> SourceIdentity:
        """The identity of the tree at `path`; `source_id` is the user's word for it, if any.

        Raises UsageError for an id that cannot be shown or typed.
        """
        host = host or os.uname().nodename
        canonical = readable(os.path.realpath(path))
        if source_id:
            _check(source_id)
        return cls(source_id or f"{host}:{canonical}", host, canonical)

    @classmethod
    def of_adopted(
        cls, path: str, identity: Mapping[str, str], live_path: str, points: Iterable[Point]
    ) -> SourceIdentity:
        """The identity of what a snapshot at `path` is of, which somebody made: its own path says
        nothing of that.

        It is the source of the newest of `points` (newest first) that shows the same directory of
        the same origin; else what lies at `live_path`; else it is named by its origin.
        """
        host = os.uname().nodename
        lineage = [identity.get(key, "") for key in ("fs", "origin", "inside")]
        if not lineage[1]:
            return cls.of(live_path or path)
        for point in points:
            before = point.snapshot.identity
            if [before.get(key, "") for key in ("fs", "origin", "inside")] == lineage:
                return cls(point.source_id, host, point.source_path)
        if live_path:
            return cls.of(live_path)
        name = "/".join(filter(None, [f"btrfs-{lineage[1]}", lineage[2]]))
        return cls(f"{host}:{name}", host, readable(os.path.realpath(path)))


def readable(path: str) -> str:
    r"""A path as text for manifests and messages: bytes that are no UTF-8 become \udcXX."""
    return path.encode("utf-8", "backslashreplace").decode()


def _check(source_id: str) -> None:
    if (
        not source_id.isprintable()
        or source_id != source_id.strip()
        or len(source_id.encode("utf-8", "backslashreplace")) > ID_BYTES_MAX
    ):
        raise UsageError(
            "a source id is printable text, without spaces around it",
            where=f"--source-id {source_id!r}",
            next_step=f"use at most {ID_BYTES_MAX} bytes of it",
        )
