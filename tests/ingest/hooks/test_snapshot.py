"""Hooks around a real snapshot of btrfs: what it holds, and what a kill leaves."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ingest.hooks.making import HookFolder, until
from tests.support import command, loopfs, need

QUIESCE_FAILED = 5


@pytest.fixture
def hooks(tmp_path: Path) -> HookFolder:
    return HookFolder(tmp_path)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A subvolume with a file in it."""
    need.tool("btrfs")
    with loopfs.mounted("btrfs", tmp_path) as filesystem:
        path = filesystem.path / "home"
        subprocess.run(["btrfs", "subvolume", "create", path], check=True, capture_output=True)
        (path / "state").write_text("busy")
        yield path


def words(hooks: HookFolder, home: Path) -> list[str | Path]:
    return ["ingest", "--keep-snapshot", "never", "--hooks", hooks.path, home]


def snapshots(home: Path) -> list[str]:
    """What lies in the snapshot folder, anchors left out: they stay on purpose."""
    found = home.parent.glob(".repo-snapshots/*")
    return [path.name for path in found if not path.name.startswith(".repo-anchor-")]


def test_the_snapshot_shows_what_was_frozen(
    made: command.Repository, hooks: HookFolder, home: Path, tmp_path: Path
) -> None:
    hooks.pair("10-a", f"echo quiet >{home}/state", f"echo busy >{home}/state")
    hooks.add("post-snapshot", "10-a", f'cat "$REPO_SNAPSHOT/state" {home}/state >>{hooks.log}')
    hooks.add("removed", "10-a", f'[ -e "$REPO_SNAPSHOT" ] || echo gone >>{hooks.log}')
    env = {"REPO_RUN_DIR": str(hooks.run_folder)}
    made.run(*words(hooks, home), env=env)
    assert [line for line in hooks.lines() if " " not in line] == ["quiet", "busy", "gone"]
    made.run("restore", "latest", "--to", tmp_path / "back")
    assert (tmp_path / "back" / "state").read_text() == "quiet\n"
    shown = made.run("show", "latest", "--json").events()[0]
    assert shown["snapshot"]["consistency"] == "app"
    assert snapshots(home) == []


def test_a_freeze_that_fails_takes_nothing(
    made: command.Repository, hooks: HookFolder, home: Path
) -> None:
    hooks.pair("10-a", "echo database is down; exit 1")
    hooks.add("failed", "10-a", f'echo "$REPO_STATUS" >>{hooks.log}')
    ran = made.run(
        *words(hooks, home), status=QUIESCE_FAILED, env={"REPO_RUN_DIR": str(hooks.run_folder)}
    )
    assert "database is down" in ran.err
    assert hooks.done("thaw") == ["10-a"]
    assert "5" in hooks.lines()
    assert snapshots(home) == []
    assert made.run("points").out == ""


def test_what_nobody_takes_a_snapshot_of_is_not_frozen(
    made: command.Repository, hooks: HookFolder, home: Path, tmp_path: Path
) -> None:
    hooks.pair("10-a")
    env = {"REPO_RUN_DIR": str(hooks.run_folder)}
    made.run("ingest", "--take", "never", "--hooks", hooks.path, home, env=env)
    snapshot = home.parent / "somebody's"
    line: list[str | Path] = ["btrfs", "subvolume", "snapshot", "-r", home, snapshot]
    subprocess.run(line, check=True, capture_output=True)
    made.run("ingest", "--hooks", hooks.path, snapshot, tmp_path / "made", env=env)
    assert hooks.lines() == []


@pytest.mark.parametrize("phase", ["freeze", "thaw", "post-snapshot", "pre-read", "post-ingest"])
def test_kill_the_master_at_each_hook(
    made: command.Repository, hooks: HookFolder, home: Path, tmp_path: Path, phase: str
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    once = f"[ -e {tmp_path}/once ] || {{ touch {tmp_path}/once; cat {gate}; }}"
    hooks.pair("10-a", once if phase == "freeze" else "", once if phase == "thaw" else "")
    if phase not in ("freeze", "thaw"):
        hooks.add(phase, "10-a", once)
    env = made.env | {"REPO_RUN_DIR": str(hooks.run_folder)}
    process = subprocess.Popen(
        command.words(*words(hooks, home)), env=env, stderr=subprocess.DEVNULL
    )
    try:
        hooks.wait_for(f"{phase} 10-a begins")
    finally:
        process.kill()
        process.wait()
    if phase == "freeze":
        until(lambda: "thaw 10-a ends" in hooks.lines(), lambda: "not thawed")
    else:
        # Nobody is left who would end it: let it go on.
        fd = os.open(gate, os.O_WRONLY)
        os.close(fd)
        hooks.wait_for("thaw 10-a ends")
    until(lambda: not hooks.records(), lambda: "a record is left")
    # The next run removes what the dead one left, and is not disturbed by it.
    made.run(*words(hooks, home), env=env)
    assert snapshots(home) == []
    assert len(made.run("points", "--json").events()) == (2 if phase == "post-ingest" else 1)
