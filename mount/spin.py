"""Spin: waiting for the next request without going to sleep at once.

A client that works through many small files sends its next request some 20 us after the last
answer, and most of what a request costs is going to sleep and waking up in between. pyfuse3
takes its event loop from a module global (the hook its asyncio mode is made of), so it can be
given one whose `wait_readable` polls for a short while first, and whose lock does not yield to
the scheduler when it is free. With a single core, spinning would take the time from the
client, so it is never done there.
"""

from __future__ import annotations

import os
import select
import time
from types import SimpleNamespace, TracebackType
from typing import Any, Final

import trio

from mount.bell import Bell

SPIN_SECONDS: Final = 60e-6
IN_A_ROW_MAX: Final = 64
"""So many requests are answered before other tasks get a turn for certain."""


class _Lock:
    """A lock for tasks of one loop that is taken without a checkpoint when it is free."""

    def __init__(self) -> None:
        self._held = False
        self._lot = trio.lowlevel.ParkingLot()

    async def __aenter__(self) -> None:
        if self._held:
            await self._lot.park()  # woken as the new holder
        else:
            self._held = True

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if self._lot:
            self._lot.unpark()
        else:
            self._held = False


class Waiter:
    """Waits for requests on the descriptor of a FUSE session."""

    def __init__(self, bell: Bell) -> None:
        self._bell = bell
        self._poll: dict[int, select.poll] = {}
        self._in_a_row = 0

    async def wait_readable(self, fd: int) -> None:
        """Return when there is a request; see trio.lowlevel.wait_readable."""
        poll = self._poll.get(fd)
        if poll is None:
            poll = self._poll[fd] = select.poll()
            poll.register(fd, select.POLLIN)
        if self._in_a_row < IN_A_ROW_MAX and not self._bell.rung:
            end = time.perf_counter() + SPIN_SECONDS
            while True:
                if poll.poll(0):
                    self._in_a_row += 1
                    return
                if time.perf_counter() >= end or self._bell.rung:
                    break
        self._in_a_row = 0
        self._bell.rung = False
        await trio.lowlevel.wait_readable(fd)


def event_loop(bell: Bell) -> Any:
    """What to give to pyfuse3 in place of the module `trio`; None when it does not pay."""
    if len(os.sched_getaffinity(0)) < 2:
        return None
    names = {name: getattr(trio, name) for name in dir(trio) if not name.startswith("_")}
    low = {name: getattr(trio.lowlevel, name) for name in dir(trio.lowlevel)}
    low["wait_readable"] = Waiter(bell).wait_readable
    return SimpleNamespace(**names | {"Lock": _Lock, "lowlevel": SimpleNamespace(**low)})
