"""A queue entry: a snapshot to be backed up, with all that its job needs to know."""

from __future__ import annotations

import enum
import hashlib
import os
import secrets
from typing import Final

import msgspec

from ingest.source import readable

VERSION: Final = 1
TRIES_MAX: Final = 5
DELAYS_SECONDS: Final = (60, 300, 900, 3600)
"""Before the second try, the third, and so on."""


class State(enum.StrEnum):
    """What becomes of an entry next."""

    WAITING = "waiting"
    RETRY = "retry"
    FAILED = "failed"


class Pin(msgspec.Struct, frozen=True, kw_only=True):
    """What holds a snapshot until it is backed up: a snapshot of it, in that folder.

    provider: who made it. lineage: what it said of the snapshot, which may be gone later.
    """

    provider: str
    folder: bytes
    name: str
    lineage: dict[str, str] = msgspec.field(default_factory=dict)

    @property
    def path(self) -> bytes:
        """Where it can be read."""
        return os.path.join(self.folder, os.fsencode(self.name))


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One job for one snapshot. Paths are bytes; times in nanoseconds since 1970.

    path: the snapshot as it was named. source_id: its source as far as that was known when it was
    queued; named: somebody said so, the drain need not find out. point_id: that its point will
    have, so that one that was published by a drain that died afterwards is recognised. origin: the
    tool it came from.
    unique: the key stands for one state, which needs no second point. tries: how often it failed;
    not_before_ns: not before then again. levels: zstd levels, as in the request of an ingest.
    """

    version: int = VERSION
    key: str
    repository: bytes
    path: bytes
    source_id: str
    named: bool = True
    point_id: str
    origin: str = ""
    unique: bool = False
    queued_ns: int
    tags: tuple[str, ...] = ()
    exclude: tuple[bytes, ...] = ()
    exclude_from: tuple[bytes, ...] = ()
    exclude_caches: bool = False
    one_file_system: bool = False
    levels: tuple[int, ...] = ()
    take: bool = True
    keep_snapshot: bool = True
    pin: Pin | None = None
    tries: int = 0
    not_before_ns: int = 0
    error: str = ""
    failed: bool = False

    @property
    def state(self) -> State:
        """Whether it waits for its first try, for another one, or for somebody to look."""
        if self.failed:
            return State.FAILED
        return State.RETRY if self.tries else State.WAITING

    @property
    def shown(self) -> str:
        """The snapshot's path as text."""
        return readable(os.fsdecode(self.path))

    @property
    def options(self) -> tuple[object, ...]:
        """What must be equal for two entries to share a job."""
        return (
            *(self.tags, self.exclude, self.exclude_from, self.exclude_caches),
            *(self.one_file_system, self.levels, self.take, self.keep_snapshot),
        )

    def after_failure(self, error: str, now_ns: int) -> Entry:
        """The same, one try later."""
        tries = self.tries + 1
        delay = DELAYS_SECONDS[min(tries, len(DELAYS_SECONDS)) - 1]
        return msgspec.structs.replace(
            self,
            tries=tries,
            error=error,
            failed=tries >= TRIES_MAX,
            not_before_ns=now_ns + delay * 10**9,
        )

    def at_once(self) -> Entry:
        """The same, without the wait before its next try."""
        return msgspec.structs.replace(self, not_before_ns=0)

    def afresh(self) -> Entry:
        """The same, as if it had never been tried."""
        return msgspec.structs.replace(self, tries=0, not_before_ns=0, error="", failed=False)


def new_point_id() -> str:
    """The id of a point to come."""
    return secrets.token_bytes(16).hex()


def key_of(repository: bytes, source_id: str, snapshot: bytes) -> str:
    """The name of an entry: the same for the same snapshot, source and repository."""
    digest = hashlib.blake2b(digest_size=16)
    for part in (repository, source_id.encode("utf-8", "surrogatepass"), snapshot):
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()
