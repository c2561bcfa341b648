"""Garbage collection beside the worst: kills at every call, a stopped ingest, a full disk."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from itertools import takewhile
from pathlib import Path

import pytest

from ingest.session import IngestRequest, ingest
from repo.format.layout import TEMPORARY_PREFIX
from repo.repository import Repository
from repo.types import MIB, PointId
from repo.upkeep import forget
from repo.upkeep.sweep import collect
from repo.upkeep.verify import verify
from tests.crash import halting, scenes
from tests.repo.upkeep import collecting
from tests.support import command, health, loopfs, readback, tracer
from tests.support.template import copy
from tests.support.tracer import Call, Traced

SAMPLE = 8
"""Calls at which each command is killed; all of them with --deep."""

counts = pytest.mark.parametrize(
    "count", [SAMPLE, pytest.param(0, marks=pytest.mark.deep, id="every")]
)

Held = dict[bytes, readback.Content]


class Scene:
    """Four points, of which two are to be forgotten; and what they hold."""

    def __init__(self, folder: Path, template: command.Repository) -> None:
        self.folder = folder
        self.source = folder / "source"
        self.original = scenes.many_checkpoints(template, folder / "made").original
        with readback.opened(self.original) as repository:
            for point in repository.points():
                repository.folder.remove_point(PointId(point.id))
            self.points = collecting.versions(repository, self.source, 4)
            self.held = readback.whole(repository)

    def fresh(self) -> command.Repository:
        shutil.rmtree(self.folder / "try", ignore_errors=True)
        return copy(self.original, self.folder / "try")

    def forgotten(self, made: command.Repository) -> command.Repository:
        with readback.opened(made) as repository:
            forget.forget(repository, self.points[:3:2])
        return made

    def check(self, made: command.Repository, *, least: set[bytes]) -> None:
        """Points are whole, none of `least` is missing, and gc and ingest go on from there."""
        with readback.opened(made) as repository:
            found = readback.whole(repository)
            assert found.keys() >= least
            assert found == {point: self.held[point] for point in found}
            collect(repository)
            self._whole(repository, found)
            repository.rebuild_index()
            self._whole(repository, found)
            (point,) = ingest(
                repository, IngestRequest(paths=[str(self.source)], streams=1, base="none")
            ).points
            assert readback.differences(repository, point, self.source) == []
            assert collect(repository).chunks_lost == 0
        assert health.leftovers(made.path) == []

    def _whole(self, repository: Repository, found: Held) -> None:
        assert readback.whole(repository) == found
        assert verify(repository, level="data").damages == []


@pytest.fixture(scope="module")
def scene(template: command.Repository, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return Scene(tmp_path_factory.mktemp("scene"), template)


def traced(
    made: command.Repository, *words: str, decide: tracer.Decide = lambda _call: None
) -> Traced:
    return tracer.run(
        command.words(*words), env=made.env, folder=made.home, under=[made.path], decide=decide
    )


@counts
def test_a_kill_of_a_collection_costs_nothing(scene: Scene, count: int) -> None:
    undisturbed = traced(scene.forgotten(scene.fresh()), "gc")
    assert undisturbed.status == 0
    kept = {point.id for point in scene.points[1::2]}
    for call in scenes.sample(undisturbed.calls, count):
        made = scene.forgotten(scene.fresh())
        result = traced(made, "gc", decide=scenes.at(call, tracer.KILL))
        with scenes.told(f"killed before call {call.number}", result):
            assert result.status in (-9, 0)
            scene.check(made, least=kept)


ID = re.compile("[0-9a-f]{24,}")


def begins(call: Call) -> bool:
    """Whether a collection has recovered what another left: it makes its scratch space."""
    return call.name == "unlink" and Path(call.path).name.startswith(TEMPORARY_PREFIX)


@counts
def test_a_kill_of_the_collection_after_a_killed_one(scene: Scene, count: int) -> None:
    """What recovers is killed as well: nothing that is relied on has gone.

    With --deep: behind a kill at each call, each call of every recovery that does something else.
    """
    kept = {point.id for point in scene.points[1::2]}
    first = traced(scene.forgotten(scene.fresh()), "gc")
    met: set[tuple[str, ...]] = set()
    for call in scenes.sample(first.calls, 3 if count else 0):
        made = scene.forgotten(scene.fresh())
        traced(made, "gc", decide=scenes.at(call, tracer.KILL))
        killed = scene.folder / "killed"
        shutil.rmtree(killed, ignore_errors=True)
        copy(made, killed)
        recovering = list(takewhile(lambda c: not begins(c), traced(made, "gc").calls))
        shape = tuple(f"{c.name} {ID.sub('*', c.path)}" for c in recovering)
        if not count and shape in met:
            continue
        met.add(shape)
        for second in scenes.sample(recovering, 2 if count else 0):
            shutil.rmtree(made.path)
            shutil.copytree(command.Repository(killed).path, made.path, symlinks=True)
            result = traced(made, "gc", decide=scenes.at(second, tracer.KILL))
            with scenes.told(f"killed before {call.number}, then before {second.number}", result):
                scene.check(made, least=kept)


@counts
def test_a_kill_of_a_forgetting_forgets_whole_points_or_none(scene: Scene, count: int) -> None:
    words = ("forget", "--keep-last", "2", "--yes")
    undisturbed = traced(scene.fresh(), *words)
    assert undisturbed.status == 0
    kept = {point.id for point in scene.points[2:]}
    for call in scenes.sample(undisturbed.calls, count // 4):
        made = scene.fresh()
        result = traced(made, *words, decide=scenes.at(call, tracer.KILL))
        with scenes.told(f"killed before call {call.number}", result):
            scene.check(made, least=kept)


BY_DEFAULT = {"chunks were found", "the index takes a checkpoint", "the point is published"}


@pytest.mark.parametrize(
    "place",
    [
        pytest.param(place, marks=() if place in BY_DEFAULT else pytest.mark.deep)
        for place in halting.PLACES
    ],
)
def test_a_whole_collection_while_an_ingest_stands_still(
    scene: Scene, place: str, tmp_path: Path
) -> None:
    """It is stopped by SIGSTOP when it has found chunks that are collected then, and goes on."""
    made = scene.fresh()
    source = tmp_path / "source"
    shutil.copytree(scene.source, source)
    collecting.plant(source, 3)
    words = [sys.executable, halting.__file__, place, "ingest", str(source), "--streams", "1"]
    pipe = subprocess.PIPE
    ingesting = subprocess.Popen(
        words, env=made.env, stdout=pipe, stderr=pipe, start_new_session=True
    )
    try:
        _, status = os.waitpid(ingesting.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), ingesting.communicate()
        made.run("forget", *(point.id.hex() for point in scene.points[:3]), "--yes")
        assert made.run("gc", "--json").summary()["chunks_dead"] > 0
        os.killpg(ingesting.pid, signal.SIGCONT)
        _, err = ingesting.communicate(timeout=120)
    finally:
        if ingesting.poll() is None:
            os.killpg(ingesting.pid, signal.SIGKILL)
            ingesting.communicate()
    assert ingesting.returncode == 0, err
    for _ in range(2):  # the second time nothing holds back what the first had to leave
        made.run("verify", "--data")
        with readback.opened(made) as repository:
            old, new = repository.points()
            assert readback.content(repository, old) == scene.held[old.id]
            assert readback.differences(repository, new, source) == []
        assert made.run("gc", "--json").summary()["chunks_lost"] == 0


@pytest.mark.parametrize(
    ("kind", "mebibytes", "wholly"),
    [
        pytest.param("ext4", 64, True, id="ext4, wholly dead"),
        pytest.param("xfs", 320, False, id="xfs, partly dead"),
        pytest.param("btrfs", 160, True, id="btrfs, wholly dead"),
        pytest.param("btrfs", 160, False, id="btrfs, partly dead", marks=pytest.mark.deep),
        pytest.param("ext4", 64, False, id="ext4, partly dead", marks=pytest.mark.deep),
        pytest.param("xfs", 320, True, id="xfs, wholly dead", marks=pytest.mark.deep),
    ],
)
def test_without_one_free_byte_a_collection_gives_space_free(
    template: command.Repository, tmp_path: Path, kind: str, mebibytes: int, wholly: bool
) -> None:
    """It works in its reserve, and makes it anew."""
    source = tmp_path / "source"
    source.mkdir()
    with loopfs.mounted(kind, tmp_path, size_bytes=mebibytes * MIB) as filesystem:
        made = copy(template, filesystem.path / "made")
        if not wholly:
            (source / "stays").write_bytes(os.urandom(4 * MIB))
        for _ in range(3):
            (source / "file").write_bytes(os.urandom(6 * MIB))
            made.run("ingest", source)
        made.run("forget", "--keep-last", "1", "--yes")
        assert held(made) > 4 * MIB
        _fill(filesystem.path)
        before = os.statvfs(filesystem.path)
        with pytest.raises(OSError, match="No space left"):
            (filesystem.path / "more").write_bytes(bytes(4096))
        done = made.run("gc", "--json")
        assert "working in the reserve" in done.out
        assert (done.summary()["bytes_written"] > 4 * MIB) is not wholly
        after = os.statvfs(filesystem.path)
        given = (after.f_bfree - before.f_bfree) * after.f_frsize + held(made)
        assert given > 11 * MIB
        assert done.summary()["segments_left"] == 0
        assert held(made) > 0  # made anew
        (filesystem.path / "filler").unlink()
        with readback.opened(made) as repository:
            (point,) = repository.points()
            assert readback.differences(repository, point, source) == []
            assert verify(repository, level="data").damages == []


def held(made: command.Repository) -> int:
    """The bytes of the reserve."""
    return (made.path / "reserve").stat().st_blocks * 512


def test_without_a_reserve_either_it_says_how_much_would_do(
    template: command.Repository, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    with loopfs.mounted("ext4", tmp_path, size_bytes=64 * MIB) as filesystem:
        made = copy(template, filesystem.path / "made")
        for _ in range(3):
            (source / "file").write_bytes(os.urandom(6 * MIB))
            made.run("ingest", source)
        made.run("forget", "--keep-last", "1", "--yes")
        (made.path / "reserve").unlink()
        _fill(filesystem.path)
        full = made.run("gc", status=12)
        assert "No space left on device" in full.err
        need = int(full.err.partition("needs up to ")[2].split()[0])
        assert need <= 64
        filler = filesystem.path / "filler"
        with open(filler, "r+b") as file:  # what it said must do
            file.truncate(max(0, filler.stat().st_size - need * MIB))
        made.run("gc")
        status = os.statvfs(filesystem.path)
        assert status.f_bavail * status.f_frsize > 8 * MIB
        filler.unlink()
        with readback.opened(made) as repository:
            (point,) = repository.points()
            assert readback.differences(repository, point, source) == []
            assert verify(repository, level="data").damages == []


def _fill(folder: Path) -> None:
    """Fill a file system to the last byte."""
    with open(folder / "filler", "ab", buffering=0) as file:
        for size in (MIB, 4096, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                continue
        os.fsync(file.fileno())
