"""Makes hook scripts that write down what they were run for, and jobs that run them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.support.command import PROJECT

SECONDS_MAX = 30


class HookFolder:
    """A hooks.d of a test's own. Scripts append lines `<phase> <name> <event>` to `log`."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "hooks.d"
        self.path.mkdir()
        self.log = folder / "log"
        self.log.touch()
        self.repository = folder / "repository"
        self.repository.mkdir(exist_ok=True)
        self.run_folder = folder / "run"
        self.run_folder.mkdir(mode=0o700)

    def add(self, phase: str, name: str, body: str = "") -> Path:
        """A script that logs, then does `body`, then logs that it is done."""
        place = self.path / f"{phase}.d"
        place.mkdir(exist_ok=True)
        script = place / name
        script.write_text(
            f'#!/bin/sh\necho "$1 {name} begins" >>{self.log}\n{body}\n'
            f'echo "$1 {name} ends" >>{self.log}\n'
        )
        script.chmod(0o755)
        return script

    def pair(self, name: str, freeze: str = "", thaw: str = "") -> None:
        """A script of each name in freeze.d and thaw.d."""
        self.add("freeze", name, freeze)
        self.add("thaw", name, thaw)

    def lines(self) -> list[str]:
        """What was logged so far."""
        return self.log.read_text().splitlines()

    def done(self, phase: str) -> list[str]:
        """The names of the scripts of a phase that ended, in order."""
        return [
            line.split()[1]
            for line in self.lines()
            if line.endswith("ends") and line.startswith(phase + " ")
        ]

    def start(self, body: str | Path = "end", window: float = 10.0) -> subprocess.Popen[str]:
        """A job, as a process whose output is to be read."""
        words = [self.path, self.repository, window, body]
        return subprocess.Popen(
            [sys.executable, "-m", "tests.ingest.hooks.job", *map(str, words)],
            env=os.environ | {"PYTHONPATH": str(PROJECT), "REPO_RUN_DIR": str(self.run_folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, body: str | Path = "end", window: float = 10.0) -> tuple[int, str]:
        """A job to its end: exit status and output."""
        process = self.start(body, window)
        out, _ = process.communicate(timeout=SECONDS_MAX)
        return process.returncode, out

    def wait_for(self, line: str) -> None:
        """Until this line is in the log."""
        until(lambda: line in self.lines(), lambda: f"no {line!r} in {self.lines()}")

    def records(self) -> list[str]:
        """The records of what is frozen."""
        return [path.name for path in self.run_folder.rglob("frozen-*")]


def until(condition: Callable[[], bool], message: Callable[[], str]) -> None:
    """Poll until a condition holds; fails with the message when it does not come to hold."""
    end = time.monotonic() + SECONDS_MAX
    while not condition():
        assert time.monotonic() < end, message()
        time.sleep(0.01)


def watchdog_of(process: subprocess.Popen[str]) -> int:
    """The process id of a job's watchdog."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")

    def found() -> list[str]:
        return [
            child
            for child in children.read_text().split()
            if b"ingest.hooks.watchdog" in Path(f"/proc/{child}/cmdline").read_bytes()
        ]

    until(lambda: bool(found()), lambda: "no watchdog")
    return int(found()[0])
