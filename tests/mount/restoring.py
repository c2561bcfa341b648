"""Help for the tests of restore: a repository, points from trees or made by hand, damage."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from mount import largefile, restorejob, restoreplan
from mount.restore import RestoreSummary, restore
from repo import keyfile
from repo.format.frame import TABLE_ROW
from repo.format.manifest import Point
from repo.format.node import EMPTY_RUN, Entry, Node, Run, Totals, pack_entries
from repo.keys import KeyFile
from repo.repository import Repository
from repo.types import ChunkId, Kind
from tests.support import command


class Store:
    """A repository of a test's own below `folder`."""

    def __init__(self, folder: Path) -> None:
        self.command = command.Repository(folder / "store")
        self.command.home.mkdir(parents=True)
        self.path = self.command.path
        self.key = self.command.key_file
        keyfile.create(self.key)
        Repository.create(self.path, KeyFile(self.key)).close()

    def open(self) -> Repository:
        """Open it; to be closed."""
        return Repository.open(self.path, KeyFile(self.key))

    def ingest(self, source: Path) -> None:
        """Back a tree up."""
        self.command.run("ingest", source)

    def restore(
        self, to: Path, *, paths: Sequence[bytes] = (), streams: int = 1, **more: Any
    ) -> RestoreSummary:
        """Restore the newest point."""
        with self.open() as repository:
            point = repository.point("latest")
            return restore(repository, point, to=to, paths=paths, streams=streams, **more)

    def publish(
        self,
        entries: Sequence[Entry],
        *,
        chunks: Sequence[bytes] = (),
        claimed: Mapping[bytes, bytes] = MappingProxyType({}),
    ) -> None:
        """Make a point by hand: its root holds these entries, checked by nobody.

        `claimed`: chunks under ids that are not theirs.
        """
        with self.open() as repository:
            writer = repository.writer()
            for data in chunks:
                writer.put_meta(repository.keys.chunk_id(data), data)
            for chunk_id, data in claimed.items():
                writer.put_meta(ChunkId(chunk_id), data)
            packed = node_of(entries)
            node = repository.keys.chunk_id(packed)
            writer.put_meta(node, packed)
            writer.commit(close=True)
            writer.publish(_point(node, below(entries)))

    def chunk_id(self, data: bytes) -> ChunkId:
        """The id that a chunk has in this repository."""
        with self.open() as repository:
            return repository.keys.chunk_id(data)

    def damage_frame_of(self, chunk_id: bytes) -> None:
        """Change a byte in the middle of the frame that holds a chunk."""
        with self.open() as repository:
            place = repository.reader.place(ChunkId(chunk_id))
            row = repository.places.segment(place.segment, fresh=True)
            offset, length, _ = TABLE_ROW.unpack_from(row.frames, place.frame * TABLE_ROW.size)
            path = repository.folder.segment_path(row.segment_id)
        with path.open("r+b") as file:
            file.seek(offset + length // 2)
            byte = file.read(1)[0]
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 1]))

    def entry(self, path: bytes) -> Entry:
        """An entry of the newest point."""
        with self.open() as repository:
            return repository.tree.resolve(repository.point("latest").root, path)


def _point(node: bytes, entries: int) -> Point:
    root = Entry(b"", Kind.DIRECTORY, 0o755, 0, 0, 1, 1, 0, 2, 2, node=node, entries_below=entries)
    return Point(
        id=secrets.token_bytes(16),
        source_id="by hand",
        source_path="/by/hand",
        host="here",
        created_ns=1,
        received_ns=1,
        root=root,
    )


def node_of(listed: Sequence[Entry], joined: Sequence[Entry] = ()) -> bytes:
    """A node with these entries, in the order given."""
    runs = [Run(len(es), pack_entries(es)) if es else EMPTY_RUN for es in (joined, listed)]
    return Node(runs[0], runs[1], Totals(below(listed) + below(joined), 0)).pack()


def below(entries: Sequence[Entry]) -> int:
    """How many entries these are with all that is below them."""
    return sum(1 + entry.entries_below for entry in entries)


def make_small(monkeypatch: pytest.MonkeyPatch, *, range_bytes: int = 1 << 20) -> None:
    """Make few entries count as many and few bytes as large, so that workers have to share."""
    monkeypatch.setattr(restorejob, "SMALL_ENTRIES", 0)
    monkeypatch.setattr(restorejob, "_PROGRESS_SECONDS", 0)
    monkeypatch.setattr(restorejob.RestoreJob, "_one_here", lambda _job: True)  # leave it to them
    for limit in ("BATCH_ENTRIES_LEAST", "BATCH_ENTRIES_MOST"):
        monkeypatch.setattr(restoreplan, limit, 8)
    monkeypatch.setattr(restoreplan, "RANGE_BYTES", range_bytes)
    monkeypatch.setattr(largefile, "RANGE_BYTES", range_bytes)


def leftovers(target: Path) -> list[str]:
    """Temporary names that a restore left behind."""
    return [
        name
        for _, directories, files, _ in os.fwalk(target)
        for name in (*directories, *files)
        if name.startswith(".repo-restore-")
    ]
