"""The queue: what is put in is backed up once, whatever happens in between."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest

from ingest.queue.drain import due
from ingest.queue.entry import TRIES_MAX, Entry, new_point_id
from repo import keyfile
from tests.ingest.hooks.making import until
from tests.ingest.queue.queued import QueuedRepository, plant
from tests.support import command, tracer


def test_what_is_queued_is_drained_in_one_job(queue: QueuedRepository, tmp_path: Path) -> None:
    a, b, c = plant(tmp_path, "a", "b", "c")
    events = queue.enqueue("--tag", "t", a, b)
    assert [(e["event"], e["path"], e["new"]) for e in events] == [
        ("queued", str(a), True),
        ("queued", str(b), True),
    ]
    queue.enqueue("--tag", "t", "--source-id", "mine", c)
    assert [job["state"] for job in queue.jobs()] == ["waiting"] * 3
    assert queue.points() == []
    summary = queue.drain()
    assert (len(summary["points"]), summary["jobs"], summary["left"]) == (3, 1, 0)
    host = events[0]["source"].partition(":")[0]
    assert queue.sources() == sorted([f"{host}:{a}", f"{host}:{b}", "mine"])
    assert all(point["tags"] == ["t"] for point in queue.points())
    assert queue.jobs() == []


def test_the_options_of_an_entry_are_those_it_was_queued_with(
    queue: QueuedRepository, tmp_path: Path
) -> None:
    a, b = plant(tmp_path, "a", "b")
    (a / "left out").write_text("x")
    (tmp_path / "rules").write_text("file\n")
    queue.enqueue("--exclude", "left out", a)
    queue.enqueue("--exclude-from", "rules", b, cwd=tmp_path)
    assert queue.drain()["jobs"] == 2
    listed = {
        name: queue.run("ls", f"latest:{point['source']}").out
        for point in queue.points()
        for name in ("a", "b")
        if point["source"].endswith(f"/{name}")
    }
    assert "file" in listed["a"]
    assert "left out" not in listed["a"]
    assert "file" not in listed["b"]


def test_the_same_queued_twice_is_one_job(queue: QueuedRepository, tmp_path: Path) -> None:
    (a,) = plant(tmp_path, "a")
    first, second = queue.enqueue(a) + queue.enqueue(a)
    assert (first["new"], second["new"]) == (True, False)
    assert first["job"] == second["job"]
    assert queue.enqueue("--source-id", "other", a)[0]["new"]
    queue.drain()
    assert len(queue.points()) == 2
    # A live tree is another one each time; what was drained before does not count.
    assert queue.enqueue(a)[0]["new"]
    assert len(queue.drain()["points"]) == 1


def test_what_cannot_be_drained_is_not_queued(queue: QueuedRepository, tmp_path: Path) -> None:
    ran = queue.run("ingest", "--enqueue", tmp_path / "nowhere", status=2)
    assert "cannot be opened" in ran.err
    elsewhere = {"REPO_LOCATION": str(tmp_path / "none")}
    queue.run("ingest", "--enqueue", tmp_path, status=10, env=elsewhere)
    queue.run("ingest", "--enqueue", status=2)
    for option in (["--dry-run"], ["--base", "none"], ["--streams", "2"], ["--hooks", "off"]):
        ran = queue.run("ingest", "--enqueue", *option, tmp_path, status=2)
        assert f"does not go with --enqueue ({option[0]})" in ran.err
    assert not queue.path.exists()


def test_one_that_vanished_does_not_stop_the_others(
    queue: QueuedRepository, tmp_path: Path
) -> None:
    a, b = plant(tmp_path, "a", "b")
    queue.enqueue(a, b)
    shutil.rmtree(a)
    summary = queue.drain(status=3)
    assert (len(summary["points"]), len(summary["failed"]), summary["left"]) == (1, 1, 1)
    (job,) = queue.jobs()
    assert (job["state"], job["tries"], job["path"]) == ("retry", 1, str(a))
    assert "No such file" in job["error"]
    assert queue.drain() | {"jobs": 0} == summary | {"points": [], "failed": [], "jobs": 0}
    for number in range(2, TRIES_MAX + 1):
        queue.drain("--now", status=1)
        assert queue.jobs()[0]["state"] == ("failed" if number == TRIES_MAX else "retry")
        assert queue.jobs()[0]["tries"] == number
    assert queue.run("status", status=3).out.count("1 failed") == 1
    assert queue.drain("--now")["failed"] == []  # it is not tried for ever
    plant(tmp_path, "a")
    queue.run("jobs", "--retry", job["job"][:6])
    assert len(queue.drain()["points"]) == 1
    assert queue.jobs() == []


def test_a_job_is_dropped(queue: QueuedRepository, tmp_path: Path) -> None:
    a, b = plant(tmp_path, "a", "b")
    job, _ = queue.enqueue(a, b)
    queue.run("jobs", "--drop", "zz", status=2)
    queue.run("jobs", "--drop", job["job"])
    assert [left["path"] for left in queue.jobs()] == [str(b)]


def test_a_repository_that_does_not_open_is_no_failure_of_an_entry(
    queue: QueuedRepository, tmp_path: Path
) -> None:
    (a,) = plant(tmp_path, "a")
    queue.enqueue(a)
    assert len(list((queue.path / "wake").iterdir())) == 1
    other = tmp_path / "other key"
    keyfile.create(other)
    queue.run("drain", status=11, env={"REPO_KEY_FILE": str(other)})
    (job,) = queue.jobs()
    assert (job["state"], job["tries"]) == ("waiting", 0)
    # Or systemd would start it again and again.
    assert list((queue.path / "wake").iterdir()) == []
    assert queue.run("status").out.count("status 11") == 1
    assert len(queue.drain()["points"]) == 1


def test_entries_of_another_repository_stay(queue: QueuedRepository, tmp_path: Path) -> None:
    (a,) = plant(tmp_path, "a")
    other = command.Repository.make(tmp_path / "other")
    queue.enqueue(a)
    where = {"REPO_LOCATION": str(other.path), "REPO_KEY_FILE": str(other.key_file)}
    ran = queue.run("drain", "--json", env=where)
    assert (ran.summary()["points"], ran.summary()["left"]) == ([], 1)
    assert len(queue.drain()["points"]) == 1


def test_only_one_drain_at_a_time(queue: QueuedRepository, tmp_path: Path) -> None:
    (a,) = plant(tmp_path, "a")
    hooks = tmp_path / "hooks.d" / "pre-read.d"
    hooks.mkdir(parents=True)
    (hooks / "10-wait").write_text(f"#!/bin/sh\ntouch {tmp_path}/reached; exec sleep 1000\n")
    (hooks / "10-wait").chmod(0o755)
    queue.enqueue(a)
    process = subprocess.Popen(
        command.words("drain", "--hooks", hooks.parent),
        env=queue.made.env | queue.env,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until((tmp_path / "reached").exists, lambda: "the drain never got to its hook")
        assert "drained already" in queue.run("drain", status=75).err
        assert [job["state"] for job in queue.jobs()] == ["running", "running"]
        job = queue.jobs()[0]["job"]
        queue.run("jobs", "--drop", job, status=75)
        assert "1 source" in queue.run("status").out
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130
    # Interrupted is not failed.
    assert [(j["state"], j["tries"]) for j in queue.jobs()] == [("waiting", 0)]
    assert len(queue.drain()["points"]) == 1


def test_a_job_that_fails_is_done_one_by_one(queue: QueuedRepository, tmp_path: Path) -> None:
    a, b = plant(tmp_path, "a", "b")
    hooks = tmp_path / "hooks.d" / "pre-read.d"
    hooks.mkdir(parents=True)
    (hooks / "10-no").write_text("#!/bin/sh\ncase $REPO_SOURCE in */a) exit 1;; esac\n")
    (hooks / "10-no").chmod(0o755)
    queue.enqueue(a, b)
    ran = queue.run("drain", "--json", "--hooks", hooks.parent, status=3)
    assert [point["source"][-2:] for point in ran.summary()["points"]] == ["/b"]
    assert [job["path"] for job in queue.jobs()] == [str(a)]


@pytest.mark.parametrize("count", [6, pytest.param(0, marks=pytest.mark.deep, id="every")])
def test_kill_a_drain_and_each_entry_has_one_point(
    queue: QueuedRepository, tmp_path: Path, count: int
) -> None:
    paths = plant(tmp_path / "sources", "a", "b")

    def traced(kill_at: int) -> tracer.Traced:
        for folder in (queue.made.path, queue.path):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "clean", queue.made.path)
        queue.enqueue(*paths)
        return tracer.run(
            command.words("drain"),
            env=queue.made.env | queue.env,
            folder=tmp_path,
            under=[queue.made.path, queue.path],
            decide=lambda call: tracer.KILL if call.number == kill_at else None,
        )

    shutil.copytree(queue.made.path, tmp_path / "clean")
    undisturbed = traced(0)
    assert undisturbed.status == 0
    total = len(undisturbed.calls)
    step = max(1, total // count) if count else 1
    for number in range(total, 0, -step):
        result = traced(number)
        assert result.status in (-9, 0)
        queue.drain()
        assert queue.sources() == sorted(set(queue.sources())), f"killed before call {number}"
        assert len(queue.points()) == 2, f"killed before call {number}"
        assert queue.jobs() == []
        queue.run("verify")


def test_systemd_hears_that_it_is_ready(queue: QueuedRepository, tmp_path: Path) -> None:
    (a,) = plant(tmp_path, "a")
    queue.enqueue(a)
    with tempfile.TemporaryDirectory(prefix="repo-") as short:
        address = f"{short}/notify"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
            heard.bind(address)
            queue.run("drain", env={"NOTIFY_SOCKET": address})
            assert heard.recv(4096).startswith(b"READY=1\nSTATUS=")


def entry(source: str, queued_ns: int, **more: object) -> Entry:
    row = {
        "key": f"{source}{queued_ns}",
        "repository": b"/r",
        "path": b"/p",
        "source_id": source,
        "point_id": new_point_id(),
        "queued_ns": queued_ns,
    }
    return Entry(**(row | more))  # type: ignore[arg-type]


def test_of_each_source_the_oldest_comes_first() -> None:
    entries = [
        entry("a", 1, not_before_ns=100),
        entry("a", 2),
        entry("a", 3),
        entry("b", 4),
        entry("c", 5, failed=True),
        entry("d", 6, repository=b"/other"),
    ]
    assert [e.key for e in due(entries, b"/r", 50)] == ["a2", "b4"]
    assert [e.key for e in due(entries, b"/r", 100)] == ["a1", "b4"]


def test_delays_grow_and_end() -> None:
    tried = entry("a", 1)
    delays = []
    for _ in range(TRIES_MAX):
        tried = tried.after_failure("x", 0)
        delays.append(tried.not_before_ns // 10**9)
    assert delays == [60, 300, 900, 3600, 3600]
    assert tried.failed
    assert tried.afresh().state == "waiting"
