"""A power cut, for real: the file system below a repository stops, and forgets what was not synced.

`xfs_io -x -c shutdown` stops a file system without writing its log: what was not synced is gone
when it is mounted again, as after a power cut.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash import scenes
from tests.support import command, health, loopfs, need, readback, tracer
from tests.support.loopfs import LoopFilesystem
from tests.support.template import copy
from tests.support.tracer import Call, Traced

SAMPLE = 8
"""Calls at which the power is cut, for each scene and file system; all with --deep."""


@pytest.fixture(params=["xfs", "ext4"])
def filesystem(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LoopFilesystem]:
    need.tool("xfs_io")
    with loopfs.mounted(request.param, tmp_path) as mounted:
        yield mounted


def cut(filesystem: LoopFilesystem) -> None:
    """Cut the power: nothing reaches the device from here on."""
    words = [need.tool("xfs_io"), "-x", "-c", "shutdown", str(filesystem.path)]
    subprocess.run(words, check=True, capture_output=True)


def placed(scene: scenes.Scene, filesystem: LoopFilesystem) -> command.Repository:
    """A copy of a scene's repository on the file system, all of it on the device."""
    folder = filesystem.path / "try"
    shutil.rmtree(folder, ignore_errors=True)
    made = copy(scene.original, folder)
    subprocess.run(["sync", "--file-system", str(folder)], check=True)
    return made


def traced(
    scene: scenes.Scene, made: command.Repository, tmp_path: Path, decide: tracer.Decide
) -> Traced:
    # What it says is kept elsewhere: that file system will be gone.
    words = scene.words(made)
    return tracer.run(words, env=made.env, folder=tmp_path, under=[made.path], decide=decide)


def test_a_cut_takes_what_was_not_synced_and_keeps_what_was(filesystem: LoopFilesystem) -> None:
    """The instrument itself: without this the tests below would show nothing."""
    with open(filesystem.path / "synced", "wb") as synced:
        synced.write(b"kept")
        synced.flush()
        os.fsync(synced.fileno())
        (filesystem.path / "other").write_bytes(b"lost")
        cut(filesystem)
    filesystem.remount()
    assert (filesystem.path / "synced").read_bytes() == b"kept"
    assert not (filesystem.path / "other").exists()


@pytest.mark.parametrize("count", [SAMPLE, pytest.param(0, marks=pytest.mark.deep, id="every")])
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(make, marks=[] if make is scenes.many_checkpoints else [pytest.mark.deep])
        for make in scenes.SCENES
    ],
    ids=lambda make: make.__name__,
)
def test_a_power_cut_takes_nothing_that_was_promised(
    template: command.Repository,
    tmp_path: Path,
    filesystem: LoopFilesystem,
    make: scenes.Make,
    count: int,
) -> None:
    (tmp_path / "scene").mkdir()
    scene = make(template, tmp_path / "scene")
    undisturbed = traced(scene, placed(scene, filesystem), tmp_path, lambda _call: None)
    for call in scenes.sample(undisturbed.calls, count):
        made = placed(scene, filesystem)

        def decide(each: Call, at: int = call.number) -> object:
            if each.number != at:
                return None
            cut(filesystem)
            return tracer.KILL

        result = traced(scene, made, tmp_path, decide)
        with scenes.told(f"power cut before {call}", result):
            if result.status == 0:  # it was done before
                cut(filesystem)
            filesystem.remount()
            health.recovers(made, scene.source, kept=scene.kept)


def test_a_power_cut_right_after_the_end_takes_nothing(
    template: command.Repository, tmp_path: Path, filesystem: LoopFilesystem
) -> None:
    (tmp_path / "scene").mkdir()
    scene = scenes.later_ingest(template, tmp_path / "scene")
    made = placed(scene, filesystem)
    summary = made.run("ingest", scene.source, "--json").summary()
    cut(filesystem)
    filesystem.remount()
    with readback.opened(made) as repository:
        point = repository.points()[-1]
        assert point.id.hex() == summary["points"][0]["point"]
        assert readback.differences(repository, point, scene.source) == []
    health.recovers(made, scene.source, kept=scene.kept)


def test_a_power_cut_right_after_init(tmp_path: Path, filesystem: LoopFilesystem) -> None:
    made = command.Repository.make(filesystem.path / "made")
    cut(filesystem)
    filesystem.remount()
    scenes.plant(tmp_path / "source", 1)
    health.recovers(made, tmp_path / "source")
