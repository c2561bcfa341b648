"""A measurement: how long a command took, the CPU time of its whole process tree, its peak memory.

Memory is sampled, and sampling takes locks of the process looked at. So a meter measures
either time or memory: one that samples is used in a run of its own whose time is not kept.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tools.bench import processes
from tools.bench.command import Command, complaint, start, stop

SAMPLE_INTERVAL_SECONDS = 0.03
_SAMPLE_SHARE = 10  # a sample may cost a tenth of the time between two
_ORPHAN_PATIENCE_SECONDS = 5.0
_ORPHAN_POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Measurement:
    """One run of one command. peak_pss is bytes, None when not sampled or not permitted."""

    seconds: float
    cpu_seconds: float
    peak_pss: int | None
    exit_status: int
    output: bytes


class PssSampler:
    """A thread that keeps the highest sum of the proportional set sizes of a process tree."""

    def __init__(self, roots: Callable[[], list[int]], *, interval_seconds: float) -> None:
        self._roots = roots
        self._interval_seconds = interval_seconds
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="pss-sampler", daemon=True)
        self._peak = 0
        self.samples = 0
        self.forbidden = False

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    @property
    def peak(self) -> int | None:
        """Bytes; None when a process forbade the look or none was seen alive."""
        return None if self.forbidden or self._peak == 0 else self._peak

    def _watch(self) -> None:
        while not self._done.is_set() and not self.forbidden:
            began = time.perf_counter()
            self._sample()
            cost_seconds = time.perf_counter() - began
            self._done.wait(max(self._interval_seconds, _SAMPLE_SHARE * cost_seconds))

    def _sample(self) -> None:
        try:
            total = sum(processes.pss_bytes(pid) for pid in processes.tree(self._roots()))
        except PermissionError:
            self.forbidden = True
            return
        self.samples += 1
        self._peak = max(self._peak, total)


class Meter:
    """Runs commands and measures them: time and CPU, or with memory=True peak memory as well.

    folder takes the output of the commands while they run.
    """

    def __init__(
        self,
        folder: Path,
        *,
        memory: bool,
        interval_seconds: float = SAMPLE_INTERVAL_SECONDS,
    ) -> None:
        self._folder = folder
        self.memory = memory
        self._interval_seconds = interval_seconds

    def settle(self) -> None:
        """Write back what earlier runs left dirty, so that the next one does not pay for it."""
        if not self.memory:
            os.sync()

    def run(self, command: Command, *, server: int | None = None) -> Measurement:
        """Run a command to its end.

        server: process id of a mount that answers the command. The CPU time it uses meanwhile
        is added, and the memory is then that of the server alone.
        Raises CommandFailed when the exit status is not an accepted one.
        """
        with (
            tempfile.TemporaryFile(dir=self._folder) as output,
            tempfile.TemporaryFile(dir=self._folder) as errors,
            processes.adopting_orphans(),
        ):
            strangers = set(processes.children(os.getpid()))
            servers = [] if server is None else [server]
            cpu_before = processes.cpu_seconds(servers)
            began = time.perf_counter()
            process = start(command, output=output, errors=errors)
            try:
                peak, cpu = self._watch(process, strangers, servers)
                seconds = time.perf_counter() - began
            except BaseException:
                stop(process)
                raise
            finally:
                orphan_cpu = _collect(strangers)
            cpu += processes.cpu_seconds(servers) - cpu_before + orphan_cpu
            if process.returncode not in command.accepted:
                raise complaint(command, process.returncode, errors)
            output.seek(0)
            return Measurement(seconds, cpu, peak, process.returncode, output.read())

    def _watch(
        self, process: subprocess.Popen[bytes], strangers: set[int], servers: list[int]
    ) -> tuple[int | None, float]:
        """Wait for the process: peak memory of it (or of the servers), its own CPU seconds."""
        if not self.memory:
            return None, _wait(process)

        def roots() -> list[int]:
            return servers or [process.pid, *(_adopted(strangers) - {process.pid})]

        with PssSampler(roots, interval_seconds=self._interval_seconds) as sampler:
            cpu = _wait(process)
        return sampler.peak, cpu


def _wait(process: subprocess.Popen[bytes]) -> float:
    """Reap the process; CPU seconds of it and of every descendant that was waited for."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime


def _adopted(strangers: set[int]) -> set[int]:
    """Children of this process that were not there before the command was started."""
    return set(processes.children(os.getpid())) - strangers


def _collect(strangers: set[int]) -> float:
    """Reap what a command left behind; its CPU seconds. What does not end is ended.

    These are descendants of a command which we started: nobody else's process can be adopted.
    """
    cpu = 0.0
    give_up = time.monotonic() + _ORPHAN_PATIENCE_SECONDS
    # Asked anew each time: when an orphan ends, its own children come to us.
    while orphans := _adopted(strangers):
        for pid in orphans:
            ended, _, usage = os.wait4(pid, os.WNOHANG)
            if ended:
                cpu += usage.ru_utime + usage.ru_stime
            elif time.monotonic() > give_up:
                os.kill(pid, signal.SIGKILL)
        time.sleep(_ORPHAN_POLL_SECONDS)
    return cpu
