"""Help for the tests of mounts: points of trees, mounted as a user mounts them."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mount import mountpoint
from mount.ending import unmount_and_wait
from mount.statistics import ask
from repo.errors import RepoError
from tests.support import command, need

ADAPTERS = ("device", "pyfuse3")


class Mount:
    """A mount at `path`, served by the process `pid`."""

    def __init__(self, repository: command.Repository, path: Path, log: Path) -> None:
        self.repository = repository
        self.path = path
        self._log = log
        found = mountpoint.mount_at(path)
        assert found is not None
        self._found = found
        self.device = found.device
        self.pid: int = self.statistics()["pid"]

    def statistics(self) -> dict[str, Any]:
        """Its counters."""
        return ask(self._found)

    def log(self) -> str:
        """What it has logged."""
        return self._log.read_text(errors="surrogateescape")

    @property
    def is_there(self) -> bool:
        """Whether something is mounted at the path."""
        return mountpoint.mount_at(self.path) is not None

    def kill(self) -> None:
        """End the process as a crash does."""
        process = os.pidfd_open(self.pid)
        try:
            signal.pidfd_send_signal(process, signal.SIGKILL)
            wait_for_end(process)
        finally:
            os.close(process)


def wait_for_end(process: int) -> None:
    """Wait until the process of a pidfd has ended."""
    poll = select.poll()
    poll.register(process, select.POLLIN)
    assert poll.poll(60_000), "the process does not end"


@contextlib.contextmanager
def mounted(
    repository: command.Repository, at: Path, *options: str, point: str = "latest"
) -> Iterator[Mount]:
    """Mount a point with `repo mount` and take the mount away in the end."""
    need.fuse()
    at.mkdir(parents=True, exist_ok=True)
    log = at.with_name(at.name + ".log")
    repository.run("mount", point, at, "--log-file", log, *options)
    try:
        yield Mount(repository, at, log)
    finally:
        clean_up(at)


def clean_up(at: Path) -> None:
    """Take a mount away, whatever became of it; and wait for its process."""
    if mountpoint.mount_at(at) is None:
        return
    try:
        unmount_and_wait(str(at), lazy=False)
    except RepoError:  # in use because a test failed: let that failure be seen
        subprocess.run(["umount", "-l", at], check=False)
