"""A foundation: what a source's ingest builds on, chosen among the points of its repository."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeGuard

from ingest.base import (
    FORCED_MAX,
    UNFINISHED_STEP,
    BaseTree,
    Forced,
    Foundation,
    limit_of,
    problems_of,
    unfinished_of,
)
from ingest.changes.changesource import Verdict
from ingest.changes.registry import Planned, plan_for
from ingest.changes.walk import Walk
from ingest.lacking import Lacking
from ingest.snapshots.snapshot import Snapshot
from repo.errors import Damaged
from repo.format.manifest import Point, Problem
from repo.repository import Repository


def found(
    repository: Repository,
    points: Sequence[Point],
    source_id: str,
    selection: bytes,
    snapshot: Snapshot,
    root_fd: int,
    *,
    chosen: bool = False,
    on_notice: Callable[[str], None],
) -> Foundation:
    """The best foundation for a source that is read as `snapshot`. `chosen`: by the user.

    `points` may be its base, the newest first; unfinished runs of the source add what they read.
    """
    usable = [point for point in points if is_base(point)]
    distrusted = usable[0].base_record.distrusted if usable else ()
    if Walk.kind in distrusted and not chosen:
        on_notice(
            "an earlier audit found a file changed that looked unchanged: everything is read "
            "(`--base POINT` believes a point all the same)"
        )
        return Foundation()
    unfinished = unfinished_of(repository, source_id, usable[0] if usable else None)
    started = time.monotonic()
    planned = plan_for(usable, selection, snapshot, root_fd, on_notice=on_notice)
    plan_seconds = time.monotonic() - started
    in_doubt = repository.in_doubt
    if in_doubt and _is_exact(planned):
        on_notice(
            f"{planned.plan.kind}: the index was built anew, and nobody has looked yet whether it "
            "lacks anything: comparing every file (`repo verify` ends that)"
        )
        planned = _walk_instead(planned, usable[0], snapshot, root_fd)
    forced = _forced(repository, planned, unfinished, on_notice)
    if forced is None and _is_exact(planned):
        on_notice(f"{planned.plan.kind}: the base has too many problems: comparing every file")
        planned = _walk_instead(planned, usable[0], snapshot, root_fd)
        forced = _forced(repository, planned, unfinished, on_notice)
    if forced is None:
        on_notice("the base cannot be relied on: everything is read")
        return Foundation()
    if unfinished:
        on_notice("resuming: what an unfinished run has read is not read again")
    tree = repository.tree
    return Foundation(
        base=planned and BaseTree(planned.base, tree, limit_of(planned.base, snapshot)),
        plan=planned and planned.plan,
        unfinished=[BaseTree(point, tree, limit_of(point, snapshot)) for point in unfinished],
        forced=forced,
        plan_seconds=plan_seconds,
        lacking=Lacking(repository.places, tree) if in_doubt else None,
    )


def _is_exact(planned: Planned | None) -> TypeGuard[Planned]:
    return planned is not None and planned.plan.verdict is Verdict.EXACT


def _walk_instead(planned: Planned, newest: Point, snapshot: Snapshot, root_fd: int) -> Planned:
    planned.plan.close()
    return Planned(newest, Walk().plan(newest, snapshot, root_fd))


def is_base(point: Point) -> bool:
    """Whether a point can be compared with: not when content of it is lost, nor when it is a
    delta or was made of other points, for then it does not say when its files were looked at.
    """
    return not (point.unfinished or point.delta or point.loss.noted_ns or point.synthesis.points)


def _forced(
    repository: Repository,
    planned: Planned | None,
    unfinished: Sequence[Point],
    on_notice: Callable[[str], None],
) -> Forced | None:
    """The names that are looked at whatever the bases say; None when there is no telling.

    Where every file is compared, those that failed are tried anyhow, for the base lacks them.
    """
    exact = planned is not None and planned.plan.verdict is Verdict.EXACT
    bases = [(point, False) for point in unfinished]
    bases += [(planned.base, exact)] if planned is not None else []
    wanted: list[bytes] = []
    try:
        for point, all_of_them in bases:
            for problem in problems_of(repository, point):
                if all_of_them or _has_entry(problem):
                    wanted.append(problem.path)
                if len(wanted) > FORCED_MAX:
                    return None
    except Damaged as damage:
        on_notice(f"the base is damaged: {damage}")
        return None
    return Forced(wanted)


def _has_entry(problem: Problem) -> bool:
    """Whether the point may hold the file, though not as it should be."""
    return not problem.errno and problem.step != UNFINISHED_STEP
