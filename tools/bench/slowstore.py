"""A slow store: the command `repo` over segments of which each read takes some time more, as one
over a network does.

    python -m tools.bench.slowstore MILLISECONDS ahead|plain ARGUMENT...

`plain`: a mount then fetches nothing ahead, only what a request waits for.
"""

from __future__ import annotations

import sys
import time

from mount.ahead import Ahead
from repo.storage.fetcher import Fetcher
from repo.types import SegmentId
from tools.cli import main

_read = Fetcher.read


def slow_down(seconds: float) -> None:
    """Let each read of a segment take so much longer."""

    def read(self: Fetcher, segment_id: SegmentId, offset: int, length: int) -> bytes:
        time.sleep(seconds)
        return _read(self, segment_id, offset, length)

    Fetcher.read = read  # type: ignore[method-assign]


if __name__ == "__main__":
    milliseconds, ahead, *arguments = sys.argv[1:]
    slow_down(float(milliseconds) / 1000)
    if ahead == "plain":
        Ahead.was_read = lambda *_request: None  # type: ignore[method-assign]
    sys.argv[1:] = arguments
    sys.exit(main.main())
