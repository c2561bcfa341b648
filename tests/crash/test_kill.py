"""A kill before every call that changes a repository: what was published stays, the rest is gone.

I1: what is listed restores bit for bit. I2: nothing incomplete is listed. I3: an index made anew
says the same. I6: what recovers from a kill may be killed itself.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from repo.errors import NotARepository
from tests.crash import scenes
from tests.support import command, health, readback, tracer

SAMPLE = 12
"""Calls of each scene at which it is killed; all of them with --deep."""

counts = pytest.mark.parametrize(
    "count", [SAMPLE, pytest.param(0, marks=pytest.mark.deep, id="every")]
)


@counts
@pytest.mark.parametrize("make", scenes.SCENES, ids=lambda make: make.__name__)
def test_a_kill_leaves_a_healthy_repository(
    template: command.Repository, tmp_path: Path, make: scenes.Make, count: int
) -> None:
    scene = make(template, tmp_path)
    undisturbed = scene.traced(scene.fresh(tmp_path / "try"))
    assert undisturbed.status == 0
    for call in scenes.sample(undisturbed.calls, count):
        made = scene.fresh(tmp_path / "try")
        result = scene.traced(made, scenes.at(call, tracer.KILL))
        with scenes.told(f"killed before call {call.number}", result):
            assert result.status in (-9, 0)
            health.recovers(made, scene.source, kept=scene.kept)


@counts
def test_a_kill_of_init_leaves_a_repository_or_none(tmp_path: Path, count: int) -> None:
    made = command.Repository(tmp_path / "try")
    undisturbed = _init(made)
    assert undisturbed.status == 0
    for call in scenes.sample(undisturbed.calls, count):
        made = command.Repository(tmp_path / f"{call.number}")
        result = _init(made, kill_at=call.number)
        with scenes.told(f"killed before call {call.number}", result):
            assert result.status in (-9, 0)
            try:
                with readback.opened(made) as repository:
                    assert repository.points() == []
            except NotARepository:
                made.run("init", "--key-file", made.key_file)
            scenes.plant(tmp_path / "source", 1)
            health.recovers(made, tmp_path / "source")


def _init(made: command.Repository, kill_at: int = 0) -> tracer.Traced:
    made.home.mkdir(parents=True)
    return tracer.run(
        command.words("init", "--key-file", made.key_file),
        env=made.env,
        folder=made.home,
        under=[made.path.parent],
        decide=lambda call: tracer.KILL if call.number == kill_at else None,
    )
