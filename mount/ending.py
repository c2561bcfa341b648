"""An ending: a mount is taken away, and its process has gone before this says so."""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Iterator
from typing import Final

from mount import mountpoint, statistics
from repo.errors import JobFailed

_WAIT_MILLISECONDS: Final = 10_000


def unmount_and_wait(path: str, *, lazy: bool) -> None:
    """Unmount, and wait until the process has let go of the repository.

    Not when lazy: it goes on as long as somebody uses the mount. Raises what
    `mountpoint.unmount` raises.
    """
    with _process(path) as process:
        mountpoint.unmount(path, lazy=lazy)
        if process is not None and not lazy:
            poll = select.poll()
            poll.register(process, select.POLLIN)
            poll.poll(_WAIT_MILLISECONDS)


@contextlib.contextmanager
def _process(path: str) -> Iterator[int | None]:
    """A descriptor of the process that serves a mount; None when it cannot be found."""
    found = mountpoint.mount_at(path)
    fd = None
    if found is not None and found.filesystem == mountpoint.FILESYSTEM:
        with contextlib.suppress(JobFailed, OSError, KeyError):
            fd = os.pidfd_open(statistics.ask(found)["pid"])
    try:
        yield fd
    finally:
        if fd is not None:
            os.close(fd)
