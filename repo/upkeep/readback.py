"""A read-back: everything that points rely on, read again and hashed, each frame once."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from struct import Struct
from typing import Final

from repo.errors import Damaged
from repo.format.manifest import Point
from repo.format.node import Entry
from repo.index.scratch import Scratch
from repo.reader import Reader
from repo.repository import Repository
from repo.tree import Tree
from repo.types import CHUNK_KEY_BYTES, MIB, ChunkId

_FRAME: Final = Struct(">II")
_BATCH: Final = 1024


def read_back(
    repository: Repository,
    points: Sequence[Point],
    *,
    on_step: Callable[[], None] = lambda: None,
) -> None:
    """Read everything that points without losses rely on. Raises Damaged for the first that is not
    as it should be.
    """
    reader = repository.new_reader(cache_bytes=32 * MIB)
    threads = len(os.sched_getaffinity(0))
    under_way: deque[Future[None]] = deque()
    with (
        Scratch.make(repository.index_path.parent) as seen,
        ThreadPoolExecutor(threads, thread_name_prefix="read-back") as pool,
    ):
        try:
            for point in points:
                if point.loss.noted_ns:
                    continue  # its losses are named; what it shares with others is read for them
                for frame in _frames(reader, point.root, seen):
                    while len(under_way) >= 2 * threads:
                        under_way.popleft().result()
                    under_way.append(pool.submit(_check, repository, reader, frame))
                    on_step()
            while under_way:
                under_way.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _check(repository: Repository, reader: Reader, frame: tuple[int, int]) -> None:
    (opened,) = reader.open_frames([frame])
    for row in opened.chunks.values():
        data = opened.content[row.offset : row.offset + row.length]
        if repository.keys.chunk_id(data) != row.id:
            raise Damaged(
                "a chunk has other content than its id",
                where=f"chunk {row.id.hex()[:16]}",
                next_step="run `repo verify --data`",
            )


def _frames(reader: Reader, root: Entry, seen: Scratch) -> Iterator[tuple[int, int]]:
    """The frames below a directory that were not seen before."""
    for chunk_ids in _batches(_chunks(Tree(reader), root, seen)):
        for place in reader.places_of(chunk_ids):
            key = _FRAME.pack(place.segment, place.frame)
            if key not in seen:
                seen.add(key)
                yield place.segment, place.frame


def _batches(chunk_ids: Iterator[ChunkId]) -> Iterator[list[ChunkId]]:
    batch: list[ChunkId] = []
    for chunk_id in chunk_ids:
        batch.append(chunk_id)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _chunks(tree: Tree, root: Entry, seen: Scratch) -> Iterator[ChunkId]:
    """Nodes and content below a directory; subtrees and chunks that were seen are left out."""
    way: list[Iterator[Entry]] = [iter((root,))]
    while way:
        entry = next(way[-1], None)
        if entry is None:
            way.pop()
        elif entry.node:
            if entry.node not in seen:
                seen.add(entry.node)
                yield ChunkId(entry.node)
                way.append(tree.entries(entry))
        elif entry.extents:
            for extent in tree.extents(entry):
                if not extent.is_hole and extent.id[:CHUNK_KEY_BYTES] not in seen:
                    seen.add(extent.id[:CHUNK_KEY_BYTES])
                    yield extent.id
