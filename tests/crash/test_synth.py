"""A kill before every call of a synthesis or a delta that changes a repository, and of the next.

What it builds on stays as it was; the new point is there whole or not at all; the next run, which
recovers, may be killed as well.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from repo.repository import Repository
from tests.crash import scenes, tight
from tests.support import command, health, readback, tracer
from tests.support.template import copy

SAMPLE = 8
"""Calls at which it is killed; all of them with --deep."""


def merging(template: command.Repository, folder: Path) -> scenes.Scene:
    """A repository with the points of two sources, of which one tree is to be made."""
    original = copy(template, folder / "original")
    for seed in (1, 2):
        scenes.plant(folder / f"source {seed}", seed)
        original.run("ingest", folder / f"source {seed}", "--source-id", f"{seed}")
    return _scene(original, folder, command.words("synth", "latest:1", "latest:2"))


def laying_out(_template: command.Repository, folder: Path) -> scenes.Scene:
    """A repository of some generations, whose newest point is to be laid out in many steps."""
    original = scenes.small_repository(folder / "original")
    for seed in range(4):
        scenes.plant(folder / "source", seed)
        original.run("ingest", folder / "source", "--source-id", "it")
    words = [sys.executable, tight.__file__, "synth", "latest", "--relayout"]
    return _scene(original, folder, words)


def saving_a_delta(template: command.Repository, folder: Path) -> scenes.Scene:
    """A repository with a point, over which a delta is to be saved."""
    original = copy(template, folder / "original")
    source = folder / "source"
    scenes.plant(source, 1)
    original.run("ingest", source, "--source-id", "it")
    base = original.run("points", "--json").events()[0]["point"]
    scenes.plant(source, 2)
    (folder / "changed").write_bytes(b"folder 1/new\0folder 2/\0")
    words = ["ingest", f"{source}", "--source-id", "it", "--delta", "--base", base]
    words += ["--files-from", f"{folder}/changed"]
    return _scene(original, folder, command.words(*words))


def _scene(original: command.Repository, folder: Path, words: list[str]) -> scenes.Scene:
    with readback.opened(original) as repository:
        kept = [readback.content(repository, point) for point in repository.points()]
    return scenes.Scene(original, lambda _made: words, folder, kept)


MAKES = pytest.mark.parametrize(
    "make", [merging, laying_out, saving_a_delta], ids=lambda make: make.__name__
)


@MAKES
def test_a_kill_leaves_all_of_the_new_point_or_nothing(
    template: command.Repository, tmp_path: Path, make: scenes.Make
) -> None:
    _kill(make(template, tmp_path), tmp_path, SAMPLE)


@pytest.mark.deep
@MAKES
def test_a_kill_at_every_call(
    template: command.Repository, tmp_path: Path, make: scenes.Make
) -> None:
    _kill(make(template, tmp_path), tmp_path, 0)


def _kill(scene: scenes.Scene, tmp_path: Path, count: int) -> None:
    made = scene.fresh(tmp_path / "try")
    undisturbed = scene.traced(made)
    assert undisturbed.status == 0
    with readback.opened(made) as repository:
        whole = readback.content(repository, repository.resolved(repository.points()[-1]))
    for call in scenes.sample(undisturbed.calls, count):
        made = scene.fresh(tmp_path / "try")
        for attempt in ("killed", "killed again"):
            result = scene.traced(made, scenes.at(call, tracer.KILL))
            with scenes.told(f"{attempt} before call {call.number}", result):
                assert result.status in (-9, 0)
                _holds(made, scene, whole)
        result = scene.traced(made)
        with scenes.told(f"not killed after two kills at call {call.number}", result):
            assert result.status == 0
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
    return [
        readback.content(repository, repository.resolved(point)) for point in repository.points()
    ]
