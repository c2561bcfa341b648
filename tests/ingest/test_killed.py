"""Interrupts and kills, of the master and of its workers, at chosen moments of real commands."""

from __future__ import annotations

import os
import random
import shutil
import signal
from pathlib import Path

import pytest

from ingest.planner import TRIES_MAX
from repo.types import KIB
from tests.support import command, health, readback, tracer
from tests.support.tracer import Call, Traced

FOLDERS = 60


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree with enough to do for two workers: 60 directories, 7 MiB, some of it twice."""
    top = tmp_path_factory.mktemp("source")
    for number in range(FOLDERS):
        folder = top / f"{number}"
        (folder / "empty").mkdir(parents=True)
        (folder / "below").mkdir()
        rng = random.Random(number % 40)
        (folder / "large").write_bytes(rng.randbytes(120 * KIB))
        for small in range(3):
            (folder / "below" / f"small{small}").write_bytes(rng.randbytes(300 * small))
    return top


@pytest.fixture(scope="module")
def undisturbed(
    template: command.Repository, source: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Traced, int]:
    """The calls of an ingest that nothing happens to, and the bytes that it stores."""
    from tests.support.template import copy

    made = copy(template, tmp_path_factory.mktemp("undisturbed") / "made")
    result = traced(made, source, lambda _call: None)
    assert result.status == 0
    with readback.opened(made) as repository:
        return result, health.stored_bytes(repository)


def traced(made: command.Repository, source: Path, decide: tracer.Decide) -> Traced:
    """Ingest under a tracer that asks at the calls that change the repository."""
    return tracer.run(
        command.words("ingest", source, "--streams", "2"),
        env=made.env,
        folder=made.home,
        under=[made.path],
        decide=decide,
    )


def traced_workers(made: command.Repository, source: Path, decide: tracer.Decide) -> Traced:
    """Ingest under a tracer that asks at what worker processes read and send.

    The worker that is a thread of the master waits at its first file until they are at work: it
    would do everything before they have started.
    """

    def hold(call: Call) -> object:
        if not call.first:
            decide(call)
            return tracer.RELEASE if call.name != "sendto" else None
        return None if call.name == "sendto" or released(call) else tracer.HOLD

    working: list[Call] = []

    def released(call: Call) -> bool:
        return bool(working) or call.path == str(source)

    def watched(call: Call) -> object:
        answer = hold(call)
        if answer is tracer.RELEASE:
            working.append(call)
        return answer

    return tracer.run(
        command.words("ingest", source, "--streams", "2"),
        env=made.env,
        folder=made.home,
        under=["socket:", source],
        calls=tracer.READING | tracer.SENDING,
        decide=watched,
    )


def moments(total: int, count: int, seed: int) -> list[int]:
    """Some of the calls, spread over all of them and never the same."""
    step = total / count
    rng = random.Random(seed)
    return [int(step * place + rng.random() * step) + 1 for place in range(count)]


# -- interrupts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", range(4))
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_an_interrupt_keeps_what_was_stored(
    made: command.Repository,
    source: Path,
    undisturbed: tuple[Traced, int],
    number: signal.Signals,
    moment: int,
) -> None:
    whole, stored = undisturbed
    # From the first frame on: the preparations of the index come before.
    first = next(call.number for call in whole.calls if call.name.startswith("pwritev"))
    at = first + moments(len(whole.calls) - first, 4, number)[moment]

    def decide(call: Call) -> None:
        if call.number == at:
            os.kill(call.process, number)

    result = traced(made, source, decide)
    assert result.status in (130, 0), result
    assert "Traceback" not in result.err
    if result.status == 130:
        assert "interrupted" in result.err
    with readback.opened(made) as repository:
        before = health.stored_bytes(repository)
        assert not [call for call in repository.folder.segments() if call[1]], "all are closed"
    again = made.run("ingest", source, "--json").summary()
    assert again["bytes_stored"] < stored - before + 64 * KIB, "only the rest is stored"
    health.recovers(made, source)


@pytest.mark.parametrize("moment", range(3))
def test_two_interrupts_stop_at_once(
    made: command.Repository, source: Path, undisturbed: tuple[Traced, int], moment: int
) -> None:
    at = moments(len(undisturbed[0].calls), 3, 2)[moment]

    def decide(call: Call) -> None:
        if call.number in (at, at + 1):
            os.kill(call.process, signal.SIGINT)

    result = traced(made, source, decide)
    assert result.status in (130, 0), result
    assert "Traceback" not in result.err
    health.recovers(made, source)


def test_an_interrupt_does_not_wait_for_a_large_directory(
    made: command.Repository, tmp_path: Path
) -> None:
    """What a worker holds may take hours: it stops within what it has claimed."""
    source = tmp_path / "source"
    source.mkdir()
    for number in range(60):
        (source / f"{number:02}").write_bytes(random.Random(number).randbytes(1000 * KIB))
    read: list[str] = []

    def decide(call: Call) -> None:
        if call.path not in read:
            read.append(call.path)
            if len(read) == 10:
                os.kill(call.process, signal.SIGINT)

    result = tracer.run(
        command.words("ingest", source),
        env=made.env,
        folder=made.home,
        under=[source],
        calls=tracer.READING,
        decide=decide,
    )
    assert result.status == 130
    assert len([path for path in read if path != str(source)]) < 30
    with readback.opened(made) as repository:
        assert repository.places.count() >= 8
    health.recovers(made, source)


# -- kills ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", range(4))
def test_a_killed_master_leaves_a_healthy_repository_and_no_workers(
    made: command.Repository, source: Path, undisturbed: tuple[Traced, int], moment: int
) -> None:
    at = moments(len(undisturbed[0].calls), 4, 3)[moment]
    result = traced(made, source, lambda call: tracer.KILL if call.number == at else None)
    assert result.status in (-signal.SIGKILL, 0)
    # The tracer has waited for all processes of the command: none is left.
    health.recovers(made, source)


def complete_in_spite_of(
    made: command.Repository, source: Path, result: Traced, killed: list[int]
) -> None:
    assert killed, "nothing was tested"
    assert (result.status, result.err) == (0, ""), killed
    with readback.opened(made) as repository:
        (point,) = repository.points()
        assert readback.differences(repository, point, source) == []
        assert point.problems_total == 0
    health.recovers(made, source)


@pytest.mark.parametrize("moment", range(4))
def test_a_killed_worker_costs_its_current_tasks_only(
    made: command.Repository, source: Path, moment: int
) -> None:
    """Killed while it reads."""
    rng = random.Random(moment)
    at = rng.randrange(1, 80)
    killed: list[int] = []
    read: list[Call] = []

    def decide(call: Call) -> None:
        if call.name != "sendto":
            read.append(call)
            if len(read) == at:
                killed.append(call.process)
                os.kill(call.process, signal.SIGKILL)

    result = traced_workers(made, source, decide)
    complete_in_spite_of(made, source, result, killed)


@pytest.mark.parametrize(
    "at",
    [pytest.param(at, marks=pytest.mark.deep) if at > 5 and at % 5 else at for at in range(1, 31)],
)
def test_a_worker_killed_before_it_sends_a_message(
    made: command.Repository, source: Path, at: int
) -> None:
    """Each message is a promise that the master builds on, or no more than that."""
    killed: list[int] = []
    sent: list[Call] = []

    def decide(call: Call) -> None:
        if call.name == "sendto":
            sent.append(call)
            if len(sent) == at:
                killed.append(call.process)
                os.kill(call.process, signal.SIGKILL)

    result = traced_workers(made, source, decide)
    complete_in_spite_of(made, source, result, killed)


@pytest.mark.parametrize("after_sends", [0, 1, 2])
@pytest.mark.parametrize("entry", ["0100", pytest.param("4500", marks=pytest.mark.deep)])
def test_a_worker_killed_over_a_directory_of_pages(
    made: command.Repository, tmp_path: Path, entry: str, after_sends: int
) -> None:
    """What it had saved of the directory is saved again, in the order that look-ups rely on."""
    source = tmp_path / "source"
    for number in range(20):
        (source / f"{number}").mkdir(parents=True)
        (source / f"{number}" / "file").touch()
    many = source / "0many"  # a low name comes late: the worker that is a thread has others then
    many.mkdir()
    for number in range(5000):
        (many / f"{number:04}").write_bytes(b"%d" % (number // 2))
    killed: list[int] = []
    reading: list[int] = []
    sent: list[Call] = []

    def decide(call: Call) -> None:
        if call.path == str(many / entry) and not killed:
            reading.append(call.process)
        if call.process in reading:
            sent.extend([call] * (call.name == "sendto"))
            if len(sent) == after_sends and not killed:
                killed.append(call.process)
                os.kill(call.process, signal.SIGKILL)

    result = traced_workers(made, source, decide)
    complete_in_spite_of(made, source, result, killed)


@pytest.mark.parametrize("each", [3, 7])
def test_workers_that_die_one_after_another(
    made: command.Repository, source: Path, each: int
) -> None:
    killed: list[int] = []
    sent: list[Call] = []

    def decide(call: Call) -> None:
        if call.name == "sendto":
            sent.append(call)
            if len(sent) % each == 0 and len(killed) < TRIES_MAX - 1:  # one more may be blamed
                killed.append(call.process)
                os.kill(call.process, signal.SIGKILL)

    result = traced_workers(made, source, decide)
    complete_in_spite_of(made, source, result, killed)


def test_a_file_that_kills_every_worker_is_a_problem_and_nothing_more(
    made: command.Repository, tmp_path: Path, source: Path
) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(source, tree)
    poisoned = tree / "0" / "below" / "poison"
    poisoned.write_bytes(b"what a worker does not survive")
    killed: list[int] = []

    def decide(call: Call) -> None:
        if call.path == str(poisoned):
            killed.append(call.process)
            os.kill(call.process, signal.SIGKILL)

    result = traced_workers(made, tree, decide)
    assert len(killed) in (TRIES_MAX, TRIES_MAX + 1), "the first may have held other tasks too"
    assert result.status == 3, result
    with readback.opened(made) as repository:
        (point,) = repository.points()
        held = readback.content(repository, point)
        (problem,) = readback.problems(repository, point)
        assert problem.path == b"0/below"
        assert "workers died over it" in problem.detail
        assert b"/0/large" in held
        assert len(held) == FOLDERS * (1 + 1 + 1 + 1 + 3) + 1 - 4, "all but that directory"
    health.recovers(made, tree, kept=[held])
