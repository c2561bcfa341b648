"""`repo`, but with a checkpoint after every frame, so that a small job has many of them.

A script: `python eager.py ARGUMENT...` is `repo ARGUMENT...` otherwise.
"""

from __future__ import annotations

import sys

import trio

from ingest.checkpoints import Checkpoints
from ingest.jobsource import JobSource
from repo import writer
from tools.cli.main import main


async def keep_on(checkpoints: Checkpoints[JobSource]) -> None:
    """Look all the time whether a checkpoint is due."""
    while True:
        await trio.lowlevel.checkpoint()
        await checkpoints.when_due()


if __name__ == "__main__":
    writer.COMMIT_BYTES = 1
    Checkpoints.keep_on = keep_on  # type: ignore[method-assign, assignment]
    sys.exit(main())
