"""A random read: clients that read blocks of 4 KiB of a file, anywhere, as fast as they get them.

    python -m tools.bench.randomread FILE CLIENTS SECONDS

Prints one JSON object: how many reads there were, and how many of them a second.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from struct import Struct
from typing import Final

BLOCK_BYTES: Final = 4096
_COUNT: Final = Struct("<Q")


def read_blocks(path: str, seconds: float, seed: int) -> int:
    """Read blocks of a file for so long; how many. Raises OSError when one is cut short."""
    fd = os.open(path, os.O_RDONLY)
    try:
        # Else the kernel may read more than what was asked for.
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        blocks = os.fstat(fd).st_size // BLOCK_BYTES
        places = random.Random(seed)  # noqa: S311 (the same places each time)
        end = time.monotonic() + seconds
        count = 0
        while time.monotonic() < end:
            if len(os.pread(fd, BLOCK_BYTES, places.randrange(blocks) * BLOCK_BYTES)) < BLOCK_BYTES:
                raise OSError(f"a short read in {path}")
            count += 1
        return count
    finally:
        os.close(fd)


def read_by_clients(path: str, clients: int, seconds: float) -> int:
    """The same by so many processes at once. Raises OSError when one of them fails."""
    reading, writing = os.pipe()
    for seed in range(clients):
        if os.fork() == 0:
            status = 1
            try:
                os.write(writing, _COUNT.pack(read_blocks(path, seconds, seed)))
                status = 0
            finally:
                os._exit(status)
    os.close(writing)
    if any(os.wait()[1] for _ in range(clients)):
        raise OSError("a client failed")
    told = os.read(reading, _COUNT.size * clients)
    return sum(count for (count,) in _COUNT.iter_unpack(told))


if __name__ == "__main__":
    path, clients, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    reads = read_by_clients(path, clients, seconds)
    print(json.dumps({"reads": reads, "reads_per_second": reads / seconds}))
