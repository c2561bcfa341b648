"""A history: cases about many backups of one source that changes between them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from repo.types import MIB
from tools.bench.ageing import Ageing
from tools.bench.case import Run, tool_of
from tools.bench.command import Command, run
from tools.bench.contender import BackupTool, Contender, remove_tree
from tools.bench.inputs import Source
from tools.bench.measure import Meter
from tools.bench.ours import Ours

CHANGED_FILES: Final = 100
MERGED_POINTS: Final = 30
PRUNED_POINTS: Final = 20
PRUNED_TREE_BYTES: Final = 200 * MIB
PRUNED_CHANGES: Final = 600
AGED_GENERATIONS: Final = 30
AGED_TREE_BYTES: Final = 400 * MIB
AGED_CHANGES: Final = 800
STATES: Final = ("aged", "relaid", "fresh")
"""Of what is restored in the end: as it has aged, laid out anew, or stored alone."""


def _aged(
    contender: BackupTool,
    source: Source,
    versions: int,
    changes: int,
    *,
    bytes_max: int | None = None,
) -> Ageing:
    """A fresh repository with so many backups of a tree that changed before each but the first."""
    contender.begin()
    ageing = Ageing(source.path, contender.area / "ageing", bytes_max=bytes_max)
    ageing.begin()
    for version in range(versions):
        if version:
            ageing.change(changes)
        run(contender.ingest_command(ageing.top))
    return ageing


def diff(source: Source, contender: Contender, meter: Meter) -> Run:
    """What differs between two points of the whole source with 100 changes between them."""
    ours = _ours(contender)
    _aged(ours, source, 2, CHANGED_FILES)
    older, newer = ours.point_ids()
    measured = meter.run(ours.command("diff", older, newer))
    lines = len(measured.output.splitlines())
    # A renaming and what an edit does to its folder may show as more or fewer lines than changes.
    remark = "" if lines >= CHANGED_FILES // 2 else f"{lines} differences only"
    return Run(measured, files=source.census.files, remark=remark, facts={"differences": lines})


def merge(source: Source, contender: Contender, meter: Meter) -> Run:
    """A synthetic full of 30 points of the whole source with 100 changes between any two."""
    ours = _ours(contender)
    _aged(ours, source, MERGED_POINTS, CHANGED_FILES)
    before = ours.stored_bytes()
    points = ours.point_ids()
    measured = meter.run(ours.command("synth", *points))
    # Newest wins: the merged tree is the newest point's, deletions included.
    different = run(ours.command("diff", points[-1], "latest"))
    written = ours.stored_bytes() - before
    return Run(
        measured,
        files=source.census.files,
        stored_bytes=written,
        remark="the synthetic full is not the newest point" if different else "",
    )


def prune(source: Source, contender: Contender, meter: Meter) -> Run:
    """Space back after forgetting half of 20 points of a part of the source."""
    tool = tool_of(contender)
    _aged(tool, source, PRUNED_POINTS, PRUNED_CHANGES, bytes_max=PRUNED_TREE_BYTES)
    before = tool.stored_bytes()
    run(tool.forget_command(PRUNED_POINTS // 2))
    meter.settle()
    measured = meter.run(tool.prune_command())
    after = tool.stored_bytes()
    remark = "" if after < before else "no space came back"
    return Run(measured, stored_bytes=after, remark=remark, facts={"bytes_before": before})


def aged_read(source: Source, contender: Contender, meter: Meter, *, state: str) -> Run:
    """A restore of the newest of 30 generations; `state` is one of STATES."""
    ours = _ours(contender)
    ageing = _aged(ours, source, AGED_GENERATIONS, AGED_CHANGES, bytes_max=AGED_TREE_BYTES)
    if state == "relaid":
        run(ours.command("synth", "--relayout", "latest"))
    elif state == "fresh":
        kept = ours.area.with_name("aged-tree")
        remove_tree(kept)
        ageing.top.rename(kept)
        ours.begin()
        kept.rename(ageing.top)
        run(ours.ingest_command(ageing.top))
    to = ours.area / "restored"
    to.mkdir()
    meter.settle()
    measured = meter.run(ours.restore_command(ageing.top, to))
    remark = "" if _same(ageing.top, to) else "the restored tree is not the source"
    remove_tree(to)
    return Run(measured, remark=remark)


def _same(one: Path, other: Path) -> bool:
    argv = ("rsync", "-aHn", "--checksum", "-i", "--delete", f"{one}/", f"{other}/")
    return not run(Command(argv)).strip()


def _ours(contender: Contender) -> Ours:
    if not isinstance(contender, Ours):
        raise TypeError(f"{contender.name} cannot do this")
    return contender
