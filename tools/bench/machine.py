"""The machine: the facts without which a figure means nothing."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from tools.bench.command import CommandFailed
from tools.bench.contender import Contender


@dataclass(frozen=True)
class Machine:
    """Where the figures come from. cores: those this process may use. load: of the last minute
    before the start; on a busy machine only the ratios count.
    """

    cores: int
    processor: str
    memory_bytes: int
    kernel: str
    python: str
    work_file_system: str
    load: float


def this_machine(work: Path) -> Machine:
    """The facts of this machine; work: the folder in which the repositories lie."""
    return Machine(
        cores=len(os.sched_getaffinity(0)),
        processor=_processor(),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        kernel=platform.release(),
        python=platform.python_version(),
        work_file_system=_file_system(work),
        load=os.getloadavg()[0],
    )


def versions(contenders: list[Contender]) -> dict[str, str]:
    """The version of each contender; what it said instead when it does not run."""
    told = {}
    for contender in contenders:
        try:
            told[contender.name] = contender.version()
        except CommandFailed as error:
            told[contender.name] = f"unknown: {error}"
    return told


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _file_system(path: Path) -> str:
    """The type of the file system that holds a path, from the kernel's list of mounts."""
    device = path.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines():
        fields = line.split()
        if fields[2] == wanted:
            return fields[fields.index("-") + 1]
    return "unknown"
