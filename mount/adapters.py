"""Adapters: the two ways to speak to the kernel, from the mount to the last request.

Our own loop (mount/device.py) is the one that is used. pyfuse3 (mount/operations.py) does the
same work through libfuse and is kept beside it: the two check each other in the tests.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import Protocol

import trio

from mount.answers import Answers
from mount.attach import attach
from mount.bell import Bell
from mount.device import Device
from mount.pusher import Parts


class Adapter(Protocol):
    """What a session needs of an adapter."""

    @property
    def initialised(self) -> trio.Event:
        """Set when the kernel and we have met."""
        ...

    def attach(self, where: str, source: str, *, allow_other: bool) -> None:
        """Mount. Raises JobFailed."""
        ...

    def store(self, number: int, offset: int, parts: Parts) -> None:
        """Put content into the page cache of an inode. In a thread; OSError: it is not known."""
        ...

    async def run(self) -> None:
        """Answer until the mount is gone, or `terminate`."""
        ...

    def terminate(self) -> None:
        """Stop answering; whoever still uses the mount gets errors."""
        ...

    def close(self) -> None:
        """Free what is held; the mount, should it still be there, is dead from now on."""
        ...


class OwnLoop:
    """The adapter that reads the device itself."""

    def __init__(
        self, answers: Answers, bell: Bell, requests: Counter[str], *, changes: bool
    ) -> None:
        self._answers = answers
        self._bell = bell
        self._requests = requests
        self._changes = changes
        self._device: Device | None = None
        self.initialised = trio.Event()

    def attach(self, where: str, source: str, *, allow_other: bool) -> None:
        """See Adapter."""
        fd = attach(where, source, allow_other=allow_other)
        self._device = Device(
            fd,
            self._answers,
            self._bell,
            self.initialised,
            self._requests,
            changes=self._changes,
        )

    def store(self, number: int, offset: int, parts: Parts) -> None:
        """See Adapter."""
        if self._device is not None:
            self._device.store(number, offset, parts)

    async def run(self) -> None:
        """See Adapter."""
        assert self._device is not None
        with self._device.scope:
            await self._device.run()

    def terminate(self) -> None:
        """See Adapter."""
        if self._device is not None:
            self._device.scope.cancel()

    def close(self) -> None:
        """See Adapter."""
        if self._device is not None:
            # A thread that hands content to the kernel may still be at it: it finds no descriptor,
            # and not another file that has got the number.
            fd, self._device.fd = self._device.fd, -1
            os.close(fd)
