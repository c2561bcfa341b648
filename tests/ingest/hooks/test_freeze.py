"""Freezing: in order, for a moment only, and thawed on every path out, whoever is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.ingest.hooks.making import HookFolder, until, watchdog_of
from tests.support import loopfs, need

QUIESCE_FAILED = 5
SNAPSHOT_FAILED = 6


@pytest.fixture
def hooks(tmp_path: Path) -> HookFolder:
    return HookFolder(tmp_path)


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    """Where a job waits while it is frozen, until somebody opens this for writing."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


def test_freezes_in_order_and_thaws_in_reverse(hooks: HookFolder) -> None:
    for name in ("20-b", "10-a", "30-c"):
        hooks.pair(name)
    hooks.add("freeze", "40-old.bak")
    (hooks.path / "freeze.d" / "50-not-executable").write_text("no program")
    assert hooks.run() == (0, "snapshot True\nproblems 0\n")
    assert hooks.done("freeze") == ["10-a", "20-b", "30-c"]
    assert hooks.done("thaw") == ["30-c", "20-b", "10-a"]
    assert hooks.records() == []


def test_without_scripts_nothing_is_started(hooks: HookFolder) -> None:
    assert hooks.run() == (0, "snapshot False\nproblems 0\n")
    hooks.add("thaw", "10-a")
    assert hooks.run() == (0, "snapshot False\nproblems 0\n")
    assert hooks.lines() == []


def test_a_script_of_the_guest_agent_gets_both_calls_with_one_argument(
    hooks: HookFolder,
) -> None:
    hooks.add("freeze", "mysql.sh", f'echo "$# $1" >>{hooks.log}')
    hooks.add("freeze", "other.sh")
    assert hooks.run()[0] == 0
    assert "1 freeze" in hooks.lines()
    assert "1 thaw" in hooks.lines()
    assert hooks.done("thaw") == ["other.sh", "mysql.sh"]


def test_a_script_is_told_everything_twice(hooks: HookFolder, tmp_path: Path) -> None:
    hooks.pair("10-a", f"env | grep ^REPO_ >{tmp_path}/env; cat >{tmp_path}/stdin")
    hooks.run()
    lines = (tmp_path / "env").read_text().splitlines()
    told = dict(line.split("=", 1) for line in lines)
    row = json.loads((tmp_path / "stdin").read_text())
    assert told["REPO_HOOK_API"] == "1"
    assert told["REPO_PHASE"] == "freeze"
    assert told["REPO_SOURCE"] == "host:/data"
    assert told["REPO_SNAPSHOT"] == "/snap/1"
    assert told["REPO_STATUS"] == "ok"
    assert told["REPO_LOCATION"] == str(hooks.repository)
    assert len(told["REPO_JOB"]) == 16
    assert int(told["REPO_DEADLINE"]) > 0
    for name in ("phase", "source", "snapshot", "status", "location", "job", "deadline"):
        assert str(row[name]) == told[f"REPO_{name.upper()}"]


def test_when_the_snapshot_fails_everything_is_thawed(hooks: HookFolder) -> None:
    hooks.pair("10-a")
    assert hooks.run("raise") == (SNAPSHOT_FAILED, "snapshot True\nthe snapshot failed\n")
    assert hooks.done("thaw") == ["10-a"]


def test_a_freeze_script_that_fails_means_thaw_and_status_5(hooks: HookFolder) -> None:
    hooks.pair("10-a")
    hooks.pair("20-b", "echo 'database is down' >&2; exit 3")
    hooks.pair("30-c")
    hooks.add("thaw", "15-alone")
    status, out = hooks.run()
    assert status == QUIESCE_FAILED
    assert "20-b: ended with status 3: database is down" in out
    # The one that failed may have frozen half of it; the third was never started.
    assert hooks.done("thaw") == ["20-b", "15-alone", "10-a"]


def test_a_freeze_script_that_hangs_is_stopped_with_all_it_started(
    hooks: HookFolder, tmp_path: Path
) -> None:
    hooks.pair("10-a", f"sleep 1000 & echo $! >{tmp_path}/child; trap '' TERM; wait; sleep 1000")
    status, out = hooks.run(window=1.0)
    assert status == QUIESCE_FAILED
    assert "not done in" in out
    assert hooks.done("thaw") == ["10-a"]
    assert gone(int((tmp_path / "child").read_text()))


def test_when_the_window_is_over_it_thaws_and_the_snapshot_is_worth_nothing(
    hooks: HookFolder, fifo: Path
) -> None:
    hooks.pair("10-a")
    process = hooks.start(fifo, window=1.0)
    hooks.wait_for("thaw 10-a ends")
    assert process.poll() is None  # still at its snapshot
    fifo.write_bytes(b"")
    out, _ = process.communicate(timeout=30)
    assert process.returncode == QUIESCE_FAILED
    assert "the window of 1 s was over" in out
    assert hooks.done("thaw") == ["10-a"]


@pytest.mark.parametrize("when", ["freezing", "frozen", "thawing"])
def test_kill_the_master(hooks: HookFolder, fifo: Path, tmp_path: Path, when: str) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    waiting = f"cat {gate} >/dev/null"
    hooks.pair("10-a")
    hooks.pair("20-b", waiting if when == "freezing" else "", waiting if when == "thawing" else "")
    process = hooks.start("end" if when == "thawing" else fifo)
    try:
        if when == "frozen":
            assert process.stdout is not None
            assert process.stdout.readline() == "snapshot True\n"
        else:
            hooks.wait_for("freeze 20-b begins" if when == "freezing" else "thaw 20-b begins")
        process.kill()
        if when == "thawing":
            gate.write_bytes(b"")
        hooks.wait_for("thaw 10-a ends")
    finally:
        process.kill()
        process.communicate()
    assert hooks.done("thaw") == ["20-b", "10-a"]
    until(lambda: not hooks.records(), lambda: "a record is left")


