"""Killing: a command that is killed or fails at calls of its own, and the next one that goes on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Protocol

import pytest

from tests.crash import scenes
from tests.support import command, tracer

SAMPLE = 6
"""Calls at which a command is killed; all of them with --deep."""

counts = pytest.mark.parametrize(
    "count", [SAMPLE, pytest.param(0, marks=pytest.mark.deep, id="every")]
)
few_counts = pytest.mark.parametrize(
    "count", [SAMPLE // 2, pytest.param(0, marks=pytest.mark.deep, id="every")]
)


class Subject(Protocol):
    """A command that writes into a repository, and what must hold of that."""

    @property
    def ends(self) -> int:
        """The exit status of the command when nothing happens to it."""
        ...

    def fresh(self, folder: Path) -> command.Repository:
        """A copy of the repository before the command, below a folder, which is made anew."""
        ...

    def traced(
        self, made: command.Repository, decide: tracer.Decide = lambda _call: None
    ) -> tracer.Traced:
        """The command on it, under a tracer."""
        ...

    def sound(self, made: command.Repository) -> None:
        """Check what must hold whatever happened."""
        ...

    def finish(self, made: command.Repository) -> None:
        """Run the command to its end, and check that it has done all of its work."""
        ...


def kill_at_calls(subject: Subject, folder: Path, count: int) -> None:
    """Kill it before so many of its calls (0: before each), a new one each time."""
    undisturbed = subject.traced(subject.fresh(folder / "try"))
    assert undisturbed.status == subject.ends, undisturbed.err
    for call in scenes.sample(undisturbed.calls, count):
        made = subject.fresh(folder / "try")
        result = subject.traced(made, scenes.at(call, tracer.KILL))
        with scenes.told(f"killed before call {call.number}", result):
            assert result.status in (-9, subject.ends)
            subject.sound(made)
            subject.finish(made)


def kill_again(subject: Subject, folder: Path, count: int, *, first: float) -> None:
    """Kill it after a share `first` of its calls, and the next one before so many of its own."""
    undisturbed = subject.traced(subject.fresh(folder / "try"))
    call = undisturbed.calls[round(first * (len(undisturbed.calls) - 1))]
    killed = subject.fresh(folder / "killed")
    assert subject.traced(killed, scenes.at(call, tracer.KILL)).status == -9
    again = subject.traced(_copied(folder))
    assert again.status == subject.ends
    for second in scenes.sample(again.calls, count and SAMPLE // 2):
        made = _copied(folder)
        result = subject.traced(made, scenes.at(second, tracer.KILL))
        with scenes.told(f"killed before {call.number}, then before {second.number}", result):
            subject.sound(made)
            subject.finish(made)


def _copied(folder: Path) -> command.Repository:
    shutil.rmtree(folder / "try", ignore_errors=True)
    shutil.copytree(folder / "killed", folder / "try")
    return command.Repository(folder / "try")


def fail_at_calls(
    subject: Subject, folder: Path, count: int, failure: int, *, says: str = ""
) -> None:
    """Let so many of its calls fail, one at a time: it ends with 12, saying `says`; then it works.

    failure: the errno.
    """
    undisturbed = subject.traced(subject.fresh(folder / "try"))
    for call in scenes.sample(undisturbed.calls, count):
        made = subject.fresh(folder / "try")
        met: list[str] = []

        def fail(each: tracer.Call, at: int = call.number, met: list[str] = met) -> object:
            if each.number != at:
                return None
            met.append(each.name)
            return failure

        result = subject.traced(made, fail)
        with scenes.told(f"call {call.number} failed", result):
            assert "Traceback" not in result.err
            assert "internal error" not in result.err
            # A directory that is there need not be made; threads may do with fewer calls.
            harmless = met in ([], ["mkdir"])
            assert result.status == 12 or (harmless and result.status == subject.ends)
            if result.status == 12:
                assert says in result.err
            subject.sound(made)
            subject.finish(made)
