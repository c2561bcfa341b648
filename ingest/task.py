"""A task: a unit of a job that one worker does alone, named by a task id."""

from __future__ import annotations

import msgspec

Path = tuple[bytes, ...]
"""The parts of a path below the root of a source; () is the root."""


class Subject(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What a worker needs to know of a source besides its open root: the same for all its tasks.

    `excluded` are (st_dev, inode) of directories that are never entered: the repository itself.
    `rules` are packed exclusion rules. A source on a snapshot is `frozen`: nothing in it changes.
    """

    rules: bytes = b""
    excluded: tuple[tuple[int, int], ...] = ()
    exclude_caches: bool = False
    one_file_system: bool = False
    skip_bad_blocks: bool = False
    frozen: bool = False


class ListTask(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=1):
    """List a directory and save its entries; sub-directories and large files come back as news.

    `device` is the st_dev of the directory that holds it (-1: the root of the source), `volume`
    the number of that directory's file system within the point.
    """

    id: int
    source: int
    path: Path
    device: int = -1
    volume: int = 0


class PartTask(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=2):
    """Save some entries of a directory: a part of an enormous one, or what failed before.

    `names` are packed (msgpack) so that the master holds bytes, not objects.
    """

    id: int
    source: int
    path: Path
    names: bytes
    last_try: bool = False


class RangeTask(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=3):
    """Save the bytes [start, stop) of a large file, which must still be what `version` says."""

    id: int
    source: int
    path: Path
    name: bytes
    start: int
    stop: int
    version: tuple[int, int, int, int, int]


Task = ListTask | PartTask | RangeTask
