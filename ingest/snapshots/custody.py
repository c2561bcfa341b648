"""A custody: the snapshots that a job holds, made when they are needed, given up on every path out.

Which provider takes a source is found by asking each of them, the most capable first; the last
one, which reads the live tree, takes everything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from ingest.snapshots import btrfs, reflink
from ingest.snapshots.btrfs import BtrfsProvider
from ingest.snapshots.directory import DirectoryProvider
from ingest.snapshots.journal import Entry, Journal, sweep
from ingest.snapshots.reflink import ReflinkProvider
from ingest.snapshots.snapshot import Held, Quiet, Refusal, SnapshotProvider, Terms

PROVIDERS: Final[tuple[SnapshotProvider, ...]] = (BtrfsProvider(), ReflinkProvider())
"""Those that make snapshots, the most capable first. What all of them leave is read in place."""

_REMOVERS: Final[dict[str, Callable[[Entry], bool]]] = {
    "btrfs": btrfs.remove,
    "reflink": reflink.remove,
}


class Custody:
    """Of one job. `close` gives up all that is held and was not kept."""

    def __init__(self, repository: Path, *, take: bool, pin: bool, keep: bool) -> None:
        self._journal = Journal(repository)
        self._terms = Terms(take=take, pin=pin, keep=keep, journal=self._journal)
        self._held: list[Held] = []

    def hold(
        self,
        path: str,
        quiet: Quiet,
        on_notice: Callable[[str], None],
        lineage: Mapping[str, str] | None = None,
    ) -> Held:
        """Take a source: a snapshot of it, or itself where there is none to be had.

        Raises UsageError, JobFailed as the providers do, RepositoryFailed when the snapshot
        cannot be written down before it is made, QuiesceFailed when `quiet` does.
        """
        terms = replace(self._terms, quiet=quiet, lineage=lineage or {})
        for provider in PROVIDERS:
            answer = provider.hold(path, terms)
            if isinstance(answer, Refusal):
                if answer.reason:
                    on_notice(f"{path}: no {provider.name} snapshot: {answer.reason}")
            elif answer is not None:
                for notice in answer.notices:
                    on_notice(notice)
                return self._keep_hold(answer)
        return self._keep_hold(DirectoryProvider().hold(path, self._terms))

    def _keep_hold(self, held: Held) -> Held:
        self._held.append(held)
        return held

    def close(self) -> None:
        """Give up everything. What does not go stays in the journal, for the next janitor."""
        try:
            while self._held:
                self._held.pop().release()
        finally:
            self._journal.close()


def tag_of(repository_id: bytes, source_id: str) -> str:
    """What stands for a source of a repository in the names of what is kept for the next run."""
    key = source_id.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(key, digest_size=8, key=repository_id).hexdigest()


def janitor(repository: Path) -> int:
    """Remove what dead jobs left on the file systems of their sources; how many things.

    What lies on a file system that is not mounted now stays written down. Raises
    RepositoryFailed.
    """
    return sweep(repository, _remove)


def _remove(entry: Entry) -> bool:
    remover = _REMOVERS.get(entry.provider)
    return remover is not None and remover(entry)
