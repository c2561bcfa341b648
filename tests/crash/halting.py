"""`repo`, but it stops itself with all its workers when it comes to a chosen place the first time.

A script: `python halting.py PLACE ARGUMENT...` is `repo ARGUMENT...` otherwise, with a checkpoint
after every frame. It gets SIGSTOP like any process would, and goes on with SIGCONT. No place lies
inside a transaction of the index: there everybody waits for it.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from functools import wraps
from typing import Any

from ingest import checkpoints
from ingest.checkpoints import Checkpoints
from ingest.claims import Claims
from repo import writer
from repo.multiplexer import OpenSegment
from repo.writer import Writer
from tests.crash.eager import keep_on
from tools.cli.main import main

BEFORE, BEHIND = "before", "behind"
PLACES: dict[str, tuple[type[Any], str, str]] = {
    "chunks were found": (Claims, "answer", BEHIND),
    "a frame is written": (Writer, "append", BEFORE),
    "the index takes a checkpoint": (Writer, "finish_checkpoint", BEFORE),
    "a checkpoint is kept": (Writer, "keep_unfinished", BEHIND),
    "a segment is closed": (OpenSegment, "close", BEFORE),
    "the point is published": (Writer, "publish", BEFORE),
    "the point was published": (Writer, "publish", BEHIND),
}


def halting(function: Callable[..., Any], when: str) -> Callable[..., Any]:
    """The function, stopping the process group at its first call."""
    done: list[bool] = []

    def halt() -> None:
        if not done:
            done.append(True)
            os.killpg(0, signal.SIGSTOP)
            time.sleep(0.5)  # this thread may run on for a moment, and must not begin anything

    @wraps(function)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        if when == BEFORE:
            halt()
        answer = function(*arguments, **options)
        if when == BEHIND and (not isinstance(answer, bytes) or 0 in answer):  # 0: a chunk is known
            halt()
        return answer

    return wrapped


if __name__ == "__main__":
    owner, name, when = PLACES[sys.argv.pop(1)]
    setattr(owner, name, halting(getattr(owner, name), when))
    writer.COMMIT_BYTES = checkpoints.COMMIT_BYTES = 1  # type: ignore[attr-defined]
    Checkpoints.keep_on = keep_on  # type: ignore[method-assign, assignment]
    sys.exit(main())
