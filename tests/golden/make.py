"""Makes the golden repository of the present format version: run once, when the format changes.

    python -m tests.golden.make tests/golden/v1

Needs root, for the owners and the device; the result is committed and never made again.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
from pathlib import Path

from ingest.session import IngestRequest, ingest
from repo import keyfile
from repo.keys import KeyFile
from repo.repository import Repository
from repo.types import KIB, MIB
from tests.golden.contents import contents, write_contents

SEED = 1
ENTRIES_OF_A_PAGED_DIRECTORY = 4100
MOMENT_NS = 1_234_567_890_123_456_789


def make_source(root: Path) -> None:
    """A small tree with one of each: kinds, extents, holes, runs and pages."""
    random_bytes = random.Random(SEED).randbytes
    (root / "empty").touch()
    (root / "short").write_bytes(b"content\n")
    (root / "compressible").write_bytes(b"the same again " * 20_000)
    (root / "chunks").write_bytes(random_bytes(300 * KIB))
    os.link(root / "short", root / "short, too")
    os.symlink("short", root / "link")
    os.mkfifo(root / "fifo", 0o640)
    os.mknod(root / "device", 0o20600, os.makedev(1, 3))
    (root / os.fsdecode(b"no utf-8 \xff\xfe")).write_bytes(b"x")
    with (root / "sparse").open("wb") as file:
        file.truncate(70 * MIB)
        file.seek(66 * MIB)
        file.write(b"far behind")
    deep = root / "a" / "b" / "c"
    deep.mkdir(parents=True)
    (deep / "below").write_bytes(b"below")
    (deep / "below").chmod(0o4751)
    os.chown(deep / "below", 1234, 5678)
    os.setxattr(deep / "below", "user.note", b"an attribute")
    many = root / "many"
    many.mkdir()
    for number in range(ENTRIES_OF_A_PAGED_DIRECTORY):
        (many / f"{number:05}").touch()
    for path in sorted(root.rglob("*"), reverse=True):
        os.utime(path, ns=(MOMENT_NS, MOMENT_NS), follow_symlinks=False)


def main() -> None:
    """Make repository, key and list of contents in the folder that argv names."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True)
    keyfile.create(folder / "key")
    key = KeyFile(folder / "key")
    with tempfile.TemporaryDirectory() as place:
        source = Path(place) / "source"
        source.mkdir()
        make_source(source)
        with Repository.create(folder / "repository", key, index_dir=place) as repository:
            request = IngestRequest(
                paths=[str(source)], source_ids=["golden:/source"], tags=["golden"]
            )
            point = ingest(repository, request).points[0]
            write_contents(folder / "contents.json", contents(repository, point))


if __name__ == "__main__":
    main()
