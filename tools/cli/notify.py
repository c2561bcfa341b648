"""Notify: tells systemd that a service is ready and what it does (sd_notify(3))."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from typing import Final

STATUS_SECONDS: Final = 1.0

_told = 0.0


def ready(text: str) -> None:
    """The service runs; `text` is what `systemctl status` shows. Nothing without systemd."""
    _send(f"READY=1\nSTATUS={text}")


def status(text: str) -> None:
    """What the service is doing; at most once a second."""
    global _told  # noqa: PLW0603 (one process is one service)
    now = time.monotonic()
    if now - _told >= STATUS_SECONDS:
        _told = now
        _send(f"STATUS={text}")


def _send(text: str) -> None:
    address = os.environ.get("NOTIFY_SOCKET")
    if not address or address[0] not in "/@":
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
        # An abstract address begins with NUL, which no environment can hold.
        out.connect("\0" + address[1:] if address[0] == "@" else address)
        out.send(text.encode())
