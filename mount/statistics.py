"""Statistics: what a running mount has done, told to whoever asks it."""

from __future__ import annotations

import json
import logging
import os
import resource
import socket
import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Final

import trio

from mount.cache import CacheCounts
from mount.mountpoint import Mount
from mount.prefetcher import Prefetcher
from mount.pusher import PushCounts
from repo.errors import JobFailed

_CREDENTIALS: Final = struct.Struct("iII")
_ANSWER_SECONDS: Final = 5.0

_Connection = socket.socket | trio.socket.SocketType

log = logging.getLogger("repo.mount")


class Statistics:
    """The counters of one mount."""

    def __init__(
        self,
        cache: CacheCounts,
        prefetcher: Prefetcher,
        pushed: PushCounts,
        requests: Mapping[str, int],
    ) -> None:
        """requests: how often the kernel asked what."""
        self._requests = requests
        self._pushed = pushed
        self._cache = cache
        self._prefetcher = prefetcher

    def figures(self) -> dict[str, Any]:
        """All counters by name."""
        return {
            **asdict(self._cache),
            **asdict(self._prefetcher.counts),
            **asdict(self._pushed),
            **{f"request_{name}": count for name, count in sorted(self._requests.items())},
            "queue_depth": self._prefetcher.queue_depth,
            "memory_peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "pid": os.getpid(),
        }

    def line(self) -> str:
        """All counters in one line."""
        return ", ".join(f"{name} {value}" for name, value in self.figures().items())


def _address(device: str) -> str:
    # A name in the abstract namespace: it goes with the process, and no file is left behind.
    return f"\0repo-mount-{device}"


async def answer_questions(
    device: str,
    statistics: Statistics,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Tell the statistics to any process of the same user, or of root, that connects.

    Tells nobody when the name is taken: any user of the machine may take it.
    """
    with trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        try:
            await listener.bind(_address(device))
        except OSError as error:
            log.warning("the statistics of this mount cannot be asked for: %s", error.strerror)
            task_status.started()
            return
        listener.listen()
        task_status.started()
        while True:
            try:
                connection, _ = await listener.accept()
            except OSError:
                await trio.sleep(_ANSWER_SECONDS)  # out of descriptors, say: later perhaps
                continue
            with connection, trio.move_on_after(_ANSWER_SECONDS):
                if _user_of(connection) in (0, os.geteuid()):
                    with suppress(OSError):
                        await connection.send(json.dumps(statistics.figures()).encode())


def ask(mount: Mount) -> dict[str, Any]:
    """The statistics of a mount of ours. Raises JobFailed when it does not answer."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_ANSWER_SECONDS)
            connection.connect(_address(mount.device))
            # The name says nothing: whoever came first has it.
            if _user_of(connection) not in (0, mount.owner):
                raise ConnectionError("another user has the name of the socket")
            parts = []
            while part := connection.recv(65536):
                parts.append(part)
        figures: dict[str, Any] = json.loads(b"".join(parts))
    except (OSError, ValueError) as error:
        raise JobFailed(
            "the mount does not answer",
            where=mount.path,
            next_step="ask as the user who mounted it",
        ) from error
    return figures


def _user_of(connection: _Connection) -> int:
    """The number of the user at the other end."""
    option = socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size
    _, uid, _ = _CREDENTIALS.unpack(connection.getsockopt(*option))
    return int(uid)
