"""Unfinished runs: what they have read is kept, can be looked at, and is not read again."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from ingest.base import UNFINISHED_STEP
from ingest.outcome import Outcome
from ingest.saver import Saver
from repo.format.manifest import Point
from repo.format.node import Entry
from repo.points import write_point
from repo.repository import Repository
from repo.types import KIB, MIB, Kind
from tests.ingest import again
from tests.support import command, readback, tracer

FOLDERS = 40
EACH = 900 * KIB


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Folders with 35 MiB between them: reading them takes longer than some checkpoints."""
    top = tmp_path / "source"
    for number in range(FOLDERS):
        folder = top / f"{number % 4}" / f"{number:02}"
        folder.mkdir(parents=True)
        rng = random.Random(number)
        (folder / "large").write_bytes(rng.randbytes(EACH))
        for small in range(3):
            (folder / f"small{small}").write_bytes(rng.randbytes(300))
    return top


def killed(made: command.Repository, source: Path, checkpoints: int) -> None:
    """Ingest in a process that dies behind the checkpoint of that number."""
    words = [sys.executable, "-m", "tests.ingest.killed_child"]
    words += [str(made.path), str(made.key_file), str(source), str(checkpoints)]
    done = subprocess.run(words, env=made.env, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


def only(repository: Repository) -> Point:
    (point,) = repository.unfinished()
    return point


@pytest.fixture
def resuming(
    made: command.Repository, source: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[again.Runs]:
    """Runs over the source, the first of which is killed: by the test, before it looks."""
    again.without_racy_guard(monkeypatch)
    with again.runs(made, source) as runs:
        yield runs


@pytest.mark.parametrize("checkpoints", [1, 3, 6])
def test_a_killed_first_run_is_not_read_again(
    made: command.Repository, resuming: again.Runs, checkpoints: int
) -> None:
    killed(made, resuming.source, checkpoints)
    repository = resuming.repository
    assert repository.points() == []
    unfinished = only(repository)
    assert unfinished.root.bytes_below > 0
    held = readback.content(repository, unfinished)
    for path, found in held.items():
        assert path == b"" or (resuming.source / os.fsdecode(path).lstrip("/")).exists(), found
    summary = resuming.run()
    total = summary.bytes_source
    assert summary.bytes_read <= total - unfinished.root.bytes_below
    assert summary.files_reused >= unfinished.root.entries_below - 2 * FOLDERS
    assert any("resuming" in text for text in resuming.notices)
    assert readback.differences(repository, summary.points[0], resuming.source) == []
    assert repository.unfinished() == [], "it is dropped when its source is complete"
    assert resuming.right().bytes_read == 0


def test_runs_that_are_killed_one_after_the_other_get_on(
    made: command.Repository, resuming: again.Runs
) -> None:
    below = []
    for _ in range(3):
        killed(made, resuming.source, 2)
        points = resuming.repository.unfinished()
        below.append(sum(point.statistics.bytes_read for point in points))
    assert below[0] < below[1] < below[2]
    summary = resuming.right()
    assert summary.bytes_read <= summary.bytes_source - below[1]
    assert resuming.repository.unfinished() == []


def test_a_run_behind_a_complete_one_resumes_too(
    made: command.Repository, resuming: again.Runs
) -> None:
    resuming.right()
    for number in range(0, FOLDERS, 2):
        folder = resuming.source / f"{number % 4}" / f"{number:02}"
        (folder / "large").write_bytes(random.Random(-number).randbytes(EACH))
    killed(made, resuming.source, 2)
    read = only(resuming.repository).statistics.bytes_read
    assert read > 0
    changed = resuming.source / "3" / "03" / "large"
    changed.write_bytes(b"changed while nobody looked")
    summary = resuming.right()
    assert summary.bytes_read <= FOLDERS // 2 * EACH + len(b"changed while nobody looked") - read


def test_what_changed_meanwhile_is_read(made: command.Repository, resuming: again.Runs) -> None:
    """The checkpoint is a base like any other."""
    killed(made, resuming.source, 4)
    tops = sorted(resuming.source.glob("*/*"))
    for number, folder in enumerate(tops):
        match number % 5:
            case 0:
                (folder / "large").write_bytes(b"other")
            case 1:
                shutil.rmtree(folder)
            case 2:
                folder.rename(resuming.source / f"moved{number}")
            case 3:
                (folder / "small1").rename(folder / "new")
    resuming.right()


def test_a_large_file_goes_on_where_it_was(made: command.Repository, resuming: again.Runs) -> None:
    large = resuming.source / "large"
    size = 20 * 64 * MIB
    with large.open("wb") as file:
        for start in range(0, size, 64 * MIB):
            file.seek(start)
            file.write(random.Random(start).randbytes(2 * MIB))
        file.truncate(size)
    whole = large.stat().st_blocks * 512
    for folder in "0123":
        shutil.rmtree(resuming.source / folder)
    killed(made, resuming.source, 3)
    unfinished = only(resuming.repository)
    (problem,) = readback.problems(resuming.repository, unfinished)
    assert (problem.path, problem.step) == (b"large", UNFINISHED_STEP)
    assert unfinished.problems_total == 1
    held = resuming.repository.tree.lookup(unfinished.root, b"large")
    assert held is not None
    assert 0 < held.size < size
    summary = resuming.right()
    begun = held.size // (64 * MIB) * 2 * MIB
    assert summary.bytes_read <= whole - begun
    large.open("ab").close()
    os.utime(large)
    assert resuming.right().bytes_read >= 40 * MIB, "only the very same file goes on"


def test_an_interrupted_run_is_kept_without_waiting_for_a_checkpoint(
    made: command.Repository, resuming: again.Runs
) -> None:
    read: list[str] = []
    masters: list[int] = []

    def decide(call: tracer.Call) -> None:
        masters.extend([call.process] * call.first)  # it opens the source, workers read it
        if call.path not in read:
            read.append(call.path)
            if len(read) == 100:
                os.kill(masters[0], signal.SIGINT)

    again.outlive_the_racy_guard(resuming.source)
    result = tracer.run(
        command.words("ingest", resuming.source, "--streams", "2"),
        env=made.env,
        folder=made.home,
        under=[resuming.source],
        calls=tracer.READING,
        decide=decide,
    )
    assert result.status == 130
    below = only(resuming.repository).root.bytes_below
    assert below > 0
    summary = resuming.right()
    assert summary.bytes_read <= summary.bytes_source - below


def test_none_as_base_reads_everything_and_drops_what_was_left(
    made: command.Repository, resuming: again.Runs
) -> None:
    killed(made, resuming.source, 2)
    summary = resuming.run(base="none")
    assert summary.bytes_read == summary.bytes_source
    assert resuming.repository.unfinished() == []


def test_a_leftover_of_a_point_is_swept(made: command.Repository, resuming: again.Runs) -> None:
    """Its run died between publishing the point and dropping the checkpoint."""
    resuming.right()
    repository = resuming.repository
    point = msgspec.structs.replace(resuming.newest, unfinished=True)
    write_point(repository.folder, repository.keys, repository.header, point)
    repository.recover()
    assert repository.unfinished() == []
    assert len(repository.points()) == 1


def test_an_unfinished_point_for_a_user(
    made: command.Repository, source: Path, tmp_path: Path
) -> None:
    assert made.run("points", "--unfinished").status == 0
    killed(made, source, 4)
    with readback.opened(made) as repository:
        unfinished = only(repository)
        files = [e for e in _files(repository, unfinished) if e.kind == Kind.FILE]
    name = unfinished.id.hex()[:8]
    assert made.run("points", "--json").events() == []
    (listed,) = made.run("points", "--unfinished", "--json").events()
    assert (listed["point"], listed["unfinished"]) == (unfinished.id.hex(), True)
    assert "unfinished" in made.run("show", name).out
    assert "unfinished" in made.run("ls", name).err
    restored = made.run("restore", name, "--to", tmp_path / "restored")
    assert (restored.status, "unfinished" in restored.err) == (0, True)
    back = [path for path in (tmp_path / "restored").rglob("*") if path.is_file()]
    assert len(back) == len(files) > 0
    for path in back:
        same = source / path.relative_to(tmp_path / "restored")
        assert path.read_bytes() == same.read_bytes()
    verified = made.run("verify")
    assert "1 unfinished run" in verified.out
    assert "no such point" in made.run("pin", name, status=2).err


def test_an_unfinished_run_is_dropped_by_name(made: command.Repository, source: Path) -> None:
    killed(made, source, 2)
    (listed,) = made.run("points", "--unfinished", "--json").events()
    name = listed["point"]
    assert "Would drop 1 unfinished run" in made.run("forget", name[:8], "--dry-run").out
    (path,) = made.path.glob("points/*.unfinished")
    path.write_bytes(path.read_bytes()[:-1])  # a damaged one keeps garbage collection from its work
    assert made.run("gc", status=4).err
    assert made.run("verify", status=4).out
    assert made.run("forget", name[:8]).out == "Dropped 1 unfinished run.\n"
    assert made.run("points", "--unfinished", "--json").events() == []
    assert "no such point" in made.run("forget", name[:8], status=2).err
    assert made.run("verify").status == 0
    assert made.run("gc").status == 0


def _files(repository: Repository, point: Point) -> Iterator[Entry]:
    pending = [point.root]
    while pending:
        for entry in repository.tree.entries(pending.pop()):
            yield entry
            if entry.node:
                pending.append(entry)


def test_commits_of_the_index_put_no_checkpoint_off(
    resuming: again.Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both come every 5 s, the commit a little earlier: once, it counted for the checkpoint, which
    never came, so that a killed first run was read again as a whole.
    """
    monkeypatch.setattr("repo.writer.COMMIT_SECONDS", 0.3)
    # A worker process would not be slow.
    monkeypatch.setattr("ingest.dispatcher.THREAD_TASKS", 1_000_000)
    real = Saver._file
    kept: list[int] = []

    def slow(self: Saver, dirfd: int, name: bytes) -> Outcome:
        time.sleep(0.01)
        kept.append(len(list((resuming.repository.path / "points").glob("*.unfinished"))))
        return real(self, dirfd, name)

    monkeypatch.setattr(Saver, "_file", slow)
    resuming.run(checkpoint_seconds=0.45)
    assert any(kept), "nothing was kept while it ran"
