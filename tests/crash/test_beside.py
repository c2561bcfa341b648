"""A crash beside others: what one process relied on must not go with the process that wrote it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from repo.repository import Repository
from tests.crash import scenes
from tests.support import command, health, readback, tracer
from tests.support.tracer import Call


@pytest.mark.parametrize("end", ["killed", "alive"])
@pytest.mark.parametrize("at", [1, 2])
def test_a_point_that_relies_on_an_open_segment_of_another_ingest(
    template: command.Repository, tmp_path: Path, at: int, end: str
) -> None:
    """The other ingest has made a checkpoint and goes on: its chunks are found, and reused.

    Then the index is lost (I3), while the other one still writes, or is dead and not recovered.
    """
    scene = scenes.many_checkpoints(template, tmp_path)
    made = scene.fresh(tmp_path / "try")
    committed: list[Call] = []
    writes: list[Call] = []

    def decide(call: Call) -> object:
        if "/index/" in call.path and call.name == "fdatasync":
            committed.append(call)
        if committed and call.name.startswith("pwritev") and "/segments/" in call.path:
            writes.append(call)
            if len(writes) == at:
                words = command.words("ingest", scene.source)
                subprocess.run(words, env=made.env, check=True, capture_output=True)
                if end == "killed":
                    return tracer.KILL
                check(made, scene)
        return None

    result = scene.traced(made, decide)
    assert len(writes) >= at
    with scenes.told(f"{end} before {writes[at - 1]}", result):
        # An ingest whose index was replaced under it says so and ends; it publishes nothing.
        assert result.status == -9 if end == "killed" else result.status in (0, 1)
        health.recovers(made, scene.source, kept=scene.kept)


def check(made: command.Repository, scene: scenes.Scene) -> None:
    """All points can be read, by the index that is there and by one that is made anew."""
    with readback.opened(made) as repository:
        _check_points(repository, scene)
        repository.rebuild_index()
        _check_points(repository, scene)


def _check_points(repository: Repository, scene: scenes.Scene) -> None:
    first, *others = repository.points()
    assert readback.content(repository, first) == scene.kept[0]
    assert others
    for point in others:
        assert readback.differences(repository, point, scene.source) == []
