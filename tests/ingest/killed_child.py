"""A run that kills itself when it has kept so many checkpoints: a process of its own.

python -m tests.ingest.killed_child REPOSITORY KEY_FILE SOURCE CHECKPOINTS
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import ingest.base
from ingest.job import Job
from ingest.session import IngestRequest
from ingest.session import ingest as run_ingest
from repo.format.manifest import Point
from repo.keys import KeyFile
from repo.repository import Repository
from repo.writer import Writer


def with_checkpoint(on_message: Any) -> Any:
    """A checkpoint behind every message that brought something, however fast the machine is."""

    async def on_message_and_keep(job: Job, handle: object, message: object) -> None:
        await on_message(job, handle, message)
        await job._checkpoints.when_due()

    return on_message_and_keep


def main(repository_path: str, key_file: str, source: str, checkpoints: str) -> None:
    """Ingest with a checkpoint whenever something was read; die with SIGKILL behind one."""
    kept: list[Point] = []
    keep = Writer.keep_unfinished

    def keep_and_die(writer: Writer, point: Point) -> None:
        keep(writer, point)
        kept.append(point)
        if len(kept) == int(checkpoints):
            os.kill(os.getpid(), signal.SIGKILL)

    Writer.keep_unfinished = keep_and_die  # type: ignore[method-assign, assignment]
    ingest.base.RACY_NS = 0  # type: ignore[misc]
    Job._on_message = with_checkpoint(Job._on_message)  # type: ignore[method-assign]
    with Repository.open(repository_path, KeyFile(Path(key_file))) as repository:
        run_ingest(repository, IngestRequest(paths=[source], streams=2, checkpoint_seconds=0))


if __name__ == "__main__":
    main(*sys.argv[1:])
