"""The real snapper and the real btrbk, on a real btrfs: they call, and the points appear."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ingest.queue.queued import QueuedRepository
from tests.support import command, loopfs, need, tracer

TEMPLATE = Path("/usr/share/snapper/config-templates/default")


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A subvolume `home` with a file in it."""
    need.tool("btrfs")
    with loopfs.mounted("btrfs", tmp_path) as filesystem:
        path = filesystem.path / "home"
        btrfs("subvolume", "create", path)
        (path / "file").write_text("first")
        (filesystem.path / "snaps").mkdir()
        yield path


def btrfs(*words: str | Path) -> None:
    subprocess.run(["btrfs", *words], check=True, capture_output=True)


def plugin(queue: QueuedRepository, words: str) -> str:
    """A script that calls `repo` as a user's would."""
    variables = {**queue.env, "REPO_LOCATION": str(queue.made.path), "HOME": str(queue.made.home)}
    variables["PYTHONPATH"] = str(command.PROJECT)
    exports = "".join(f"export {name}={shlex.quote(v)}\n" for name, v in variables.items())
    return f"#!/bin/sh\n{exports}exec {shlex.join(command.words())} {words}\n"


class Snapper:
    """Runs snapper without D-Bus, with configurations and plugins of a test's own."""

    def __init__(self, folder: Path, plugins: dict[str, str]) -> None:
        self._binds = {
            folder / "etc": Path("/etc/snapper"),
            folder / "default": Path("/etc/default/snapper"),
            folder / "lib": Path("/usr/lib/snapper"),
        }
        (folder / "etc" / "configs").mkdir(parents=True)
        (folder / "default").write_text('SNAPPER_CONFIGS=""\n')
        (folder / "lib" / "plugins").mkdir(parents=True)
        for name, text in plugins.items():
            path = folder / "lib" / "plugins" / name
            path.write_text(text)
            path.chmod(0o755)

    def run(self, *words: str | Path) -> str:
        """Run it in a mount namespace of its own; what it printed."""
        binds = [f"mount --bind {shlex.quote(str(a))} {b}" for a, b in self._binds.items()]
        line = shlex.join(["snapper", "--no-dbus", "-c", "test", *map(str, words)])
        ran = subprocess.run(
            ["unshare", "--mount", "sh", "-ec", "; ".join([*binds, f"exec {line}"])],
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout.strip()


def test_snapper_calls_us_and_the_points_appear(
    queue: QueuedRepository, home: Path, tmp_path: Path
) -> None:
    need.tool("snapper")
    words = 'ingest --enqueue --quiet --from snapper -- "$@"'
    snapper = Snapper(tmp_path / "snapper", {"50-repo": plugin(queue, words)})
    snapper.run("create-config", home)
    first = snapper.run("create", "--print-number", "--description", "before")
    (home / "file").write_text("second")
    second = snapper.run("create", "--print-number")
    assert (first, second) == ("1", "2")
    jobs = queue.jobs()
    assert [(j["origin"], j["path"]) for j in jobs] == [
        ("snapper", f"{home}/.snapshots/1/snapshot"),
        ("snapper", f"{home}/.snapshots/2/snapshot"),
    ]
    assert all(job["pinned"] for job in jobs)
    # Deleted before they are backed up; their pins are not.
    snapper.run("delete", "1", "2")
    assert not (home / ".snapshots" / "1" / "snapshot").exists()
    queue.drain()
    assert [p["source"].partition(":")[2] for p in queue.points()] == [str(home)] * 2
    contents = []
    for number, point in enumerate(queue.points()):
        queue.run("restore", point["point"], "--to", tmp_path / f"back{number}")
        contents.append((tmp_path / f"back{number}" / "file").read_text())
    assert contents == ["first", "second"]
    # Though the first is gone, and its pin: what it was is in the point.
    assert [point["verdict"] for point in queue.points()] == ["FULL", "EXACT"]
    assert pins(home) == []


def test_btrbk_says_what_it_made_and_the_points_appear(
    queue: QueuedRepository, home: Path, tmp_path: Path
) -> None:
    need.tool("btrbk")
    log, config = tmp_path / "btrbk.log", tmp_path / "btrbk.conf"
    config.write_text(
        f"transaction_log {log}\ntimestamp_format long-iso\n"
        f"volume {home.parent}\n  snapshot_dir snaps\n  subvolume home\n"
    )
    script = tmp_path / "repo"
    script.write_text(plugin(queue, "ingest --enqueue --quiet --from btrbk"))
    script.chmod(0o755)
    pipe = f"btrbk -c {config} --format=raw run | {script}"
    subprocess.run(["bash", "-euo", "pipefail", "-c", pipe], check=True, capture_output=True)
    (job,) = queue.jobs()
    assert (job["origin"], job["pinned"]) == ("btrbk", True)
    assert job["path"].startswith(f"{home.parent}/snaps/home.")
    # From the log the same is found, and is one job.
    subprocess.run([script], input=log.read_bytes(), check=True)
    assert [j["job"] for j in queue.jobs()] == [job["job"]]
    queue.drain()
    subprocess.run([script], input=log.read_bytes(), check=True)
    assert queue.jobs() == []
    (point,) = queue.points()
    assert point["source"].endswith(f":{home}")
    assert pins(home) == []


def test_a_pin_goes_when_its_job_is_dropped(queue: QueuedRepository, home: Path) -> None:
    snapshot = home.parent / "snaps" / "one"
    btrfs("subvolume", "snapshot", "-r", home, snapshot)
    (event,) = queue.enqueue(snapshot)
    assert event["pinned"]
    assert len(pins(home)) == 1
    assert not queue.enqueue(snapshot)[0]["new"]
    queue.run("jobs", "--drop", event["job"])
    assert pins(home) == []
    # Made writable and changed it is another state.
    queue.enqueue(snapshot)
    btrfs("property", "set", "-f", snapshot, "ro", "false")
    (snapshot / "file").write_text("changed")
    os.sync()
    btrfs("property", "set", "-f", snapshot, "ro", "true")
    assert queue.enqueue(snapshot)[0]["new"]
    assert len(pins(home)) == 2


def test_killed_between_entry_and_pin_nothing_is_left(queue: QueuedRepository, home: Path) -> None:
    snapshot = home.parent / "snaps" / "one"
    btrfs("subvolume", "snapshot", "-r", home, snapshot)
    queue.enqueue(snapshot)
    (pin,) = pins(home)
    btrfs("subvolume", "delete", pin)  # as if it had never been made
    assert len(queue.drain()["points"]) == 1
    assert queue.jobs() == []
    assert not queue.enqueue(snapshot)[0]["new"]


def pins(home: Path) -> list[Path]:
    """The pins on the file system."""
    return sorted(home.parent.glob(".repo-snapshots/.repo-queue-*"))


@pytest.mark.parametrize("count", [6, pytest.param(0, marks=pytest.mark.deep, id="every")])
def test_kill_an_enqueue_and_nothing_is_left(
    queue: QueuedRepository, home: Path, tmp_path: Path, count: int
) -> None:
    snapshot = home.parent / "snaps" / "one"
    btrfs("subvolume", "snapshot", "-r", home, snapshot)

    def traced(kill_at: int) -> tracer.Traced:
        shutil.rmtree(queue.path, ignore_errors=True)
        return tracer.run(
            command.words("ingest", "--enqueue", snapshot),
            env=queue.made.env | queue.env,
            folder=tmp_path,
            under=[queue.path, home.parent],
            decide=lambda call: tracer.KILL if call.number == kill_at else None,
        )

    total = len(traced(0).calls)
    assert len(pins(home)) == 1
    queue.drain()
    for number in range(total, 0, -max(1, total // count) if count else -1):
        assert traced(number).status in (-9, 0)
        (event,) = queue.enqueue(snapshot)
        assert event["pinned"]
        assert len(queue.drain()["points"]) == 1, f"killed before call {number}"
        assert pins(home) == [], f"killed before call {number}"
