"""A daemon: how a mount goes into the background, and how it tells that it is ready.

The fork comes first, before anything is opened: neither trio nor LMDB may be used across one.
Until it is ready the child stays on the terminal, asks for a password there and tells what
went wrong; the parent waits and ends with the child's status.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from logging.handlers import SysLogHandler
from typing import Final

from repo.errors import UsageError

_READY: Final = b"1"
_SYSLOG: Final = "/dev/log"


class Detached:
    """Both sides of a fork: `status` is the parent's exit status, None in the child."""

    def __init__(self, status: int | None, ready_fd: int = -1) -> None:
        self.status = status
        self._ready_fd = ready_fd

    def ready(self) -> None:
        """In the child: leave the terminal, and let the parent end well."""
        os.setsid()
        os.chdir("/")
        sys.stdout.flush()
        sys.stderr.flush()
        nothing = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(nothing, fd)
        os.close(nothing)
        os.write(self._ready_fd, _READY)
        os.close(self._ready_fd)


def detach() -> Detached:
    """Fork. The parent comes back when the child is ready or has ended, the child at once."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        return Detached(None, writing)
    os.close(writing)
    # A key that interrupts goes to both; what it means the child says.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        if os.read(reading, 1) == _READY:
            return Detached(0)
        _, ended = os.waitpid(pid, 0)
        return Detached(os.waitstatus_to_exitcode(ended) or 1)
    finally:
        signal.signal(signal.SIGINT, before)
        os.close(reading)


def notify_manager() -> None:
    """Tell a service manager that started us with Type=notify that the mount is there."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.connect("\0" + address[1:] if address.startswith("@") else address)
        manager.send(b"READY=1")


def log_to(path: str | None, *, background: bool) -> None:
    """Where a mount's log lines go: a file, else syslog in the background, else stderr.

    Raises UsageError for a file that cannot be written to.
    """
    handler: logging.Handler
    form = "%(levelname)s %(message)s"
    if path is not None:
        try:
            handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise UsageError(
                f"cannot write the log: {error.strerror}",
                where=path,
                next_step="give another file to --log-file",
            ) from error
        form = f"%(asctime)s repo-mount[{os.getpid()}] {form}"
    elif background and os.path.exists(_SYSLOG):
        handler = SysLogHandler(_SYSLOG, SysLogHandler.LOG_DAEMON)
        form = f"repo-mount[{os.getpid()}]: {form}"
    else:
        handler = logging.StreamHandler()
        form = f"repo: {form}"
    handler.setFormatter(logging.Formatter(form))
    logger = logging.getLogger("repo")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
