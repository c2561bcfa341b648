"""The registry of change sources: which are asked, in which order, and what they answered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from ingest.changes.btrfs import BtrfsChanges
from ingest.changes.changesource import ChangeSource, Declined, Plan, Verdict
from ingest.changes.reflink import ReflinkChanges
from ingest.changes.walk import Walk
from ingest.snapshots.snapshot import Snapshot
from repo.format.manifest import Point

CHANGE_SOURCES: Final[tuple[ChangeSource, ...]] = (BtrfsChanges(), ReflinkChanges())
"""Those that can be exact, the best first. The walk is asked when all of them are silent."""

BASES_ASKED: Final = 8
"""Points of a source, the newest first, that an exact plan is sought for."""


class Planned(NamedTuple):
    """A plan and the base that it starts from."""

    base: Point
    plan: Plan


def plan_for(
    bases: Sequence[Point],
    selection: bytes,
    snapshot: Snapshot,
    root_fd: int,
    *,
    on_notice: Callable[[str], None],
    change_sources: Sequence[ChangeSource] = CHANGE_SOURCES,
) -> Planned | None:
    """The best plan from any of the `bases` (newest first); None without a base.

    An exact plan from an older base is better than a walk from the newest. Why one was declined
    is told once, with what the newest base met. `selection`: as in the base record: an exact plan
    needs a base that chose by the same rules.
    """
    if not bases:
        return None
    newest = bases[0]
    reasons: dict[str, str] = {}
    for base in bases[:BASES_ASKED]:
        for source in change_sources:
            if source.kind in newest.base_record.distrusted:
                reasons.setdefault(source.kind, "an audit found it wrong before")
                continue
            answer = source.plan(base, snapshot, root_fd)
            if isinstance(answer, Declined):
                reasons.setdefault(source.kind, answer.reason)
            elif answer is not None:
                if answer.verdict is not Verdict.EXACT or not (why := _unfit(base, selection)):
                    return Planned(base, answer)
                answer.close()
                reasons.setdefault(source.kind, why)
    for kind, reason in reasons.items():
        on_notice(f"{kind}: no exact list of changes ({reason}): comparing every file")
    return Planned(newest, Walk().plan(newest, snapshot, root_fd))


def _unfit(base: Point, selection: bytes) -> str:
    """Why an exact plan from this base says too little; "" when it does not."""
    if base.base_record.selection != selection:
        return "other files are left out than in the base"
    if base.base_record.volumes:
        return "the base holds other file systems, too"
    return ""
