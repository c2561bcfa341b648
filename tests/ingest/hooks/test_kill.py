"""kill -9 of a worker, of the watchdog and of a hook, at each step in the life of a snapshot."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ingest.hooks.making import HookFolder, until
from tests.support import command, loopfs, need, readback

JOB_FAILED, PROBLEMS, QUIESCE_FAILED = 1, 3, 5
KILLED = [
    ("freeze", "hook", QUIESCE_FAILED),
    ("freeze", "watchdog", QUIESCE_FAILED),
    ("thaw", "hook", 0),  # it is tried once more
    ("thaw", "watchdog", QUIESCE_FAILED),
    ("post-snapshot", "hook", JOB_FAILED),
    ("pre-read", "hook", JOB_FAILED),
    ("post-ingest", "hook", PROBLEMS),
    ("removed", "hook", 0),
]
"""Who is killed in which phase, and the status of the job."""


@pytest.fixture
def hooks(tmp_path: Path) -> HookFolder:
    return HookFolder(tmp_path)


@pytest.fixture
def volumes(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """Two subvolumes: one with enough to do for two workers, one with a file."""
    need.tool("btrfs")
    with loopfs.mounted("btrfs", tmp_path) as filesystem:
        large, small = filesystem.path / "large", filesystem.path / "small"
        for path in (large, small):
            subprocess.run(["btrfs", "subvolume", "create", path], check=True, capture_output=True)
        for number in range(200):
            folder = large / f"{number}"
            folder.mkdir()
            for name in ("one", "two"):
                (folder / name).write_bytes(os.urandom(20_000))
        (small / "file").write_bytes(b"content")
        yield large, small


def words(hooks: HookFolder, *sources: Path) -> list[str | Path]:
    options = ["--keep-snapshot", "never", "--streams", "2"]
    return ["ingest", *options, "--hooks", hooks.path, *sources]


def left(made: command.Repository, volume: Path) -> list[str]:
    """What lies in the snapshot folder but anchors, which stay on purpose, and the journals."""
    found = [*volume.parent.glob(".repo-snapshots/*"), *made.path.glob("snapshots/*")]
    return [path.name for path in found if not path.name.startswith(".repo-anchor-")]


def worker_of(master: int) -> int:
    """The process id of a worker of a job, once it has one."""

    def found() -> list[str]:
        children = Path(f"/proc/{master}/task/{master}/children").read_text().split()
        return [
            child
            for child in children
            if b"ingest.worker" in Path(f"/proc/{child}/cmdline").read_bytes()
        ]

    until(lambda: bool(found()), lambda: "no worker")
    return int(found()[0])


def check_points(made: command.Repository, *sources: Path) -> None:
    """Every source has one point, which is like it."""
    with readback.opened(made) as repository:
        points = {Path(point.source_path): point for point in repository.points()}
        assert len(repository.points()) == len(points) == len(sources)
        for source in sources:
            assert readback.differences(repository, points[source], source) == []


@pytest.mark.parametrize("phase", ["freeze", "thaw", "post-snapshot", "pre-read"])
def test_kill_a_worker_while_the_next_source_is_taken(
    made: command.Repository,
    hooks: HookFolder,
    volumes: tuple[Path, Path],
    tmp_path: Path,
    phase: str,
) -> None:
    """Once it has published, a job has no workers any more."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    large, small = volumes
    wait = f'case "$REPO_SOURCE" in *small) cat {gate} >/dev/null;; esac'
    hooks.pair("10-a", wait if phase == "freeze" else "", wait if phase == "thaw" else "")
    if phase not in ("freeze", "thaw"):
        hooks.add(phase, "10-a", wait)
    process = subprocess.Popen(
        command.words(*words(hooks, large, small)),
        env=made.env | {"REPO_RUN_DIR": str(hooks.run_folder)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        # The second source's: the first one's has gone by.
        until(
            lambda: hooks.lines().count(f"{phase} 10-a begins") == 2,
            lambda: f"not {phase}: {hooks.lines()}",
        )
        os.kill(worker_of(process.pid), signal.SIGKILL)
    finally:
        gate.write_bytes(b"")
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert hooks.done("freeze") == hooks.done("thaw") == ["10-a", "10-a"]
    assert hooks.records() == []
    assert left(made, large) == []
    check_points(made, large, small)


@pytest.mark.parametrize(("phase", "who", "status"), KILLED)
def test_kill_a_hook_or_its_watchdog(
    made: command.Repository,
    hooks: HookFolder,
    volumes: tuple[Path, Path],
    tmp_path: Path,
    phase: str,
    who: str,
    status: int,
) -> None:
    """A hook that is killed has failed: what is frozen is thawed, and what that means is told."""
    _, small = volumes
    whom = "$$" if who == "hook" else "$PPID"
    die = f"[ -e {tmp_path}/once ] || {{ touch {tmp_path}/once; kill -9 {whom}; sleep 1; }}"
    hooks.pair("10-a")
    hooks.pair("20-b", die if phase == "freeze" else "", die if phase == "thaw" else "")
    if phase not in ("freeze", "thaw"):
        hooks.add(phase, "10-a", die)
    env = {"REPO_RUN_DIR": str(hooks.run_folder)}
    made.run(*words(hooks, small), env=env, status=status)
    published = status in (0, PROBLEMS)
    assert len(made.run("points", "--json").events()) == int(published)
    assert sorted(set(hooks.done("thaw"))) == ["10-a", "20-b"]
    assert hooks.lines().index("thaw 10-a ends") > hooks.lines().index("freeze 10-a ends")
    assert hooks.records() == []
    assert left(made, small) == []
    if not published:
        made.run(*words(hooks, small), env=env)
    check_points(made, small)