@pytest.mark.parametrize("when", ["freezing", "frozen", "thawing"])
def test_kill_the_watchdog(hooks: HookFolder, fifo: Path, tmp_path: Path, when: str) -> None:
    hooks.pair("10-a")
    once = f"[ -e {tmp_path}/once ] || {{ touch {tmp_path}/once; sleep 1000; }}"
    hooks.pair(
        "20-b", "sleep 1000" if when == "freezing" else "", once if when == "thawing" else ""
    )
    process = hooks.start("end" if when == "thawing" else fifo)
    guard = watchdog_of(process)
    if when == "frozen":
        assert process.stdout is not None
        assert process.stdout.readline() == "snapshot True\n"
        os.kill(guard, signal.SIGKILL)
        fifo.write_bytes(b"")
    else:
        hooks.wait_for("freeze 20-b begins" if when == "freezing" else "thaw 20-b begins")
        os.kill(guard, signal.SIGKILL)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == QUIESCE_FAILED, out
    assert hooks.done("thaw") == ["20-b", "10-a"]
    assert hooks.records() == []


def test_kill_both_and_the_next_run_thaws(hooks: HookFolder, fifo: Path) -> None:
    hooks.pair("10-a")
    process = hooks.start(fifo)
    assert process.stdout is not None
    assert process.stdout.readline() == "snapshot True\n"
    os.kill(process.pid, signal.SIGSTOP)  # so that it cannot thaw in the watchdog's place
    os.kill(watchdog_of(process), signal.SIGKILL)
    process.kill()
    process.communicate()
    assert hooks.done("thaw") == []
    assert len(hooks.records()) == 1
    status, out = hooks.run()
    assert (status, out.splitlines()[0]) == (
        0,
        "notice: thawed what a killed run had left frozen",
    )
    assert hooks.lines().index("thaw 10-a ends") < hooks.lines().index("freeze 10-a begins", 1)
    assert hooks.records() == []


def test_what_a_living_run_has_frozen_is_left_alone(hooks: HookFolder, fifo: Path) -> None:
    hooks.pair("10-a")
    process = hooks.start(fifo)
    assert process.stdout is not None
    assert process.stdout.readline() == "snapshot True\n"
    status, out = hooks.run()
    assert status == 0
    assert "killed run" not in out
    fifo.write_bytes(b"")
    assert process.communicate(timeout=30)[0] == "problems 0\n"


@pytest.mark.parametrize("phase", ["freeze", "thaw"])
def test_kill_a_script(hooks: HookFolder, tmp_path: Path, phase: str) -> None:
    die = f"[ -e {tmp_path}/once ] || {{ touch {tmp_path}/once; kill -9 $$; }}"
    hooks.pair("10-a")
    hooks.pair("20-b", die if phase == "freeze" else "", die if phase == "thaw" else "")
    status, out = hooks.run()
    if phase == "freeze":
        assert status == QUIESCE_FAILED
        assert "killed by SIGKILL" in out
    else:
        assert status == 0, out  # tried once more
    assert hooks.done("thaw") == ["20-b", "10-a"]


def test_a_thaw_script_that_fails_twice_is_told_loudly(hooks: HookFolder) -> None:
    hooks.pair("10-a")
    hooks.pair("20-b", thaw="exit 1")
    status, out = hooks.run()
    assert status == 0
    assert "SOMETHING MAY STILL BE FROZEN" in out
    assert "20-b: ended with status 1" in out
    assert out.endswith("problems 1\n")
    assert hooks.lines().count("thaw 20-b begins") == 2
    assert hooks.done("thaw") == ["10-a"]


def test_a_signal_to_the_whole_group_thaws(hooks: HookFolder, fifo: Path) -> None:
    hooks.pair("10-a")
    process = hooks.start(fifo)
    assert process.stdout is not None
    assert process.stdout.readline() == "snapshot True\n"
    guard = watchdog_of(process)
    # A signal just before the read would not end it: the end of the file does.
    with fifo.open("wb"):
        os.kill(guard, signal.SIGTERM)  # as systemd does it to a whole service
        os.kill(guard, signal.SIGINT)
        process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert hooks.done("thaw") == ["10-a"]


def test_scripts_that_others_can_change_are_refused(hooks: HookFolder) -> None:
    hooks.pair("10-a")
    (hooks.path / "freeze.d" / "10-a").chmod(0o777)
    status, out = hooks.run()
    assert status == 2
    assert "can be changed by other users" in out
    assert hooks.lines() == []


def test_the_file_system_of_the_repository_is_never_left_frozen(tmp_path: Path) -> None:
    need.tool("fsfreeze")
    with loopfs.mounted("ext4", tmp_path, size_bytes=64 << 20) as filesystem:
        hooks = HookFolder(tmp_path)
        hooks.repository = filesystem.path / "repository"
        hooks.repository.mkdir()
        # A thaw script that forgets it: then it is thawed by force.
        hooks.pair("10-a", f"fsfreeze -f {filesystem.path}")
        try:
            status, out = hooks.run()
            (filesystem.path / "file").write_text("thawed")
        finally:
            subprocess.run(["fsfreeze", "-u", filesystem.path], check=False, capture_output=True)
        assert status == QUIESCE_FAILED, out
        assert "a freeze hook froze the file system that holds the repository" in out
        assert "thawed by force" in out


def gone(process_id: int) -> bool:
    """Whether a process has ended, or only waits for its parent to notice."""
    try:
        status = Path(f"/proc/{process_id}/stat").read_text()
    except FileNotFoundError:
        return True
    return status.rpartition(")")[2].split()[0] == "Z"
