"""Errors and short writes at every call on a repository's files: told, stopped at, recovered from.

I5: a failure of the repository means a non-zero exit; and what is listed then is complete.
"""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from tests.crash import scenes
from tests.support import command, health, tracer
from tests.support.tracer import Call

SAMPLE = 3
"""Calls of each scene that fail; all of them with --deep."""

FAILURES = {"EIO": errno.EIO, "ENOSPC": errno.ENOSPC, "short": tracer.HALF}
NEXT_STEPS = {"EIO": "check the disk", "ENOSPC": "free space"}


@pytest.mark.parametrize("count", [SAMPLE, pytest.param(0, marks=pytest.mark.deep, id="every")])
@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("make", scenes.SCENES, ids=lambda make: make.__name__)
def test_a_failing_repository_stops_the_command_and_stays_healthy(
    template: command.Repository, tmp_path: Path, make: scenes.Make, failure: str, count: int
) -> None:
    scene = make(template, tmp_path)
    undisturbed = scene.traced(scene.fresh(tmp_path / "try")).calls
    if failure == "short":
        undisturbed = [call for call in undisturbed if "write" in call.name]
    for call in scenes.sample(undisturbed, count):
        made = scene.fresh(tmp_path / "try")
        met: list[Call] = []

        def fail(each: Call, at: int = call.number, met: list[Call] = met) -> object:
            if each.number != at:
                return None
            met.append(each)
            return FAILURES[failure]

        result = scene.traced(made, fail)
        with scenes.told(f"call {met} failed", result):
            assert "Traceback" not in result.err
            assert "internal error" not in result.err
            # A directory that is there need not be made, and the rest of a write follows.
            harmless = not met or met[0].name == "mkdir" or failure == "short"
            assert result.status == 12 or (harmless and result.status == 0)
            if result.status == 12 and failure != "short":
                assert NEXT_STEPS[failure] in result.err
            health.recovers(made, scene.source, kept=scene.kept)


@pytest.mark.parametrize("count", [5, pytest.param(0, marks=pytest.mark.deep, id="every")])
@pytest.mark.parametrize(
    "make", [scenes.after_a_kill, scenes.rebuilding], ids=lambda make: make.__name__
)
def test_a_repository_that_cannot_be_read_for_a_moment(
    template: command.Repository, tmp_path: Path, make: scenes.Make, count: int
) -> None:
    scene = make(template, tmp_path)

    def reading(made: command.Repository, decide: tracer.Decide) -> tracer.Traced:
        return tracer.run(
            scene.words(made),
            env=made.env,
            folder=made.home,
            under=[made.path],
            calls=tracer.READING,
            decide=decide,
        )

    undisturbed = reading(scene.fresh(tmp_path / "try"), lambda _call: None)
    for call in scenes.sample(undisturbed.calls, count):
        made = scene.fresh(tmp_path / "try")
        result = reading(made, scenes.at(call, errno.EIO))
        with scenes.told(f"{call} failed", result):
            assert result.status in (0, 4, 12)
            assert "internal error" not in result.err
            if result.status == 0 and "/segments/" in call.path:
                assert "Input/output error" in result.err, "it goes on, but says so"
            health.recovers(made, scene.source, kept=scene.kept)
