"""The allocator: how the C library's malloc is to keep memory in a process that opens frames.

Frames are buffers of about 1 MiB, made by several threads and freed by another. Left alone,
glibc gives each thread an arena of its own, whose holes nobody else can use, or maps each buffer
anew, so that the kernel has to clear every page of it. One arena that keeps what it has
takes a third less memory at the same speed.
"""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress
from typing import Final

from repo.types import MIB

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8

_GC_THRESHOLD: Final = 50_000


def settle() -> None:
    """Set up this process for opening frames; before its threads are started."""
    with suppress(AttributeError, OSError):  # another C library than glibc
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, 32 * MIB)
        mallopt(_M_TRIM_THRESHOLD, 128 * MIB)
    # Entries and frames hold no cycles, but there are so many that looking for some costs.
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD, 20, 100)
