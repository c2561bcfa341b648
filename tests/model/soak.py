"""A soak: commands and mounts at work on two repositories at once, some of them killed."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Final, NamedTuple

from repo.upkeep.verify import verify
from tests.model import reader
from tests.model.soakmount import NOTHING_THERE, SoakMount
from tests.repo.upkeep import collecting
from tests.support import command, health, readback

VERSIONS: Final = 6
AT_ONCE: Final = 3
MOUNTS: Final = 2
FINE: Final = {0, 75, -signal.SIGKILL}
"""How a command may end: 75 for a second collection, and see `_may_end`."""

KILLS_APART: Final = (0.4, 2)
"""Seconds from one kill of a command to the next, at least and at most."""


class Task(NamedTuple):
    """Something that a user might do, and how often."""

    weight: float
    words: tuple[str, ...]


TASKS: Final = {
    "ingest": Task(8, ("ingest", "SOURCE", "--source-id", "ID", "--streams", "1")),
    "forget": Task(3, ("forget", "--keep-last", "2", "--yes")),
    "gc": Task(6, ("gc",)),
    "synth": Task(2, ("synth", "latest")),
    "relayout": Task(1, ("synth", "latest", "--relayout")),
    "restore": Task(2, ("restore", "latest", "--to", "NEW")),
    "copy": Task(4, ("copy", "--to", "THERE", "--to-key-file", "KEY THERE")),
    "forget there": Task(2, ("forget", "--keep-last", "2", "--yes")),
    "gc there": Task(2, ("gc",)),
    "verify": Task(1, ("verify", "--data")),
    "repair": Task(0.5, ("repair",)),
    "find": Task(0.5, ("find", "file 9")),
    "undelete": Task(1, ("undelete", "--all")),
    "rebuild-index": Task(1, ("rebuild-index",)),
}
"""By name; "there": in the repository that is copied to."""


class Soak:
    """Starts commands on a repository and on its copy, kills some, and looks at how others end."""

    def __init__(
        self, made: command.Repository, there: command.Repository, folder: Path, seed: int
    ) -> None:
        """there: what is copied to. folder: for sources, restored trees and mounts."""
        self.made = made
        self.there = there
        self.folder = folder
        self.random = random.Random(seed)
        self.running: list[tuple[str, list[str], subprocess.Popen[str]]] = []
        self.mounts: list[tuple[SoakMount, float]] = []
        self.ended: Counter[tuple[str, int]] = Counter()
        self.killed: Counter[str] = Counter()
        self.read: Counter[str] = Counter()
        self._number = 0
        self._sources = folder / "sources"
        for version in range(1, VERSIONS + 1):
            collecting.plant(self._sources / f"version {version}", version)
        self._truth = reader.truth(self._sources)

    # Commands

    def _words(self, what: str) -> list[str]:
        stands_for = {
            "SOURCE": f"{self._sources}/version {self.random.randint(1, VERSIONS)}",
            "ID": self.random.choice("ab"),
            "NEW": str(self._new_path("restored")),
            "THERE": str(self.there.path),
            "KEY THERE": str(self.there.key_file),
        }
        return [stands_for.get(word, word) for word in TASKS[what].words]

    def _new_path(self, what: str) -> Path:
        self._number += 1
        return self.folder / f"{what} {self._number}"

    def _start(self) -> None:
        weights = [task.weight for task in TASKS.values()]
        (what,) = self.random.choices(list(TASKS), weights)
        words = self._words(what)
        process = subprocess.Popen(
            command.words(*words),
            env=(self.there if what.endswith(" there") else self.made).env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )
        self.running.append((what, words, process))

    def _reap(self, *, wait: bool) -> None:
        """Look at those that have ended; `wait` for all."""
        for entry in list(self.running):
            what, words, process = entry
            if not wait and process.poll() is None:
                continue
            said, _ = process.communicate(timeout=command.SECONDS_MAX)
            self.running.remove(entry)
            self.ended[what, process.returncode] += 1
            told = f"repo {' '.join(words)} ended with {process.returncode}: {said}"
            assert _may_end(process.returncode, said), told
            assert "Traceback" not in said, told
            if what == "restore":
                if process.returncode == 0:
                    reader.compare(Path(words[-1]), self._truth)
                shutil.rmtree(words[-1], ignore_errors=True)

    def _kill_a_command(self) -> None:
        what, _, victim = self.random.choice(self.running)
        victim.kill()
        self.killed[what] += 1

    # Mounts

    def _mount(self) -> None:
        point = self.random.choice(["all", "all", "latest"])
        mount = SoakMount(self.made, point, self._new_path("mounted"), self._sources)
        self.mounts.append((mount, time.monotonic() + self.random.uniform(2, 10)))

    def _tend(self, *, wait: bool) -> None:
        """Let those that are there read, and end those whose time has come; `wait` for all."""
        for entry in list(self.mounts):
            mount, until = entry
            if not mount.poll() and time.monotonic() < until and not wait:
                continue
            self.mounts.remove(entry)
            try:
                if self.random.random() < 0.5:
                    self.read.update(mount.kill())
                    self.killed["mount"] += 1
                else:
                    self.read.update(mount.end())
                    self.ended["mount", 0] += 1
            finally:
                mount.clean_up()

    # All together

    def run(self, seconds: float) -> None:
        """Keep everybody busy for so long, and wait for the ends."""
        end = time.monotonic() + seconds
        kill_at = time.monotonic() + 1
        try:
            while time.monotonic() < end:
                self._reap(wait=False)
                self._tend(wait=False)
                if len(self.running) < AT_ONCE:
                    self._start()
                elif len(self.mounts) < MOUNTS:
                    self._mount()
                elif time.monotonic() >= kill_at:
                    self._kill_a_command()
                    kill_at = time.monotonic() + self.random.uniform(*KILLS_APART)
                else:
                    time.sleep(0.02)  # the commands need the processors
            self._reap(wait=True)
            self._tend(wait=True)
        finally:
            self._clean_up()

    def _clean_up(self) -> None:
        """End all that still runs because something was wrong."""
        for _, _, process in self.running:
            process.kill()
            process.communicate()
        for mount, _ in self.mounts:
            mount.clean_up()

    def check(self) -> None:
        """All that is listed is whole, here and there, and stays so by a new index."""
        for made in (self.made, self.there):
            for _ in range(2):
                assert made.run("gc", "--json").summary()["chunks_lost"] == 0
                with readback.opened(made) as repository:
                    for point in repository.points():
                        source = Path(point.source_path)
                        assert readback.differences(repository, point, source) == []
                    assert verify(repository, level="data").damages == []
                    repository.rebuild_index()
            assert health.leftovers(made.path) == []


def _may_end(status: int, said: str) -> bool:
    """Whether it ended well, or for a reason that there is: no point yet, or a new index."""
    if status == 2:
        return NOTHING_THERE in said
    if status == 1:
        return "run the same command again" in said
    return status in FINE
