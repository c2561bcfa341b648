"""A repair that is killed or fails: what could be read is not lost, and the next one goes on."""

from __future__ import annotations

import errno
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from repo.upkeep.verify import verify
from tests.crash import killing, scenes
from tests.crash.killing import counts, few_counts
from tests.damage.small import Contents, Lost, lost_paths, read_back
from tests.support import command, health, readback, tracer


class Scene(NamedTuple):
    """A damaged repository; what can be read of it, and what a repair leaves."""

    hurt: command.Repository
    before: Contents
    after: Contents
    ends: int = 4

    def fresh(self, folder: Path) -> command.Repository:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.hurt.path.parent, folder)
        return command.Repository(folder)

    def traced(
        self, made: command.Repository, decide: tracer.Decide = lambda _call: None
    ) -> tracer.Traced:
        return tracer.run(
            command.words("repair"),
            env=made.env,
            folder=made.home,
            under=[made.path],
            decide=decide,
        )

    def sound(self, made: command.Repository) -> None:
        """Whatever could be read before can be read, and nothing is read as something else."""
        with readback.opened(made) as opened:
            now = read_back(opened)
        assert now.keys() == self.before.keys()
        for point, contents in self.before.items():
            for path, data in contents.items():
                if not isinstance(data, Lost):
                    assert now[point].get(path) == data, path

    def finish(self, made: command.Repository) -> None:
        """Run it to its end: the same is saved as by one that was never disturbed."""
        done = subprocess.run(
            command.words("repair"), env=made.env, check=False, capture_output=True
        )
        assert done.returncode == self.ends, done.stderr
        with readback.opened(made) as opened:
            assert comparable(read_back(opened)) == comparable(self.after)
            report = verify(opened, level="data")
            assert (report.damages, report.losses_known > 0) == ([], True)
            opened.rebuild_index()
            assert comparable(read_back(opened)) == comparable(self.after)
        assert [name for name in health.leftovers(made.path) if ".damaged" not in name] == []


def comparable(contents: Contents) -> dict[str, dict[str, object]]:
    return {
        point: {path: None if isinstance(data, Lost) else data for path, data in held.items()}
        for point, held in contents.items()
    }


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    folder = tmp_path_factory.mktemp("repair")
    hurt = scenes.small_repository(folder / "hurt")
    for seed in (1, 2):
        scenes.plant(folder / "source", seed)
        hurt.run("ingest", folder / "source", "--streams", "1")
    segments = sorted(hurt.path.glob("segments/*/*"), key=lambda path: path.stat().st_size)
    for segment in segments[-2:]:
        data = bytearray(segment.read_bytes())
        data[len(data) // 2] ^= 1
        segment.chmod(0o600)
        segment.write_bytes(data)
    with readback.opened(hurt) as opened:
        before = read_back(opened)
    assert lost_paths(before)
    scene = Scene(hurt, before, {})
    done = scene.fresh(folder / "done")
    assert scene.traced(done).status == scene.ends
    with readback.opened(done) as opened:
        return scene._replace(after=read_back(opened))


@counts
def test_a_killed_repair_loses_nothing_and_goes_on(
    scene: Scene, tmp_path: Path, count: int
) -> None:
    killing.kill_at_calls(scene, tmp_path, count)


@counts
def test_a_second_kill_hits_what_recovers(scene: Scene, tmp_path: Path, count: int) -> None:
    killing.kill_again(scene, tmp_path, count, first=0.5)


@pytest.mark.parametrize("failure", [errno.EIO, errno.ENOSPC], ids=["EIO", "ENOSPC"])
@few_counts
def test_a_repair_that_fails_says_so_and_goes_on(
    scene: Scene, tmp_path: Path, failure: int, count: int
) -> None:
    killing.fail_at_calls(scene, tmp_path, count, failure)
