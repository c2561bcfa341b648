"""An exact plan: what it does not name is not looked at, and the point is right all the same.

The plan here is an oracle: it looks at everything itself, before and after. What a real change
source answers is tested on its file system.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import ingest.descent
import ingest.foundation
from ingest.changes import registry
from ingest.changes.changesource import Changes, ChangeSource, Declined, Plan, Range, Verdict
from ingest.session import IngestSummary
from ingest.snapshots.snapshot import Snapshot
from repo.format import limits
from repo.format.manifest import Point
from repo.format.node import Entry
from repo.types import KIB, MIB
from tests.ingest import again
from tests.ingest.test_incremental import CHANGES, source
from tests.support import command, need

__all__ = ["source"]


class Seen(NamedTuple):
    """An inode as it was: all that stat tells but the time of access, and its names."""

    status: tuple[int, ...]
    names: tuple[str, ...]


def look(top: Path) -> tuple[dict[int, Seen], dict[int, set[tuple[int, str]]]]:
    """All inodes below a directory, and for each its places: (inode of the directory, name)."""
    seen: dict[int, Seen] = {}
    places: dict[int, set[tuple[int, str]]] = {}
    for folder, below, files, fd in os.fwalk(top):
        here = os.fstat(fd)
        seen[here.st_ino] = Seen(_status(here), tuple(sorted([*below, *files])))
        for name in [*below, *files]:
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            seen.setdefault(status.st_ino, Seen(_status(status), ()))
            places.setdefault(status.st_ino, set()).add((here.st_ino, name))
        del folder
    return seen, places


def _status(found: os.stat_result) -> tuple[int, ...]:
    return (
        found.st_mode, found.st_nlink, found.st_uid, found.st_gid, found.st_size,
        found.st_mtime_ns, found.st_ctime_ns, found.st_rdev,
    )  # fmt: skip


class Oracle:
    """Knows what changed between two looks at a directory."""

    kind = "oracle"
    verdict = Verdict.EXACT

    def __init__(self, top: Path) -> None:
        self._top = top
        self.states: dict[bytes, dict[int, Seen]] = {}  # by the id of a point
        self._changes: dict[int, tuple[set[bytes], bool]] = {}
        self.asked: list[int] = []
        self.known: list[Range] | None = None

    def plan(self, base: Point, snapshot: Snapshot, root_fd: int) -> Plan | Declined | None:
        if base.id not in self.states:
            return Declined("its state was not looked at")
        now, places = look(self._top)
        self._changes = {}
        before = self.states[base.id]
        changed = [i for i, seen in now.items() if before.get(i) != seen]
        for inode in changed:
            if now[inode].names or os.path.isdir(f"/proc/self/fd/{root_fd}"):
                self._changes.setdefault(inode, (set(), False))
            self._changes[inode] = (self._changes[inode][0], True)
            pending = [inode]
            while pending:
                for above, name in places.get(pending.pop(), ()):
                    names, _ = self._changes.setdefault(above, (set(), False))
                    if name.encode() not in names:
                        names.add(name.encode())
                        pending.append(above)
        return self

    def changes_in(self, inode: int) -> Changes | None:
        self.asked.append(inode)
        found = self._changes.get(inode)
        return None if found is None else Changes(frozenset(found[0]), found[1])

    def ranges(self, base_inode: int, inode: int, size: int) -> list[Range] | None:
        return self.known

    def close(self) -> None:
        pass


class ExactRuns(again.Runs):
    """Runs that an oracle answers for."""

    oracle: Oracle

    def run(self, **request: Any) -> IngestSummary:
        """Ingest; the oracle notes the state that the point has."""
        state, _ = look(self.source)
        summary = super().run(**request)
        self.oracle.states |= {point.id: state for point in summary.points}
        return summary


@pytest.fixture
def runs(
    made: command.Repository, source: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ExactRuns]:
    """Runs over the source, of which the first is done."""
    need.root()
    again.without_racy_guard(monkeypatch)
    oracle = Oracle(source)
    sources: list[ChangeSource] = [oracle]

    def plan_for(*arguments: object, **options: object) -> registry.Planned | None:
        return registry.plan_for(*arguments, change_sources=sources, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(ingest.foundation, "plan_for", plan_for)
    with again.runs(made, source) as made_runs:
        runs = ExactRuns(made_runs.repository, source)
        runs.oracle = oracle
        assert runs.right().verdict == "FULL"
        yield runs


def test_nothing_changed(runs: ExactRuns, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest.descent, "EXACT_AUDITS_MAX", 0)
    root = runs.newest.root
    summary = runs.right()
    assert (summary.verdict, summary.change_source) == ("EXACT", "oracle")
    assert (summary.files_reused, summary.bytes_stored) == (summary.files, 0)
    assert runs.newest.root == root
    assert runs.oracle.asked == [runs.source.stat().st_ino], "only the root was asked for"


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_seen(runs: ExactRuns, name: str) -> None:
    CHANGES[name](runs.source / "1" / "4")
    summary = runs.right()
    assert summary.verdict == "EXACT"
    assert summary.files_reused >= summary.files - 7


def test_many_changes_run_after_run(runs: ExactRuns) -> None:
    rng = random.Random(5)
    for round_ in range(25):
        folders = [path for path in sorted(runs.source.glob("*/*")) if path.is_dir()]
        for _ in range(rng.randrange(4)):
            try:
                CHANGES[rng.choice(list(CHANGES))](rng.choice(folders))
            except (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError):
                continue
        if round_ % 3 == 0:
            move = rng.choice(folders)
            to = rng.choice([runs.source, *folders]) / f"moved{round_}"
            if move.exists() and to.parent.exists() and move not in to.parents:
                move.rename(to)
        assert runs.right(streams=1 + round_ % 2).verdict == "EXACT"


@pytest.mark.parametrize("to", ["moved", "2/moved", "new/below/moved"])
def test_a_moved_directory_is_not_read_again(runs: ExactRuns, to: str) -> None:
    (runs.source / to).parent.mkdir(parents=True, exist_ok=True)
    (runs.source / "1" / "4").rename(runs.source / to)
    (runs.source / "0").rename(runs.source / "zero")
    summary = runs.right()
    assert (summary.bytes_read, summary.files_reused) == (0, summary.files)


def test_a_directory_of_pages_is_looked_at_page_by_page(runs: ExactRuns) -> None:
    many = runs.source / "many"
    many.mkdir()
    for number in range(2 * limits.PAGE_ENTRIES_MAX + 500):
        (many / f"{number:05}").write_bytes(b"%d" % (number // 7))
    (many / "folder").mkdir()
    runs.right()
    with (many / "05000").open("r+b") as file:
        file.write(b"other")
    (many / "folder" / "below").touch()
    summary = runs.right()
    assert summary.bytes_read == (many / "05000").stat().st_size
    (many / "05000").unlink()
    runs.right()
    os.utime(many / "folder")
    assert runs.right().bytes_stored > 0


def held_now(runs: ExactRuns) -> Entry:
    return runs.repository.tree.resolve(runs.newest.root, b"1/4")


def test_changed_names_that_are_left_out(runs: ExactRuns) -> None:
    first = runs.newest
    runs.run(exclude=["small1", "folder"])
    (runs.source / "1" / "4" / "folder").mkdir()
    runs.run(exclude=["small1", "folder"])
    with (runs.source / "1" / "4" / "small1").open("ab") as file:
        file.write(b"more")
    (runs.source / "1" / "4" / "folder" / "below").touch()
    summary = runs.run(exclude=["small1", "folder"])
    assert (summary.verdict, summary.bytes_read) == ("EXACT", 0)
    names = {entry.name for entry in runs.repository.tree.entries(held_now(runs))}
    assert names == {b"large", b"small0", b"small2", b"small3", b"link"}
    summary = runs.right()
    assert (summary.verdict, runs.newest.base) == ("EXACT", first.id), "chosen by the same rules"
    runs.run(exclude=["small2"])
    assert runs.newest.verdict == "HINT", "no base was: nothing exact can be said of small1"
    assert any("other files are left out" in text for text in runs.notices)
    assert b"small1" in {entry.name for entry in runs.repository.tree.entries(held_now(runs))}


def test_only_changed_ranges_of_a_large_file_are_read(runs: ExactRuns) -> None:
    large = runs.source / "large"
    large.write_bytes(random.Random(7).randbytes(72 * MIB))
    runs.right()
    with large.open("r+b") as file:
        file.seek(30 * MIB + 5)
        file.write(bytes(10))
        file.seek(0, os.SEEK_END)
        file.write(bytes(100))
    size = 72 * MIB + 100
    runs.oracle.known = [
        Range(30 * MIB, 30 * MIB + 4 * KIB),
        Range(72 * MIB, size),
    ]
    summary = runs.right()
    assert 0 < summary.bytes_read < 4 * KIB + 100 + 4 * MIB
    runs.oracle.known = []
    os.utime(large)
    assert runs.right().bytes_read == 0
    with large.open("r+b") as file:
        file.truncate(66 * MIB + 3)
    assert runs.right().bytes_read < 2 * MIB
    runs.oracle.known = None
    os.utime(large)
    assert runs.right().bytes_read == 66 * MIB + 3
