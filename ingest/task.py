"""A task: a unit of a job that one worker does alone, named by a task id."""

from __future__ import annotations

import msgspec

from repo.format.node import Entry

Path = tuple[bytes, ...]
"""The parts of a path below the root of a source; () is the root."""


class Subject(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What a worker needs to know of a source besides its open root: the same for all its tasks.

    `excluded` are (st_dev, inode) of directories that are never entered: the repository itself.
    `rules` are packed exclusion rules. A source on a snapshot is `frozen`: nothing in it changes.
    `placeholder` is the inode number of directories that stand for what a snapshot lacks (0: none).
    """

    rules: bytes = b""
    excluded: tuple[tuple[int, int], ...] = ()
    exclude_caches: bool = False
    one_file_system: bool = False
    skip_bad_blocks: bool = False
    frozen: bool = False
    placeholder: int = 0


class BaseRun(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Packed entries of a base: those of a directory, or of the part that a task is about.

    An entry is taken over when the file's attributes are the same and its ctime is below
    `limit_ns`: later, it may hold what the base has not seen. In an `exact` run entries are
    taken over without a look, but for those named as changed.
    """

    entries: bytes
    limit_ns: int
    exact: bool = False


class Comparison(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What a task compares with. Of several runs that hold a name the last one counts.

    `changed`: names that no exact run answers for. `forced`: names that no run answers for.
    """

    runs: tuple[BaseRun, ...]
    changed: tuple[bytes, ...] = ()
    forced: tuple[bytes, ...] = ()


class ListTask(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=1):
    """List a directory and save its entries; sub-directories and large files come back as news.

    `device` is the st_dev of the directory that holds it (-1: the root of the source), `volume`
    the number of that directory's file system within the point.

    `before` is its entry in the base, which holds while the attributes are the same and the
    ctime is below `limit_ns`. With `bounds`, first names of the base's pages, all entries are
    left for parts that end there. A directory that was born before `probe_ns`, and is not that
    of `before`, is not listed: it was somewhere else, and its base is still to be found.
    """

    id: int
    source: int
    path: Path
    device: int = -1
    volume: int = 0
    comparison: Comparison | None = None
    before: Entry | None = None
    limit_ns: int = 0
    bounds: tuple[bytes, ...] = ()
    probe_ns: int = 0


class PartTask(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=2):
    """Save some entries of a directory: a part of an enormous one, or what failed before.

    `names` are packed (msgpack) so that the master holds bytes, not objects; b"": the names of
    the comparison's first run. They lie from `first_name` to `last_name`. `audit`: the entries of
    the comparison are looked at and read, and nothing is saved.
    """

    id: int
    source: int
    path: Path
    names: bytes
    last_try: bool = False
    first_name: bytes = b""
    last_name: bytes = b""
    comparison: Comparison | None = None
    audit: bool = False


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
