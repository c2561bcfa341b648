"""A kill before every call of a synthesis that changes a repository, and of the one after it.

What it was made from stays as it was; the new point is there whole or not at all; the next
synthesis, which recovers, may be killed as well.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from repo.repository import Repository
from tests.crash import scenes
from tests.support import command, health, readback, tracer
from tests.support.template import copy

SAMPLE = 10
"""Calls at which it is killed; all of them with --deep."""


@pytest.fixture
def scene(template: command.Repository, tmp_path: Path) -> scenes.Scene:
    """A repository with the points of two sources, of which one tree is to be made."""
    original = copy(template, tmp_path / "original")
    for seed in (1, 2):
        scenes.plant(tmp_path / f"source {seed}", seed)
        original.run("ingest", tmp_path / f"source {seed}", "--source-id", f"{seed}")
    with readback.opened(original) as repository:
        kept = [readback.content(repository, point) for point in repository.points()]
    return scenes.Scene(
        original, lambda _made: command.words("synth", "latest:1", "latest:2"), tmp_path, kept
    )


def test_a_kill_leaves_all_of_the_new_point_or_nothing(scene: scenes.Scene, tmp_path: Path) -> None:
    _kill(scene, tmp_path, SAMPLE)


@pytest.mark.deep
def test_a_kill_at_every_call(scene: scenes.Scene, tmp_path: Path) -> None:
    _kill(scene, tmp_path, 0)


def _kill(scene: scenes.Scene, tmp_path: Path, count: int) -> None:
    made = scene.fresh(tmp_path / "try")
    undisturbed = scene.traced(made)
    assert undisturbed.status == 0
    with readback.opened(made) as repository:
        whole = readback.content(repository, repository.points()[-1])
    assert whole.keys() > scene.kept[0].keys()
    for call in scenes.sample(undisturbed.calls, count):
        made = scene.fresh(tmp_path / "try")
        for attempt in ("killed", "killed again"):
            result = scene.traced(made, scenes.at(call, tracer.KILL))
            with scenes.told(f"{attempt} before call {call.number}", result):
                assert result.status in (-9, 0)
                _holds(made, scene, whole)
        made.run("synth", "latest:1", "latest:2")
        with scenes.told(f"synthesized after a kill at call {call.number}", result):
            assert _holds(made, scene, whole) > 0
            assert health.leftovers(made.path) == []


def _holds(made: command.Repository, scene: scenes.Scene, whole: readback.Content) -> int:
    """The points are those of before and syntheses that are whole; returns how many of these."""
    with readback.opened(made) as repository:
        found = _contents(repository)
        repository.rebuild_index()
        assert _contents(repository) == found
    assert found[: len(scene.kept)] == scene.kept
    assert all(each == whole for each in found[len(scene.kept) :])
    return len(found) - len(scene.kept)


def _contents(repository: Repository) -> list[readback.Content]:
    return [readback.content(repository, point) for point in repository.points()]
