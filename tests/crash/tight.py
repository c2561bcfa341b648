"""`repo`, but with windows of a re-layout so small that a small repository has many of them.

A script: `python tight.py ARGUMENT...` is `repo ARGUMENT...` otherwise.
"""

from __future__ import annotations

import sys

from repo import writer
from repo.upkeep import relayout
from tools.cli.main import main

if __name__ == "__main__":
    relayout.WINDOW_BYTES = 16_000  # type: ignore[misc]
    relayout.SLACK_BYTES = 0  # type: ignore[misc]
    relayout.MOVED_AT_ONCE = 5  # type: ignore[misc]
    writer.COMMIT_BYTES = 1
    sys.exit(main())
