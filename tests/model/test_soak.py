"""The soak: everything at once, with somebody killed all the time; no chunk is ever lost."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Final

import pytest

from repo.upkeep.verify import verify
from tests.repo.upkeep import collecting
from tests.support import command, health, readback
from tests.support.template import made, template

__all__ = ["made", "template"]

VERSIONS: Final = 6
AT_ONCE: Final = 3
FINE: Final = {0, 1, 75, -signal.SIGKILL}
"""How a command may end: 1 when an index was rebuilt under it, 75 for a second collection."""


class Soak:
    """Starts commands on one repository, kills some, and looks at how the others end."""

    def __init__(self, made: command.Repository, folder: Path, seed: int) -> None:
        self.made = made
        self.folder = folder
        self.random = random.Random(seed)
        self.running: list[tuple[list[str], subprocess.Popen[str]]] = []
        self.ended = 0
        self.killed = 0
        for version in range(1, VERSIONS + 1):
            collecting.plant(folder / f"version {version}", version)

    def words(self) -> list[str]:
        """Something that a user might do."""
        what = self.random.choices(
            ["ingest", "forget", "gc", "synth", "restore", "verify", "undelete", "rebuild-index"],
            [8, 3, 6, 2, 2, 1, 1, 0.5],
        )[0]
        if what == "ingest":
            version = self.random.randint(1, VERSIONS)
            words = [what, str(self.folder / f"version {version}"), "--source-id"]
            return [*words, self.random.choice(["a", "b"]), "--streams", "1"]
        if what == "restore":
            target = self.folder / f"restored {self.random.randrange(1 << 30)}"
            return [what, "latest", "--to", str(target)]
        more = {
            "forget": ["--keep-last", "2", "--yes"],
            "synth": ["latest"],
            "verify": ["--data"],
            "undelete": ["--all"],
        }
        return [what, *more.get(what, [])]

    def start(self) -> None:
        words = self.words()
        process = subprocess.Popen(
            command.words(*words),
            env=self.made.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )
        self.running.append((words, process))

    def reap(self, *, wait: bool) -> None:
        """Look at those that have ended; `wait` for all."""
        for words, process in list(self.running):
            if not wait and process.poll() is None:
                continue
            said, _ = process.communicate(timeout=command.SECONDS_MAX)
            self.running.remove((words, process))
            self.ended += 1
            nothing_there = process.returncode == 2 and "no such" in said
            told = f"repo {' '.join(words)} ended with {process.returncode}: {said}"
            assert process.returncode in FINE or nothing_there, told
            assert "Traceback" not in said, told
            if words[0] == "restore":
                shutil.rmtree(words[-1], ignore_errors=True)

    def run(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        kill_at = time.monotonic() + 1
        while time.monotonic() < end:
            self.reap(wait=False)
            if len(self.running) < AT_ONCE:
                self.start()
            elif time.monotonic() >= kill_at:
                _, victim = self.random.choice(self.running)
                victim.kill()
                self.killed += 1
                kill_at = time.monotonic() + self.random.uniform(0.3, 1.5)
            else:
                time.sleep(0.02)  # the commands need the processors
        self.reap(wait=True)

    def check(self) -> None:
        """All that is listed is whole, and stays so through collection and rebuild."""
        for _ in range(2):
            assert self.made.run("gc", "--json").summary()["chunks_lost"] == 0
            with readback.opened(self.made) as repository:
                for point in repository.points():
                    source = Path(point.source_path)
                    assert readback.differences(repository, point, source) == []
                assert verify(repository, level="data").damages == []
                repository.rebuild_index()
        assert health.leftovers(self.made.path) == []


@pytest.mark.parametrize(
    "seconds",
    [
        12,
        pytest.param(120, marks=pytest.mark.deep),
        pytest.param(3600, marks=pytest.mark.deep),
    ],
)
def test_everything_at_once_loses_nothing(
    made: command.Repository, tmp_path: Path, seconds: int
) -> None:
    seed = random.SystemRandom().randrange(1 << 32) if seconds > 12 else 7
    soak = Soak(made, tmp_path, seed)
    soak.run(seconds)
    assert soak.killed
    assert soak.ended > soak.killed
    soak.check()
