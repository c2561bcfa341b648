"""An increment: cases about one more backup of a btrfs subvolume of which little has changed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Final

from tools.bench.case import Case, Run, tool_of
from tools.bench.command import run
from tools.bench.contender import Contender
from tools.bench.manyfiles import ManyFiles
from tools.bench.measure import Meter
from tools.bench.volume import btrfs_volume
from tools.cli import human

CHANGED_FILES: Final = 100
LARGER: Final = 10
"""The second tree holds so many times the files of the first."""
MOVED_SHARE: Final = 10
"""One of so many files lies in the folder that is moved."""

Change = Callable[[ManyFiles], int]
"""Changes a tree; the bytes of the files that changed."""


class Increment:
    """Trees of one kind, one for each contender: made when its turn comes first, and backed up
    twice; then changed and backed up again at every turn.
    """

    def __init__(self, files: int, change: Change, *, moved_files: int = 0) -> None:
        self._files = files
        self._change = change
        self._moved_files = moved_files
        self._trees: dict[str, ManyFiles] = {}
        self._stack = ExitStack()

    def attempt(self, contender: Contender, meter: Meter) -> Run:
        """Change the tree, and measure its next backup."""
        tool = tool_of(contender)
        tree = self._trees.get(contender.name)
        if tree is None:
            tree = self._trees[contender.name] = self._begin(contender)
        changed_bytes = self._change(tree)
        meter.settle()
        measured = meter.run(tool.ingest_command(tree.top))
        facts = tool.facts(measured.output)
        return Run(
            measured,
            files=tree.files,
            stored_bytes=tool.stored_bytes(),
            facts=facts | {"bytes_changed": changed_bytes},
            words=_words(facts, changed_bytes),
        )

    def _begin(self, contender: Contender) -> ManyFiles:
        tool = tool_of(contender)
        tool.begin()
        folder = contender.area.with_name(f"{contender.name}-volume")
        files = self._files + self._moved_files
        live = self._stack.enter_context(btrfs_volume(folder, files=files))
        tree = ManyFiles(live / "tree", self._files, moved_files=self._moved_files)
        tree.begin()
        run(tool.ingest_command(tree.top))
        # The first increment finds more of what is cold than those behind it.
        self._change(tree)
        run(tool.ingest_command(tree.top))
        return tree

    def close(self) -> None:
        """Remove the trees."""
        self._trees.clear()
        self._stack.close()


def _words(facts: dict[str, object], changed_bytes: int) -> str:
    """What the program itself said of its work; empty where it said nothing."""
    if "plan_seconds" not in facts:
        return ""
    plan_ms = 1000 * float(str(facts["plan_seconds"]))
    read = human.size(int(str(facts["bytes_read"])))
    return (
        f"{facts['verdict']}, plan {plan_ms:.0f} ms, {read} read where {human.size(changed_bytes)} "
        f"changed, {facts['files_audited']} files audited besides"
    )


def _edit(tree: ManyFiles) -> int:
    return tree.edit(CHANGED_FILES)


def _move(tree: ManyFiles) -> int:
    tree.move()
    return 0


def increment_cases(files: int) -> list[Case]:
    """100 changes in so many files, and in ten times as many."""
    return [_case(f"increment {n:,}", Increment(n, _edit)) for n in (files, LARGER * files)]


def move_cases(files: int) -> list[Case]:
    """A folder with a tenth of the files under a new name in another place."""
    moved = files // MOVED_SHARE
    return [_case(f"move {moved:,}", Increment(files, _move, moved_files=moved))]


def _case(name: str, increment: Increment) -> Case:
    return Case(name, increment.attempt, needs_repository=True, end=increment.close)
