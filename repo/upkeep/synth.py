"""A synthesis: a full point made from other points, without reading any source.

Of several points of one source the newest is the state of the source, what was deleted before it
stays deleted, and older ones help out where it could not read a file. Points of several sources
lie in one tree, at each path the newest of them. What is written are nodes on paths where that
makes something new, and a manifest.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final, NamedTuple

import msgspec

from repo.errors import Interrupted, UsageError
from repo.format.manifest import (
    BaseRecord,
    Point,
    Snapshot,
    Statistics,
    Synthesis,
)
from repo.format.node import Entry
from repo.index.scratch import Scratch
from repo.merge import Merge
from repo.reader import Reader
from repo.repository import Repository
from repo.tree import Tree
from repo.types import ChunkId, Kind
from repo.upkeep.inherited import Inherited, inherited
from repo.upkeep.layers import Lost, Take, layers_of
from repo.upkeep.relayout import Relayout, RelayoutFigures
from repo.upkeep.relink import Relinker
from repo.writer import Writer

FOLDERS_AT_ONCE: Final = 64


@dataclass(frozen=True, kw_only=True)
class SynthRequest:
    """What a user asks for. `rules` are `--prefer` and `--take` as they were written."""

    points: Sequence[Point]
    prefer: Sequence[Point] = ()
    takes: Sequence[Take] = ()
    rules: Sequence[str] = ()
    source_id: str = ""
    tags: Sequence[str] = ()
    relayout: bool = False
    streams: int = 0
    dry_run: bool = False
    made_by: str = "repo"


class SynthProgress(NamedTuple):
    """How far a synthesis is: nodes made and their bytes, then bytes laid out, of how many."""

    doing: str
    nodes: int
    bytes_done: int
    bytes_expected: int = 0


@dataclass(frozen=True, kw_only=True)
class SynthSummary:
    """What came of it. Bytes are plain (`bytes_new`: nodes) and on disk (`bytes_stored`).

    layout: what a re-layout found and did, if one was asked for.
    """

    point: Point
    nodes: int
    bytes_new: int
    bytes_stored: int
    seconds: float
    layout: RelayoutFigures | None = None


OnProgress = Callable[[SynthProgress], None]


def synthesize(
    repository: Repository,
    request: SynthRequest,
    *,
    on_progress: OnProgress = lambda _state: None,
    on_notice: Callable[[str], None] = lambda _text: None,
    stopped: Callable[[], bool] = lambda: False,
) -> SynthSummary:
    """Make a point from others; with `dry_run` it is not published, and nothing is stored.

    stopped: asked again and again; when it says so, Interrupted is raised, and what was laid out
    until then stays so. Raises UsageError, Damaged when a node that is needed cannot be read,
    RepositoryFailed.
    """
    started = time.monotonic()
    inputs = _inputs(request)
    for point in inputs:
        if point.unfinished:
            raise UsageError(
                "an unfinished point", where=point.id.hex(), next_step="finish its run first"
            )
    with ExitStack() as stack:
        if not request.dry_run:
            recovered = repository.recover()
            if recovered:
                on_notice(f"recovered {recovered} segments that a killed process left open")
        stack.enter_context(repository.lease("synth"))
        writer = None if request.dry_run else repository.writer()
        if writer is not None:
            stack.callback(writer.abandon)
        maker = _Maker(repository, request, writer, on_progress, stopped)
        point = maker.point(inputs, stack)
        if writer is not None:
            writer.publish(point)
    return SynthSummary(
        point=point,
        nodes=maker.nodes,
        bytes_new=maker.bytes_new,
        bytes_stored=0 if writer is None else writer.written.stored_bytes,
        seconds=time.monotonic() - started,
        layout=maker.layout,
    )


def _inputs(request: SynthRequest) -> list[Point]:
    """All points that a request names, what counts most first."""
    ordered = sorted(request.points, key=lambda one: (one.received_ns, one.id), reverse=True)
    named = [*(take.point for take in request.takes), *request.prefer, *ordered]
    if not named:
        raise UsageError("a synthesis of nothing", next_step="name points, or parts with --take")
    return list({point.id: point for point in named}.values())


class _Maker:
    """Makes the tree and the manifest of one synthesis."""

    def __init__(
        self,
        repository: Repository,
        request: SynthRequest,
        writer: Writer | None,
        on_progress: OnProgress,
        stopped: Callable[[], bool],
    ) -> None:
        self._repository = repository
        self._request = request
        self._writer = writer
        self._on_progress = on_progress
        self._stopped = stopped
        self._reader: Reader = repository.new_reader()
        self._tree = Tree(self._reader)
        self.layout: RelayoutFigures | None = None
        self._started = time.monotonic()
        self.nodes = 0
        self.bytes_new = 0

    def _put_meta(self, data: bytes) -> ChunkId:
        if self._stopped():
            raise Interrupted("interrupted", next_step="nothing was published: run it again")
        self.nodes += 1
        self.bytes_new += len(data)
        self._on_progress(SynthProgress("merging", self.nodes, self.bytes_new))
        if self._writer is None:
            return self._reader.keep(data)
        chunk_id = self._repository.keys.chunk_id(data)
        self._writer.put_meta(chunk_id, data)
        return chunk_id

    def _commit(self) -> None:
        """Make what was put durable: from here on it can be read, and relied on."""
        if self._writer is not None:
            self._writer.commit(close=True)

    def point(self, inputs: Sequence[Point], stack: ExitStack) -> Point:
        """The point, its tree stored and durable."""
        request = self._request
        scratch = self._repository.index_path.parent
        lost = Lost(*(stack.enter_context(Scratch.make(scratch)) for _ in range(2)))
        layers = layers_of(
            self._reader,
            self._tree,
            self._repository.lineage,
            request.points,
            request.prefer,
            request.takes,
            lost,
        )
        merge = Merge(self._tree, self._put_meta, Relinker(self._tree, self._put_meta))
        root = merge.run(layers)
        same = root == inputs[0].root and not (request.takes or inputs[0].delta)
        alone = inputs[0] if same else None
        along = self._inherited()
        self._commit()
        self._on_progress(SynthProgress("counting", self.nodes, self.bytes_new))
        statistics = alone.statistics if alone else self._counted(root)
        if request.relayout:
            stored = [one for point in inputs for one in self._repository.lineage(point)]
            marked = any(one.loss.noted_ns for one in stored)
            self._lay_out([root, *(one.root for one in stored)], marked=marked)
        return self._manifest(inputs, root, statistics, along, alone)

    def _lay_out(self, roots: Sequence[Entry], *, marked: bool) -> None:
        """Rewrite chunks in restore order: those of the result first, then what else there is."""
        if self._writer is None and self.nodes:
            roots = roots[1:]  # a rehearsal: the nodes of the result are in no segment
        relayout = Relayout(
            self._repository,
            self._writer,
            streams=self._request.streams or len(os.sched_getaffinity(0)),
            on_progress=lambda state: self._on_progress(
                SynthProgress("laying out", self.nodes, state.bytes_seen, state.bytes_expected)
            ),
            stopped=self._stopped,
        )
        relayout.run(roots, marked=marked)
        self.layout = relayout.figures

    def _inherited(self) -> Inherited:
        """What comes along from all that the tree is made of."""
        request = self._request
        newest: dict[str, Point] = {}
        for point in sorted(request.points, key=lambda one: one.received_ns):
            newest[point.source_id] = point
        whole = {
            one.id: one
            for point in (*request.prefer, *newest.values())
            for one in self._repository.lineage(point)
        }
        return inherited(self._reader, list(whole.values()), request.takes, self._put_meta)

    def _counted(self, root: Entry) -> Statistics:
        """What is in a tree; nodes of older versions do not say it and are walked."""
        below = root.directories_below or self._walked(root)
        return Statistics(
            files=root.entries_below - below,
            directories=1 + below,
            bytes_source=root.bytes_below,
        )

    def _walked(self, root: Entry) -> int:
        """The directories below a root."""
        directories = 0
        pending = [root]
        while pending:
            batch = pending[-FOLDERS_AT_ONCE:]
            del pending[-FOLDERS_AT_ONCE:]
            self._tree.load(batch)
            for directory in batch:
                for entry in self._tree.entries(directory):
                    directories += entry.kind == Kind.DIRECTORY
                    if entry.node:
                        pending.append(entry)
        return directories

    def _manifest(
        self,
        inputs: Sequence[Point],
        root: Entry,
        statistics: Statistics,
        along: Inherited,
        alone: Point | None,
    ) -> Point:
        request = self._request
        newest = max(inputs, key=lambda one: (one.received_ns, one.id))
        sources = sorted({point.source_id for point in inputs})
        own = len(sources) == 1 and not request.rules
        source_id = sources[0] if own else f"synthetic:{'+'.join(sources)}"
        made = self._writer.written.stored_bytes if self._writer is not None else 0
        return Point(
            id=secrets.token_bytes(16),
            source_id=request.source_id or source_id,
            source_path=newest.source_path if own else "",
            host=newest.host if len({point.host for point in inputs}) == 1 else "",
            created_ns=newest.created_ns,
            received_ns=max(point.received_ns for point in inputs) + 1,
            root=root,
            statistics=msgspec.structs.replace(
                statistics, files_reused=statistics.files, bytes_read=0,
                bytes_new=self.bytes_new, bytes_stored=made,
                seconds=time.monotonic() - self._started,
            ),
            snapshot=alone.snapshot if alone and own else Snapshot(provider="synthetic"),
            problems_total=along.total,
            problems=along.problems,
            loss=along.loss,
            tags=tuple(request.tags),
            users=_united(point.users for point in reversed(inputs)),
            groups=_united(point.groups for point in reversed(inputs)),
            exclusions=newest.exclusions if own else b"",
            has_xattrs=any(point.has_xattrs for point in inputs),
            made_by=request.made_by,
            verdict=newest.verdict if own else "FULL",
            change_source=newest.change_source if own else "none",
            base=alone.base if alone and own else b"",
            base_record=alone.base_record if alone and own else BaseRecord(),
            synthesis=Synthesis(
                points=tuple(point.id for point in inputs),
                rules=tuple(request.rules),
                made_ns=time.time_ns(),
            ),
        )  # fmt: skip


def _united(tables: Iterator[dict[str, str]] | Sequence[dict[str, str]]) -> dict[str, str]:
    """One table of names; where several name a number, the last."""
    united: dict[str, str] = {}
    for table in tables:
        united |= table
    return united
