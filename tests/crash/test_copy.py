"""A copy that is killed, fails or has no space: its target stays healthy, the next one goes on."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from ingest.session import IngestRequest, ingest
from repo.keys import KeyFile
from repo.repository import Repository
from repo.types import MIB
from repo.upkeep.verify import verify
from tests.crash import eager, killing, scenes
from tests.crash.killing import counts, few_counts
from tests.support import command, health, loopfs, readback, tracer


def saved(made: command.Repository, source: Path) -> None:
    with readback.opened(made) as opened:
        ingest(opened, IngestRequest(paths=[str(source)], streams=1))


class Scene(NamedTuple):
    """An origin that is only read, and a target of which each try has a copy."""

    origin: command.Repository
    empty: command.Repository
    truth: dict[bytes, readback.Content]
    ends: int = 0

    def fresh(self, folder: Path) -> command.Repository:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.empty.path.parent, folder)
        return command.Repository(folder)

    def words(self, target: command.Repository, *more: str) -> list[str]:
        to = ("copy", "--to", target.path, "--to-key-file", target.key_file, *more)
        return [sys.executable, eager.__file__, *map(str, to)]

    def traced(
        self, target: command.Repository, decide: tracer.Decide = lambda _call: None
    ) -> tracer.Traced:
        return tracer.run(
            self.words(target),
            env=self.origin.env,
            folder=target.home,
            under=[target.path],
            decide=decide,
        )

    def finish(self, target: command.Repository) -> None:
        """Run it to its end: everything is there then, by this index and by a new one."""
        subprocess.run(self.words(target), env=self.origin.env, check=True, capture_output=True)
        assert self.whole(target) == self.truth
        with readback.opened(target) as opened:
            assert verify(opened, level="data").damages == []
            opened.rebuild_index()
        assert self.whole(target) == self.truth
        assert health.leftovers(target.path) == []

    def whole(self, target: command.Repository) -> dict[bytes, readback.Content]:
        """What a target holds, by the ids that its points had in the origin."""
        with readback.opened(target) as opened:
            return {
                point.origin.point: readback.content(opened, point) for point in opened.points()
            }

    def sound(self, target: command.Repository) -> None:
        """Whatever is listed is complete."""
        for point, content in self.whole(target).items():
            assert content == self.truth[point]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    folder = tmp_path_factory.mktemp("copy")
    origin = scenes.small_repository(folder / "origin", 1)
    scenes.plant(folder / "source", 1)
    saved(origin, folder / "source")
    scenes.plant(folder / "source", 2)
    saved(origin, folder / "source")
    empty = scenes.small_repository(folder / "target", 2)
    with readback.opened(origin) as opened:
        return Scene(origin, empty, readback.whole(opened))


@counts
def test_a_killed_copy_goes_on(scene: Scene, tmp_path: Path, count: int) -> None:
    killing.kill_at_calls(scene, tmp_path, count)


@counts
def test_a_second_kill_hits_what_recovers(scene: Scene, tmp_path: Path, count: int) -> None:
    killing.kill_again(scene, tmp_path, count, first=0.75)


@pytest.mark.parametrize("failure", [errno.EIO, errno.ENOSPC], ids=["EIO", "ENOSPC"])
@few_counts
def test_a_failing_target_stops_it(scene: Scene, tmp_path: Path, failure: int, count: int) -> None:
    killing.fail_at_calls(scene, tmp_path, count, failure, says="the target: ")


# -- a target without space -----------------------------------------------------------------------


@pytest.fixture
def large(template: command.Repository, tmp_path: Path) -> command.Repository:
    """An origin with 24 MiB that do not compress."""
    made = repository_like(template, tmp_path / "origin")
    source = tmp_path / "source"
    for number in range(12):
        (source / f"{number}").mkdir(parents=True)
        (source / f"{number}" / "file").write_bytes(random.Random(number).randbytes(2 * MIB))
    made.run("ingest", source)
    return made


def repository_like(template: command.Repository, folder: Path) -> command.Repository:
    made = command.Repository(folder)
    made.home.mkdir(parents=True)
    made.run("init", "--key-file", made.key_file)
    return made


def test_a_full_target_stops_it_and_space_lets_it_go_on(
    large: command.Repository, tmp_path: Path
) -> None:
    with loopfs.mounted("ext4", tmp_path, size_bytes=64 * MIB) as filesystem:
        path, key = filesystem.path / "there", filesystem.path / "key"
        filler = filesystem.path / "filler"
        status = os.statvfs(filesystem.path)
        with open(filler, "ab") as file:
            os.posix_fallocate(file.fileno(), 0, status.f_bavail * status.f_frsize - 12 * MIB)
        words = ("copy", "--to", path, "--init", "--to-key-file", key)
        for _ in range(2):
            result = large.run(*words, status=12)
            assert "the target: " in result.err
            assert "No space left on device" in result.err
            assert "free space there" in result.err
            there = ("-r", path, "--key-file", key)
            assert large.run("points", "--json", *there).out == ""
        filler.unlink()
        summary = large.run(*words, "--json").summary()
        assert len(summary["points"]) == 1
        assert summary["bytes_new"] < 24 * MIB - 4 * MIB, "what was stored is found again"
        assert large.run("verify", "--data", *there).status == 0
        with readback.opened(large) as one:
            (point,) = one.points()
            expected = readback.content(one, point)
        with Repository.open(path, KeyFile(key)) as other:
            (point,) = other.points()
            assert readback.content(other, point) == expected


# -- beside others --------------------------------------------------------------------------------


def test_the_origin_may_ingest_meanwhile(scene: Scene, tmp_path: Path) -> None:
    """A point that appears during a copy is left for the next one; nothing waits."""
    origin = command.Repository(tmp_path / "origin")
    shutil.copytree(scene.origin.path.parent, tmp_path / "origin", dirs_exist_ok=True)
    moving = Scene(origin, scene.empty, {})
    target = moving.fresh(tmp_path / "try")
    ingested: list[int] = []

    def decide(call: tracer.Call) -> object:
        if call.name.startswith("pwritev") and "/segments/" in call.path and len(ingested) < 3:
            scenes.plant(tmp_path / "source", 10 + len(ingested))
            words = command.words("ingest", tmp_path / "source")
            subprocess.run(words, env=origin.env, check=True, capture_output=True)
            ingested.append(call.number)
        return None

    result = moving.traced(target, decide)
    assert (result.status, len(ingested)) == (0, 3), result.err
    with readback.opened(origin) as opened:
        truth = readback.whole(opened)
    first = moving.whole(target)
    assert (len(first), len(truth)) == (2, 5)
    moving._replace(truth=truth).finish(target)


def test_two_copies_into_one_target(scene: Scene, tmp_path: Path) -> None:
    """Both may store what both find new; each point is published by one of them."""
    target = scene.fresh(tmp_path / "try")
    running = [
        subprocess.Popen(
            [*scene.words(target), "--json"],
            env=scene.origin.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    said = [process.communicate() for process in running]
    assert [err for _, err in said] == [b"", b""]
    assert [process.returncode for process in running] == [0, 0]
    summaries = [json.loads(out.splitlines()[-1]) for out, _ in said]
    copied = [point["point"] for summary in summaries for point in summary["points"]]
    assert sorted(copied) == sorted(point.hex() for point in scene.truth)
    assert all(len(each["points"]) + each["points_there"] == 2 for each in summaries)
    with readback.opened(target) as opened:
        assert len(opened.points()) == len(scene.truth)
    scene.finish(target)
