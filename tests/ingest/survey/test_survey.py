"""The survey: what it finds unchanged needs no job, and nothing else is called unchanged."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ingest import running
from ingest.conductor import Conductor
from ingest.job import Job
from ingest.results import Results
from ingest.survey import look as dispatch
from ingest.survey import survey as surveys
from ingest.survey.survey import Survey
from repo.errors import Damaged, Interrupted, RepositoryFailed
from repo.format.manifest import Problem
from repo.repository import Repository
from repo.tree import Tree
from tests.ingest import again
from tests.ingest.test_incremental import runs, source
from tests.support import command, loopfs, readback, tracer

__all__ = ["runs", "source"]


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The directories that a job had listed, in the order of their results."""
    paths: list[bytes] = []
    real = Results.listed

    def noted(results: Results, handle: Any, work: Any, result: Any) -> None:
        paths.append(b"/".join(work.directory.path))
        real(results, handle, work, result)

    monkeypatch.setattr(Results, "listed", noted)
    return paths


@pytest.fixture
def surveyed(monkeypatch: pytest.MonkeyPatch) -> list[Survey]:
    """The surveys that were made."""
    made: list[Survey] = []
    real = Survey.run

    def noted(survey: Survey, threads: int, on_tick: Any) -> None:
        made.append(survey)
        real(survey, threads, on_tick)

    monkeypatch.setattr(Survey, "run", noted)
    return made


def no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_job: Job) -> None:
        raise AssertionError("a job is run")

    monkeypatch.setattr(running, "run", refuse)


# -- when there is nothing to do -------------------------------------------------------------------


@pytest.mark.parametrize("streams", [1, 2, 7])
def test_an_unchanged_source_needs_no_job(
    runs: again.Runs, monkeypatch: pytest.MonkeyPatch, streams: int
) -> None:
    root = runs.newest.root
    no_job(monkeypatch)
    summary = runs.run(streams=streams)
    assert (summary.verdict, summary.change_source) == ("HINT", "walk")
    assert summary.files_reused == summary.files > 0
    assert runs.newest.root == root
    monkeypatch.undo()
    again.without_racy_guard(monkeypatch)
    assert readback.differences(runs.repository, runs.newest, runs.source) == []
    runs.right()


