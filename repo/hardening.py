"""Hardening: a process that holds keys leaves no memory image of them behind."""

from __future__ import annotations

import ctypes
import os
import resource
from typing import Final

_PR_SET_DUMPABLE: Final = 4
ALLOW_DUMP: Final = "REPO_ALLOW_DUMP"
"""Environment variable: `1` leaves the process open to debuggers and profilers."""


def harden_process() -> bool:
    """No core dump of this process, and no other process of the user may look into it.

    To be called before a key or password is read, in every process that gets one: the first
    setting ends with exec, the second is inherited. False when REPO_ALLOW_DUMP=1 or the kernel
    refused; the work goes on without.
    """
    if os.environ.get(ALLOW_DUMP) == "1":
        return False
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # The limit alone does not stop a core_pattern that pipes into a program; this does.
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) == 0)
