"""The measuring parts of the benchmark, on real child processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from repo.types import MIB
from tests.support import need
from tools.bench import processes
from tools.bench.command import Command, CommandFailed, run
from tools.bench.measure import Meter, PssSampler
from tools.bench.mountpoint import mounts_below, unmount_below

HELD_BYTES = 50 * MIB
BURN_SECONDS = 0.2

BURN = f"""
import os, sys, time
def burn(seconds={BURN_SECONDS}):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
"""
WAIT = "import sys; print('ready', flush=True); sys.stdin.read()"


def python(text: str, *arguments: str, accepted: frozenset[int] = frozenset({0})) -> Command:
    return Command((sys.executable, "-c", text, *arguments), accepted=accepted)


def waiting_child(text: str) -> subprocess.Popen[bytes]:
    """A child that has run the text and now holds what it has until its input ends."""
    child = subprocess.Popen(
        (sys.executable, "-c", f"{text}\n{WAIT}"), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    return child


def test_the_tree_of_a_process_holds_its_descendants() -> None:
    text = f"import subprocess, sys\nsubprocess.Popen((sys.executable, '-c', {WAIT!r}))"
    child = subprocess.Popen(
        (sys.executable, "-c", f"{text}\nsys.stdin.read()"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        assert child.pid in processes.children(os.getpid())
        found = processes.tree([child.pid])
        assert found[0] == child.pid
        assert len(found) == 2
        child.communicate()


def test_what_has_ended_holds_nothing() -> None:
    child = subprocess.Popen(("true",))
    child.wait()
    assert processes.children(child.pid) == []
    assert processes.pss_bytes(child.pid) == 0
    assert processes.cpu_seconds([child.pid]) == 0


def test_the_sampler_sees_what_a_child_holds() -> None:
    with waiting_child(f"held = b'x' * {HELD_BYTES}") as child:
        sampler = PssSampler(lambda: [child.pid], interval_seconds=0.01)
        sampler._sample()
        child.communicate()
    assert sampler.peak is not None
    assert HELD_BYTES <= sampler.peak < 3 * HELD_BYTES


def test_memory_shared_by_two_processes_counts_once() -> None:
    text = (
        f"import mmap, os\nheld = mmap.mmap(-1, {HELD_BYTES})\nheld.write(b'x' * {HELD_BYTES})\n"
        "out, into = os.pipe()\n"
        "if os.fork() == 0:\n"
        "    held[:].count(b'x'); os.write(into, b'.'); os.read(0, 1); os._exit(0)\n"
        "os.read(out, 1)"
    )
    with waiting_child(text) as child:
        sampler = PssSampler(lambda: [child.pid], interval_seconds=0.01)
        sampler._sample()
        child.communicate()
    assert sampler.peak is not None
    assert HELD_BYTES <= sampler.peak < 2 * HELD_BYTES


def test_a_process_that_forbids_it_gives_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbid(pid: int) -> int:
        raise PermissionError(pid)

    monkeypatch.setattr(processes, "pss_bytes", forbid)
    with PssSampler(lambda: [os.getpid()], interval_seconds=0.01) as sampler:
        pass
    sampler._sample()
    assert sampler.forbidden
    assert sampler.peak is None


def test_a_meter_counts_memory_and_cpu_of_a_child(tmp_path: Path) -> None:
    text = f"{BURN}\nheld = b'x' * {HELD_BYTES}\nburn(.5)\nprint('done')"
    measured = Meter(tmp_path, memory=True, interval_seconds=0.01).run(python(text))
    assert measured.peak_pss is not None
    assert measured.peak_pss >= HELD_BYTES
    assert measured.cpu_seconds >= 0.5
    assert measured.output == b"done\n"
    assert list(tmp_path.iterdir()) == []


def test_a_meter_for_time_does_not_sample(tmp_path: Path) -> None:
    measured = Meter(tmp_path, memory=False).run(python(f"{BURN}\nburn()"))
    assert measured.peak_pss is None
    assert measured.cpu_seconds >= BURN_SECONDS
    assert measured.seconds > 0


@pytest.mark.parametrize("waited_for", [True, False])
def test_the_cpu_time_of_descendants_counts(tmp_path: Path, waited_for: bool) -> None:
    ending = "os.waitpid(child, 0)" if waited_for else "os._exit(0)"
    text = f"{BURN}\nchild = os.fork()\nif child == 0:\n    burn()\nelse:\n    {ending}"
    measured = Meter(tmp_path, memory=False).run(python(text))
    assert measured.cpu_seconds >= BURN_SECONDS


def test_the_cpu_time_of_a_server_counts(tmp_path: Path) -> None:
    server = subprocess.Popen((sys.executable, "-c", "while True: pass"))
    try:
        measured = Meter(tmp_path, memory=True).run(python(f"{BURN}\nburn()"), server=server.pid)
    finally:
        server.kill()
        server.wait()
    assert measured.cpu_seconds > BURN_SECONDS
    assert measured.peak_pss is not None


def test_a_failed_command_is_told_with_its_last_words(tmp_path: Path) -> None:
    command = python("import sys; print('the disk is full', file=sys.stderr); sys.exit(7)")
    for call in (Meter(tmp_path, memory=False).run, run):
        with pytest.raises(CommandFailed, match=r"exit status 7 .*the disk is full"):
            call(command)


def test_an_accepted_exit_status_is_a_success(tmp_path: Path) -> None:
    command = python("raise SystemExit(3)", accepted=frozenset({0, 3}))
    assert Meter(tmp_path, memory=False).run(command).exit_status == 3


def test_a_missing_program_is_told() -> None:
    with pytest.raises(CommandFailed, match="cannot run /no/such/program"):
        run(Command(("/no/such/program",)))


def test_mounts_are_found_and_taken_away(tmp_path: Path) -> None:
    need.root()
    outer = tmp_path / "with blank"
    outer.mkdir()
    subprocess.run(("mount", "-t", "tmpfs", "none", outer), check=True)
    try:
        inner = outer / "inner"
        inner.mkdir()
        subprocess.run(("mount", "-t", "tmpfs", "none", inner), check=True)
        assert mounts_below(tmp_path) == [inner, outer]
        assert mounts_below(tmp_path / "other") == []
    finally:
        unmount_below(tmp_path)
    assert mounts_below(tmp_path) == []
