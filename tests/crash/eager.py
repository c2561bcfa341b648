"""`repo`, but with a checkpoint after every frame, so that a small job has many of them.

A script: `python eager.py ARGUMENT...` is `repo ARGUMENT...` otherwise.
"""

from __future__ import annotations

import sys

import trio

from ingest.job import Job
from repo import writer
from tools.cli.main import main


async def _keep_durable(self: Job) -> None:
    while True:
        await trio.lowlevel.checkpoint()
        async with self._checkpoints:
            if self._writer.commit_due():
                await self._checkpoint()


if __name__ == "__main__":
    writer.COMMIT_BYTES = 1
    Job._keep_durable = _keep_durable  # type: ignore[method-assign]
    sys.exit(main())