def test_neither_a_loop_nor_a_process_is_started_for_it(
    made: command.Repository, source: Path
) -> None:
    made.run("ingest", source)
    again.outlive_the_racy_guard(source)
    made.run("ingest", source)
    program = (
        "import subprocess, sys; from tools.cli.main import main; "
        f"status = main(['ingest', {str(source)!r}, '--streams', '2']); "
        "print(status, [name for name in ('trio', 'ingest.job') if name in sys.modules])"
    )
    words = [sys.executable, "-c", program]
    done = subprocess.run(words, env=made.env, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"


def test_no_directory_is_listed_for_it(made: command.Repository, source: Path) -> None:
    made.run("ingest", source)
    again.outlive_the_racy_guard(source)
    made.run("ingest", source)
    listed: list[str] = []
    for change in (False, True):
        if change:
            (source / "1" / "4" / "new").write_bytes(b"new")
        result = tracer.run(
            command.words("ingest", source),
            env=made.env,
            folder=made.home,
            under=[source],
            calls=frozenset({"getdents64"}),
            decide=lambda call: listed.append(os.path.relpath(call.path, source)),
        )
        assert result.status == 0
        assert set(listed) == ({".", "1", "1/4"} if change else set())


def test_several_sources_of_which_some_changed(
    runs: again.Runs, tmp_path: Path, listed: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [str(runs.source)]
    for number in range(3):
        other = tmp_path / f"other{number}"
        shutil.copytree(runs.source, other, symlinks=True)
        paths.append(str(other))
    runs.run(paths=paths)
    listed.clear()
    (tmp_path / "other1" / "1" / "1" / "new").write_bytes(b"new")
    summary = runs.run(paths=paths, streams=2)
    assert listed == [b"", b"1", b"1/1"]
    assert summary.files_reused == summary.files - 1
    assert len(summary.points) == 4
    for point, path in zip(summary.points, paths, strict=True):
        assert readback.differences(runs.repository, point, Path(path)) == []
    no_job(monkeypatch)
    assert runs.run(paths=paths).files_reused == summary.files


# -- when there is something -----------------------------------------------------------------------


def test_only_what_changed_and_what_is_above_it_is_listed(
    runs: again.Runs, listed: list[bytes]
) -> None:
    (runs.source / "1" / "4" / "small3").write_bytes(b"other")
    (runs.source / "2" / "new").mkdir()
    runs.run()
    assert set(listed) == {b"", b"1", b"1/4", b"2", b"2/new"}
    listed.clear()
    runs.right()
    assert set(listed) == {b"", *(b"%d" % n for n in range(3)), b"2/new", *folders(runs)}, (
        "the second of these runs has no base"
    )


def folders(runs: again.Runs) -> set[bytes]:
    paths = (path.relative_to(runs.source) for path in runs.source.glob("*/*") if path.is_dir())
    return {os.fsencode(path) for path in paths}


def test_what_failed_in_the_base_is_tried_again(
    runs: again.Runs, listed: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its directory shows no sign of a change: only the base's problems tell of it."""
    paths = [b"1/4/gone", b"0"]
    found = [Problem(path, "open", 13) for path in paths]
    monkeypatch.setattr(surveys, "problems_of", lambda *_: iter(found))
    runs.run()
    assert set(listed) == {b"", b"0", b"1", b"1/4"}
    listed.clear()
    found.append(Problem(b".", "xattr", 0))
    runs.run()
    assert set(listed) == {b"", b"0", b"1", b"1/4"}
    listed.clear()
    monkeypatch.setattr(surveys, "FORCED_MAX", 3)
    runs.run()
    assert set(listed) == {b"", b"0", b"1", b"2", *folders(runs)}, "too many: there is no survey"


def test_a_file_that_could_not_be_read_is_read_when_it_can_be(
    made: command.Repository, source: Path
) -> None:
    """For real: nothing of it moves when a disk is well again."""
    bad = source / "1" / "4" / "small3"
    made.run("ingest", source)
    again.outlive_the_racy_guard(source)

    def ingest(*, fails: bool) -> int:
        def decide(call: tracer.Call) -> int | None:
            return 5 if fails and call.path == str(bad) else None

        return tracer.run(
            command.words("ingest", source, "--base", "none" if fails else "auto"),
            env=made.env, folder=made.home, under=[source], calls=tracer.READING, decide=decide,
        ).status  # fmt: skip

    assert ingest(fails=True) == 3
    with readback.opened(made) as repository:
        point = repository.points()[-1]
        assert [problem.path for problem in readback.problems(repository, point)] == [b"1/4/small3"]
    assert ingest(fails=False) == 0
    with readback.opened(made) as repository:
        assert readback.differences(repository, repository.points()[-1], source) == []


def test_a_directory_that_changed_just_before_the_base_is_listed_again(
    made: command.Repository, source: Path, listed: list[bytes]
) -> None:
    """A name may have come once more within one tick of the clock, after it was listed."""
    with again.runs(made, source) as runs:
        runs.run()
        again.outlive_the_racy_guard(source)
        (source / "1" / "4" / "new").write_bytes(b"new")
        (source / "1" / "4" / "new").unlink()
        runs.run()
        listed.clear()
        runs.run()
        assert b"1/4" in listed


def test_a_damaged_node_of_the_base_is_told_and_read_anew(
    runs: again.Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = runs.repository.tree.resolve(runs.newest.root, b"1/4").node
    real = Tree.chunks, Tree.chunk, Tree.node

    def chunks(tree: Tree, ids: Any) -> Any:
        if lost in ids:
            raise Damaged("lost", where="a test")
        return real[0](tree, ids)

    def chunk(tree: Tree, chunk_id: bytes) -> Any:
        if chunk_id == lost:
            raise Damaged("lost", where="a test")
        return real[1](tree, chunk_id)

    def node(tree: Tree, directory: Any, place: Any = None) -> Any:
        if directory.node == lost:
            raise Damaged("lost", where="a test")
        return real[2](tree, directory, place)

    monkeypatch.setattr(Tree, "chunks", chunks)
    monkeypatch.setattr(Tree, "chunk", chunk)
    monkeypatch.setattr(Tree, "node", node)
    summary = runs.run()
    assert any("damaged" in text for text in runs.notices)
    monkeypatch.undo()
    assert 0 < summary.files - summary.files_reused < 10
    assert readback.differences(runs.repository, runs.newest, runs.source) == []


@pytest.mark.parametrize("total", ["entries_below", "directories_below"])
def test_a_tree_whose_totals_do_not_add_up_is_not_taken_over(
    runs: again.Runs, monkeypatch: pytest.MonkeyPatch, total: str
) -> None:
    """Its point would say the same wrong figures."""
    point = runs.newest
    root = msgspec.structs.replace(point.root, **{total: getattr(point.root, total) + 1})
    wrong = msgspec.structs.replace(point, root=root)
    monkeypatch.setattr(Repository, "points", lambda *_, **__: [wrong])
    runs.run()
    monkeypatch.undo()
    assert runs.newest.root != root
    assert readback.differences(runs.repository, runs.newest, runs.source) == []


def test_what_is_kept_of_a_survey_is_bounded(
    runs: again.Runs, listed: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surveys, "UNCHANGED_MAX", 2)
    for number in range(12):
        (runs.source / f"{number % 3}" / f"{number}" / "new").write_bytes(b"new")
    runs.right()
    for number in range(12):
        (runs.source / f"{number % 3}" / f"{number}" / "below").mkdir()
    runs.right()
    listed.clear()
    runs.run()
    assert listed == []
    (runs.source / "1" / "4" / "newer").write_bytes(b"new")
    runs.right()


def test_no_survey_where_directories_may_not_tell(
    made: command.Repository,
    source: Path,
    tmp_path: Path,
    surveyed: list[Survey],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    again.without_racy_guard(monkeypatch)
    with loopfs.overlay(source, tmp_path) as merged, again.runs(made, merged) as runs:
        runs.right()
        runs.right()
        assert surveyed == []
        runs.source = source
        runs.right()
        runs.right()
        assert len(surveyed) == 1


# -- how it ends -----------------------------------------------------------------------------------


def test_a_survey_that_fails_ends_the_run(
    runs: again.Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = len(runs.repository.points())

    def fail(*_: Any) -> Any:
        raise RepositoryFailed("cannot be read", where="a test")

    monkeypatch.setattr(Tree, "chunks", fail)
    with pytest.raises(RepositoryFailed):
        runs.run(streams=3)
    assert len(runs.repository.points()) == points
    assert [t.name for t in threading.enumerate() if t.name == "survey"] == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_it_at_once(
    runs: again.Runs, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    points = len(runs.repository.points())
    real, look = Conductor._tick, dispatch.look
    ticked = threading.Event()

    def tick(conductor: Conductor) -> None:
        real(conductor)
        ticked.set()
        os.kill(os.getpid(), number)

    def wait_and_look(*arguments: Any) -> Any:
        ticked.wait()
        return look(*arguments)

    monkeypatch.setattr(Conductor, "_tick", tick)
    monkeypatch.setattr(surveys, "look", wait_and_look)
    # In the background of a shell it would be ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            runs.run(streams=2)
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(runs.repository.points()) == points
    assert [t.name for t in threading.enumerate() if t.name == "survey"] == []


@pytest.fixture
def two_sources(runs: again.Runs, tmp_path: Path) -> list[str]:
    other = tmp_path / "other"
    shutil.copytree(runs.source, other, symlinks=True)
    paths = [str(runs.source), str(other)]
    runs.run(paths=paths)
    return paths


def test_an_interrupted_job_ends_the_survey_of_its_next_source(
    runs: again.Runs, two_sources: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A survey that would never end is one in a thread of the job."""
    (runs.source / "new").write_bytes(b"new")
    stuck = threading.Event()
    real = Survey.run

    def run(survey: Survey, threads: int, on_tick: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            return real(survey, threads, on_tick)
        os.kill(os.getpid(), signal.SIGINT)
        while True:
            stuck.wait(0.01)
            on_tick()

    monkeypatch.setattr(Survey, "run", run)
    with pytest.raises(Interrupted):
        runs.run(paths=two_sources)


def test_an_audit_of_the_survey_that_finds_a_change_begins_anew(
    runs: again.Runs, two_sources: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the first source, and in one that a running job comes to."""
    (runs.source / "new").write_bytes(b"new")
    wrong: list[str] = []
    real = Survey._audit_file

    def audit(survey: Survey, fd: int, path: bytes, entry: Any, right: Any) -> None:
        real(survey, fd, path, entry, lambda *_: False)
        wrong.append(os.fsdecode(path))

    monkeypatch.setattr(Survey, "_audit_file", audit)
    monkeypatch.setattr("ingest.audit.ONE_OF", 1)
    monkeypatch.setattr("ingest.audit._random", lambda _most: 0)
    summary = runs.run(paths=two_sources)
    assert wrong
    assert (summary.verdict, summary.files_reused) == ("FULL", 0)
    assert [point.base_record.distrusted for point in summary.points] == [("walk",)] * 2
    assert sum("AUDIT" in text for text in runs.notices) == 2
