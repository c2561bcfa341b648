"""A delta: what `repo ingest --delta` does: a point of what somebody says has changed.

Of the repository only the name of its base is used: no manifest, node or chunk is read, so that
who may only write can make one. Such a point lies over its base; whoever reads it sees a full.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from ingest.deltalist import read_lists
from ingest.deltatree import DeltaTree
from ingest.owners import owner_names
from ingest.packing import Packing
from ingest.saver import Saver
from ingest.snapshots.directory import hold_live
from ingest.source import SourceIdentity
from ingest.task import Subject
from repo.errors import JobFailed, UsageError
from repo.format.manifest import Point, Problem, Statistics, pack_problems
from repo.index.scratch import Scratch
from repo.kernel.cut import CutParameters, Cutter
from repo.repository import Repository
from repo.types import MIB, PointId

PROBLEMS_PER_CHUNK: Final = 1000
_LARGE_BYTES: Final = 64 * MIB
"""Files above this get extent pages."""


@dataclass(frozen=True, kw_only=True)
class DeltaRequest:
    """What a user asks for. `base`: the id of a point, or the beginning of it; `files_from` and
    `deleted_from`: files of paths, each ended by NUL; `level` is zstd's, None stores raw.
    """

    path: str
    base: str
    files_from: str | None = None
    deleted_from: str | None = None
    source_id: str = ""
    tags: Sequence[str] = ()
    level: int | None = 3
    made_by: str = "repo"


@dataclass(frozen=True, kw_only=True)
class DeltaProgress:
    """How far a delta is, in paths of the lists, and bytes read."""

    paths: int
    paths_expected: int
    bytes_read: int


@dataclass(frozen=True, kw_only=True)
class DeltaSummary:
    """What came of it; `removed` are names that are gone."""

    point: Point
    removed: int
    problems: Sequence[Problem] = ()


def ingest_delta(
    repository: Repository,
    request: DeltaRequest,
    *,
    on_progress: Callable[[DeltaProgress], None] = lambda _state: None,
) -> DeltaSummary:
    """Make a delta point of a source. Raises UsageError, RepositoryFailed, or JobFailed when its
    base is forgotten meanwhile.
    """
    started_ns = time.time_ns()
    identity = SourceIdentity.of(request.path, request.source_id)
    told = read_lists(request.path, request.files_from, request.deleted_from)
    base = _base(repository, request.base)
    held = hold_live(request.path)
    snapshot = held.snapshot
    with ExitStack() as stack:
        stack.callback(held.release)
        repository.recover()
        stack.enter_context(repository.lease("ingest"))
        writer = repository.writer(level=request.level)
        stack.callback(writer.abandon)
        stored = stack.enter_context(Scratch.make(repository.index_path.parent))
        packing = Packing(repository, writer, stored, level=request.level)
        own = [path.stat() for path in (repository.path, repository.environment.path)]
        tree = DeltaTree(
            held.root_fd,
            _saver(repository, packing, frozen=snapshot.frozen),
            packing.put_meta,
            excluded={(stat.st_dev, stat.st_ino) for stat in own},
        )
        paths = 0

        def step() -> None:
            nonlocal paths
            paths += 1
            on_progress(
                DeltaProgress(paths=paths, paths_expected=len(told), bytes_read=tree.bytes_read)
            )

        root = tree.make(told, step)
        problems = tuple(
            packing.put_meta(pack_problems(tree.problems[at : at + PROBLEMS_PER_CHUNK]))
            for at in range(0, len(tree.problems), PROBLEMS_PER_CHUNK)
        )
        packing.flush()
        writer.commit(close=True)
        users, groups = owner_names(tree.owners)
        point = Point(
            id=secrets.token_bytes(16),
            source_id=identity.id,
            source_path=identity.path,
            host=identity.host,
            created_ns=started_ns,
            received_ns=time.time_ns(),
            root=root,
            statistics=Statistics(
                files=tree.files,
                directories=tree.directories,
                bytes_source=tree.bytes_source,
                bytes_read=tree.bytes_read,
                bytes_new=packing.bytes_new,
                bytes_stored=writer.written.stored_bytes,
                seconds=(time.time_ns() - started_ns) / 1e9,
            ),
            snapshot=snapshot.record(),
            problems_total=len(tree.problems),
            problems=problems,
            tags=tuple(request.tags),
            users=users,
            groups=groups,
            made_by=request.made_by,
            verdict="HINT",
            change_source="list",
            base=base,
            delta=True,
        )
        writer.publish(point)
        if base not in set(repository.folder.points()):
            repository.folder.set_aside(PointId(point.id))
            raise JobFailed(
                "the base of this delta was forgotten meanwhile",
                where=f"point {base.hex()}",
                next_step="make a delta of another one",
            )
    return DeltaSummary(point=point, removed=tree.removed, problems=tree.problems)


def _base(repository: Repository, text: str) -> PointId:
    """The id of the base, from the names of the points alone. Raises UsageError."""
    fitting = [
        point_id for point_id in repository.folder.points() if point_id.hex().startswith(text)
    ]
    if not text or len(fitting) != 1:
        raise UsageError(
            "the base of a delta is the id of a point, or the beginning of it",
            where=f"--base {text}",
            next_step="`repo points` shows them",
        )
    return fitting[0]


def _saver(repository: Repository, packing: Packing, *, frozen: bool) -> Saver:
    header = repository.header
    cut = CutParameters(header.chunk_minimum, header.chunk_average, header.chunk_maximum)
    cutter = Cutter(cut, repository.keys.chunker_key.reveal())
    return Saver(packing, cutter, Subject(frozen=frozen), _LARGE_BYTES)
