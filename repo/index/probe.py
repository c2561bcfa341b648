"""A probe: reads a whole index in a process of its own, which a damaged one may kill.

LMDB trusts its file. A flipped bit in a page's pointers can make it read beyond its map, and the
kernel then kills the process (SIGBUS, SIGSEGV). Whoever looks for damage sends this ahead.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import lmdb

from repo.errors import RepositoryFailed
from repo.index.environment import TABLES_MAX
from repo.index.failure import IndexUnusable
from repo.types import CHUNK_KEY_BYTES


def probe(path: Path) -> None:
    """Raises IndexUnusable when reading the index in the folder `path` kills a process.

    Whatever else is wrong with it shows when this process reads it. Raises RepositoryFailed when
    no process can be started.
    """
    command = [sys.executable, "-P", "-m", "repo.index.probe", str(path)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
    except OSError as error:
        raise RepositoryFailed(
            f"a process cannot be started: {error.strerror}", where=sys.executable
        ) from error
    if -done.returncode in {signal.SIGBUS, signal.SIGSEGV, signal.SIGABRT}:
        name = signal.Signals(-done.returncode).name
        raise IndexUnusable(f"the index is damaged: reading it ends in {name}", where=str(path))


def read_rows(path: str) -> None:
    """Read every row of every table, and look each up as others will. Raises lmdb.Error.

    Reading one row after the other does not touch the keys in inner pages, which a search follows.
    """
    with lmdb.open(path, readonly=True, create=False, max_dbs=TABLES_MAX) as environment:
        with environment.begin() as txn, txn.cursor() as cursor:
            names = list(cursor.iternext(keys=True, values=False))
        for name in names:
            table = environment.open_db(name, create=False)
            with (
                environment.begin() as txn,
                txn.cursor(table) as cursor,
                txn.cursor(table) as search,
            ):
                sorted_rows = table.flags()["dupsort"]
                for key, value in cursor.iternext():
                    if sorted_rows:
                        search.set_range_dup(key, value[:CHUNK_KEY_BYTES])
                    else:
                        search.set_range(key)


if __name__ == "__main__":
    read_rows(sys.argv[1])
