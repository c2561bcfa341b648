"""A process tree: who belongs to a command, how much memory it holds and CPU time it has used."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterable, Iterator

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PR_SET_CHILD_SUBREAPER = 36
_PR_GET_CHILD_SUBREAPER = 37

_libc = ctypes.CDLL(None, use_errno=True)


def children(pid: int) -> list[int]:
    """The direct children of a process, zombies included; none when it is gone."""
    found: list[int] = []
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found
    for task in tasks:
        # A thread may end between the listing and the read.
        with (
            contextlib.suppress(OSError),
            open(f"/proc/{pid}/task/{task}/children", "rb", buffering=0) as file,
        ):
            found.extend(int(word) for word in file.read().split())
    return found


def tree(roots: Iterable[int]) -> list[int]:
    """The given processes and all their descendants."""
    found: list[int] = []
    seen: set[int] = set()
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        if pid not in seen:
            seen.add(pid)
            found.append(pid)
            waiting.extend(children(pid))
    return found


def pss_bytes(pid: int) -> int:
    """The proportional set size of one process in bytes; 0 when it has ended.

    Raises PermissionError for a process that forbids it (another user's, or one that holds
    keys and has set PR_SET_DUMPABLE to 0, unless we are root).
    """
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb", buffering=0) as file:
            for line in file.read().splitlines():
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0


def cpu_seconds(roots: Iterable[int]) -> float:
    """User and system seconds which the trees of these processes have used so far.

    Children that ended and were waited for are counted with their parent, so the sum only
    grows while the roots live. Resolution: one clock tick (10 ms).
    """
    ticks = 0
    for pid in tree(roots):
        try:
            with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
                # The name in parentheses may itself hold blanks and parentheses (proc(5)).
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            continue
        ticks += sum(int(value) for value in fields[11:15])
    return ticks / _TICKS_PER_SECOND


def bytes_read(roots: Iterable[int]) -> int:
    """Bytes which the trees of these processes have read so far: of files, pipes and sockets.

    Children that ended and were waited for are counted with their parent.
    """
    total = 0
    for pid in tree(roots):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/io", "rb", buffering=0) as file:
            first = file.read().split(b"\n", 1)[0]
            total += int(first.removeprefix(b"rchar:"))
    return total


@contextlib.contextmanager
def adopting_orphans() -> Iterator[None]:
    """Within it, descendants that lose their parent become children of this process.

    So a command cannot hide work in a process that it does not wait for.
    """
    before = ctypes.c_int(0)
    _libc.prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(before), 0, 0, 0)
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, before.value, 0, 0, 0)
