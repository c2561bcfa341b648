"""`repo`, but on a machine whose clock is a hundred years ahead.

A script: `python forged.py ARGUMENT...` is `repo ARGUMENT...` otherwise.
"""

from __future__ import annotations

import sys
import time

from tools.cli.main import main

AHEAD_NS = 100 * 365 * 24 * 3600 * 1_000_000_000

if __name__ == "__main__":
    real = time.time_ns
    time.time_ns = lambda: real() + AHEAD_NS
    sys.exit(main())
