"""An index fill: chunks through the index layer alone, for its size and its speed.

Run as a program of its own (`python -m tools.bench.indexfill FOLDER CHUNKS`), so that time and
memory are measured as those of any other command. Prints one JSON object.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from mmap import PAGESIZE
from pathlib import Path
from struct import Struct

import msgspec

from repo.format.place import Place
from repo.index.environment import Environment, Transaction
from repo.index.places import Places
from repo.types import CHUNK_KEY_BYTES, KIB, MIB, RepositoryId, SegmentClass, SegmentId

# The shape of a large repository of the default sizes: chunks of 256 KiB, four in a frame of
# 1 MiB, segments of 256 MiB, a transaction for each checkpoint of 1 GiB.
CHUNK_BYTES = 256 * KIB
_FRAME_CHUNKS = 4
SEGMENT_CHUNKS = 1024
TRANSACTION_SEGMENTS = 4
_CLAIM_CHUNKS = 64
_LOOKUPS_MOST = 200_000
_SEED = 61
_FRAME_ROW = Struct("<QII")  # as Places.set_frames takes it


@dataclass(frozen=True)
class Fill:
    """What a fill found: bytes, and rows in a second.

    table_bytes is what the rows of the chunks take; index_bytes the whole file with segments,
    frame tables and pages that are free for later.
    """

    chunks: int
    index_bytes: int
    table_bytes: int
    file_bytes_per_chunk: float
    table_bytes_per_chunk: float
    puts_per_second: float
    lookups_per_second: float


def fill(folder: Path, chunks: int) -> Fill:
    """Put so many chunks into a new index in a folder, then look some of them up.

    Half of the chunks looked up are known, in batches as a worker asks for them.
    """
    generator = random.Random(_SEED)  # noqa: S311 - stands for chunk ids, which are random too
    sample: list[bytes] = []
    spent = 0.0
    with Environment.open(folder, RepositoryId(bytes(16)), create=True) as environment:
        places = Places(environment)
        for batch in _batches(generator, chunks):
            began = time.perf_counter()
            commit(environment, places, generator, batch)
            spent += time.perf_counter() - began
            if len(sample) < _LOOKUPS_MOST // 2:
                sample.extend(batch)
        asked = _questions(generator, sample[: _LOOKUPS_MOST // 2])
        began = time.perf_counter()
        found = sum(
            len(places.known(asked[start : start + _CLAIM_CHUNKS]))
            for start in range(0, len(asked), _CLAIM_CHUNKS)
        )
        looked_up = time.perf_counter() - began
        if found != len(asked) // 2 or places.count() != chunks:
            raise RuntimeError(f"the index found {found} of {len(asked) // 2} chunks")
        file_bytes = places.size_bytes()
        table_bytes = places.chunk_table_pages() * PAGESIZE  # LMDB takes the machine's
    return Fill(
        chunks=chunks,
        index_bytes=file_bytes,
        table_bytes=table_bytes,
        file_bytes_per_chunk=file_bytes / chunks,
        table_bytes_per_chunk=table_bytes / chunks,
        puts_per_second=chunks / spent,
        lookups_per_second=len(asked) / looked_up,
    )


def _batches(generator: random.Random, chunks: int) -> Iterator[list[bytes]]:
    """The keys of one transaction after the other."""
    most = SEGMENT_CHUNKS * TRANSACTION_SEGMENTS
    for start in range(0, chunks, most):
        yield [generator.randbytes(CHUNK_KEY_BYTES) for _ in range(min(most, chunks - start))]


def _questions(generator: random.Random, known: list[bytes]) -> list[bytes]:
    """The known keys and as many unknown ones, mixed."""
    asked = [*known, *(generator.randbytes(CHUNK_KEY_BYTES) for _ in known)]
    generator.shuffle(asked)
    return asked


def commit(
    environment: Environment, places: Places, generator: random.Random, keys: list[bytes]
) -> None:
    """One transaction: segments, their frame tables and the places of their chunks."""

    def change(txn: Transaction) -> None:
        rows: list[tuple[bytes, bytes]] = []
        for start in range(0, len(keys), SEGMENT_CHUNKS):
            part = keys[start : start + SEGMENT_CHUNKS]
            segment_id = SegmentId(generator.randbytes(16))
            number = places.add_segment(txn, segment_id, SegmentClass.DATA)
            frames = -(-len(part) // _FRAME_CHUNKS)
            table = b"".join(_FRAME_ROW.pack(at * MIB, MIB, MIB) for at in range(frames))
            places.set_frames(txn, number, table, closed=True)
            rows.extend(
                (key, Place(number, *_within_segment(at)).pack()) for at, key in enumerate(part)
            )
        places.add_places(txn, sorted(rows))

    environment.write(change)


def _within_segment(at: int) -> tuple[int, int, int]:
    """Frame, offset in it and length of the chunk of this number in a segment."""
    return at // _FRAME_CHUNKS, at % _FRAME_CHUNKS * CHUNK_BYTES, CHUNK_BYTES


def main(arguments: list[str]) -> None:
    """Fill the index in the folder of the first argument with the second's number of chunks."""
    folder, chunks = arguments
    sys.stdout.buffer.write(msgspec.json.encode(fill(Path(folder), int(chunks))) + b"\n")


if __name__ == "__main__":
    main(sys.argv[1:])
