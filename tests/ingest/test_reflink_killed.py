"""A job over a block image, killed before each step in the life of its clone, freeze included."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingest.snapshots.folder import FOLDER_NAME
from repo.format.manifest import Point
from repo.repository import Repository
from repo.types import MIB
from tests.ingest import again
from tests.ingest.btrfs import life_child
from tests.ingest.hooks.making import HookFolder, until
from tests.support import command, loopfs, readback


def frozen(image: Path) -> Path:
    """Is there while the image is frozen."""
    return image.with_suffix(".frozen")


@pytest.fixture
def image(tmp_path: Path) -> Iterator[Path]:
    with loopfs.mounted("xfs", tmp_path, size_bytes=320 * MIB) as filesystem:
        yield filesystem.path / "disk.img"


@pytest.fixture
def hooks(tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch) -> HookFolder:
    """While it is frozen there is a file beside the image, and the image says so itself."""
    hooks = HookFolder(tmp_path)
    mark = f"printf %s $1 | dd of={image} conv=notrunc status=none"
    hooks.pair("10-a", f"touch {frozen(image)}; {mark}", f"rm {frozen(image)}; {mark}")
    monkeypatch.setenv("REPO_RUN_DIR", str(hooks.run_folder))
    return hooks


def child(
    made: command.Repository, hooks: HookFolder, image: Path, fatal: int
) -> subprocess.CompletedProcess[str]:
    words = ["ingest", "--streams", "1", "--hooks", str(hooks.path), str(image)]
    return subprocess.run(
        [sys.executable, "-m", life_child.__name__, str(fatal), *words],
        env=made.env | {"REPO_RUN_DIR": str(hooks.run_folder)},
        capture_output=True,
        text=True,
        check=False,
    )


def held_of(repository: Repository, point: Point) -> bytes:
    """The image as a point has it."""
    (entry,) = repository.tree.entries(point.root)
    return b"".join(bytes(repository.tree.content(e)) for e in repository.tree.extents(entry))


def test_killed_before_any_step_of_a_clone(
    made: command.Repository, hooks: HookFolder, image: Path
) -> None:
    image.write_bytes(bytes(6))
    whole = child(made, hooks, image, 0)
    assert whole.returncode == 0, whole.stderr
    steps = [line.split()[1] for line in whole.stderr.splitlines() if line.startswith("step ")]
    life = [step for step in steps if step in ("note", "freeze", "_clone", "thaw", "publish")]
    assert life == ["note", "freeze", "_clone", "thaw", "publish"]
    with readback.opened(made) as repository:
        runs = again.Runs(repository, image)
        seen = {point.id for point in repository.points()}
        for fatal in range(1, 100):
            tail = os.urandom(MIB)
            image.write_bytes(bytes(6) + tail)
            killed = child(made, hooks, image, fatal)
            if killed.returncode == 0:  # there are no more steps
                break
            assert killed.returncode == -signal.SIGKILL, (fatal, killed.stderr)
            until(lambda: not hooks.records(), lambda: "a record is left")
            assert not frozen(image).exists(), killed.stderr
            runs.run(hooks=str(hooks.path))
            # What the killed run has published, if it came so far, and what this one has.
            new = [point for point in repository.points() if point.id not in seen]
            assert len(new) == 1 + ("step publish" in killed.stderr), killed.stderr
            for point in new:
                assert held_of(repository, point) == b"freeze" + tail, killed.stderr
                assert point.snapshot.consistency == "app"
            seen |= {point.id for point in new}
            names = [name.split("-")[1] for name in os.listdir(image.parent / FOLDER_NAME)]
            assert names == ["held"], killed.stderr
            assert os.listdir(repository.path / "snapshots") == [], killed.stderr
        assert fatal > 10
