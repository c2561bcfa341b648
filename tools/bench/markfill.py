"""A mark fill: a repository with the index and the trees of a large one, but no file content.

For `repo gc --dry-run` at a size that nobody has at hand: chunks go through the index layer, nodes
through the writer into real meta segments; of data segments only the names are there.
Run as `python -m tools.bench.markfill FOLDER CHUNKS`: FOLDER gets `repository` and `key`.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Final

from repo import keyfile
from repo.format.manifest import Point
from repo.format.node import EMPTY_RUN, Entry, Node, Run, Totals, pack_entries, pack_extents
from repo.keys import KeyFile
from repo.repository import Repository
from repo.types import CHUNK_KEY_BYTES, Kind
from repo.writer import Writer
from tools.bench.indexfill import CHUNK_BYTES, SEGMENT_CHUNKS, TRANSACTION_SEGMENTS, commit

FILE_CHUNKS: Final = 4
DIRECTORY_FILES: Final = 200
DIRECTORY_FOLDERS: Final = 100
DEAD_SHARE: Final = 0.3
_SEED: Final = 20


def fill(folder: Path, chunks: int) -> int:
    """Make it; returns how many chunks its one point relies on, besides nodes."""
    key_file = folder / "key"
    keyfile.create(key_file)
    with Repository.create(folder / "repository", KeyFile(key_file)) as repository:
        return _fill(repository, chunks)


def _fill(repository: Repository, chunks: int) -> int:
    generator = random.Random(_SEED)  # noqa: S311 - stands for chunk ids, which are random too
    writer = repository.writer(level=None)
    folders: list[Entry] = []
    files: list[Entry] = []
    alive = 0
    environment = repository.environment
    places = repository.places
    for start in range(0, chunks, SEGMENT_CHUNKS * TRANSACTION_SEGMENTS):
        count = min(SEGMENT_CHUNKS * TRANSACTION_SEGMENTS, chunks - start)
        ids = [generator.randbytes(32) for _ in range(count)]
        commit(environment, places, generator, [chunk_id[:CHUNK_KEY_BYTES] for chunk_id in ids])
        live = ids[: round(count * (1 - DEAD_SHARE))]
        alive += len(live)
        for at in range(0, len(live), FILE_CHUNKS):
            files.append(_file(len(files), live[at : at + FILE_CHUNKS]))
            if len(files) == DIRECTORY_FILES:
                folders.append(_directory(repository, writer, len(folders), files))
                files = []
        if writer.commit_due():
            writer.commit()
    if files:
        folders.append(_directory(repository, writer, len(folders), files))
    root = _tree(repository, writer, folders)
    writer.commit(close=True)
    for row in places.segments():
        path = repository.folder.segment_path(row.segment_id)
        path.parent.mkdir(exist_ok=True)
        path.touch()
    writer.publish(Point(bytes(16), "scale", "/scale", "bench", 1, 1, root))
    return alive


def _name(number: int) -> bytes:
    return b"%08d" % number


def _file(number: int, ids: list[bytes]) -> Entry:
    size = CHUNK_BYTES * len(ids)
    extents = pack_extents([(chunk_id, CHUNK_BYTES) for chunk_id in ids])
    times = (1_700_000_000_000_000_000 + number,) * 3
    return Entry(
        _name(number), Kind.FILE, 0o644, 0, 0, *times, number, 1, size=size, extents=extents
    )


def _directory(repository: Repository, writer: Writer, number: int, below: list[Entry]) -> Entry:
    totals = Totals(
        sum(1 + entry.entries_below for entry in below),
        sum(entry.bytes_below if entry.node else entry.size for entry in below),
    )
    data = Node(EMPTY_RUN, Run(len(below), pack_entries(below)), totals).pack()
    node = repository.keys.chunk_id(data)
    writer.put_meta(node, data)
    return Entry(
        _name(number), Kind.DIRECTORY, 0o755, 0, 0, 0, 0, 0, number, 2,
        node=node, entries_below=totals.entries, bytes_below=totals.bytes,
    )  # fmt: skip


def _tree(repository: Repository, writer: Writer, folders: list[Entry]) -> Entry:
    while len(folders) > DIRECTORY_FOLDERS:
        folders = [
            _directory(repository, writer, at, folders[at : at + DIRECTORY_FOLDERS])
            for at in range(0, len(folders), DIRECTORY_FOLDERS)
        ]
    root = _directory(repository, writer, 0, folders)
    return Entry(
        b"", Kind.DIRECTORY, 0o755, 0, 0, 0, 0, 0, 1, 2,
        node=root.node, entries_below=root.entries_below, bytes_below=root.bytes_below,
    )  # fmt: skip


def main(arguments: list[str]) -> None:
    """Fill the folder of the first argument with the second's number of chunks."""
    folder, chunks = arguments
    alive = fill(Path(folder), int(chunks))
    sys.stdout.write(f"{alive} chunks of {chunks} are alive\n")


if __name__ == "__main__":
    main(sys.argv[1:])
