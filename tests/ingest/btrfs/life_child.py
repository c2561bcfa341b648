"""Run `repo` and be killed (SIGKILL) before the Nth step of a snapshot's life; as a child process.

    python -m tests.ingest.btrfs.life_child N WORD...

The steps are what changes something that outlives the process. Those passed are written to
stderr, one a line: `step NAME`.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from ingest.btrfs import ioctl
from ingest.hooks.hooks import _Guard
from ingest.snapshots import reflink
from ingest.snapshots.journal import Journal
from repo.writer import Writer
from tools.cli.main import main


class Steps:
    """Counts, and kills."""

    def __init__(self, fatal: int) -> None:
        self._fatal = fatal
        self._passed = 0

    def watch(self, owner: Any, name: str) -> None:
        """Make a function a step."""
        real: Callable[..., Any] = getattr(owner, name)

        def step(*arguments: Any, **options: Any) -> Any:
            self._passed += 1
            if self._passed == self._fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            sys.stderr.write(f"step {name}\n")
            return real(*arguments, **options)

        setattr(owner, name, step)


def watched(fatal: int) -> None:
    """Make steps of all there are."""
    steps = Steps(fatal)
    for name in ("create_subvolume", "create_snapshot", "destroy_subvolume"):
        steps.watch(ioctl, name)
    for name in ("note", "close"):
        steps.watch(Journal, name)
    for name in ("publish", "commit"):
        steps.watch(Writer, name)
    steps.watch(os, "rename")
    for name in ("freeze", "thaw"):
        steps.watch(_Guard, name)
    for name in ("_clone", "_destroy"):
        steps.watch(reflink, name)


if __name__ == "__main__":
    watched(int(sys.argv[1]))
    sys.argv[1:] = sys.argv[2:]
    main()
