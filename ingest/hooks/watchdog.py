"""The watchdog: a process that freezes, and that thaws whatever becomes of the master.

Run as `python -m ingest.hooks.watchdog DESCRIPTOR`, with a socket to the master there. It runs the
freeze scripts, says so, and thaws when it is told to, when the master is gone, or when the window
is over, whichever comes first. The master is asked to end by signals that reach a whole terminal
or a whole service; the watchdog ignores these and ends by itself.

One JSON object a line. To it: `begin`, then `thaw`. From it: `frozen` or `failed`, then `thawed`.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import socket
import sys
import threading
import time
from typing import Any, Final

from ingest.hooks import frozen, script
from ingest.hooks.frozen import FrozenRecord
from ingest.hooks.script import Facts, Unsafe

PROBE_SECONDS: Final = 1.0
"""So long may touching the repository take before its file system counts as frozen."""

_FITHAW: Final = 0xC0045878


class Watchdog:
    """One freeze, from `begin` to the last thaw script."""

    def __init__(self, connection: socket.socket, begin: dict[str, Any]) -> None:
        self._connection = connection
        self._folder = str(begin["folder"])
        self._facts = Facts(**begin["facts"])
        self._protected = [str(path) for path in begin["protected"]]
        self._window = float(begin["window"])
        self._over = time.monotonic() + self._window
        self._started: list[str] = []
        self._stuck: list[str] = []

    def conduct(self) -> None:
        """Freeze, wait, thaw."""
        place = frozen.place(os.geteuid(), os.environ)
        with FrozenRecord(place, self._folder, self._facts) as record:
            try:
                failure = self._freeze(record)
                if failure:
                    self._thaw(why="failed", failure=failure)
                else:
                    self._say(event="frozen")
                    self._thaw(why=self._wait())
            except BaseException as error:
                # Not even a mistake of ours leaves anything frozen.
                self._thaw(why="failed", failure=repr(error))
                raise

    def _freeze(self, record: FrozenRecord) -> str:
        """Run the freeze scripts, one after the other; what failed, or nothing."""
        try:
            scripts = script.find(self._folder, "freeze")
            # Whether thawing is possible at all is better known before.
            frozen.thaw_scripts(self._folder, scripts)
        except (OSError, Unsafe) as error:
            return str(error)
        for path in scripts:
            left = self._over - time.monotonic()
            if left <= 0:
                return f"{path}: not started: the window of {self._window:g} s is over"
            self._started.append(path)
            record.write(self._started)
            watched = self._connection.fileno()
            failure = script.run(path, "freeze", self._facts, left, watched=watched, bound=True)
            if failure is not None:
                return str(failure)
        for path in self._protected:
            if is_frozen(path):
                self._stuck.append(path)
                return (
                    f"{path}: a freeze hook froze the file system that holds the repository: "
                    "nothing could be written there"
                )
        return ""

    def _wait(self) -> str:
        """Until there is a reason to thaw: which it is."""
        left = max(0.0, self._over - time.monotonic())
        if not select.select([self._connection], [], [], left)[0]:
            return "window"
        try:
            return "asked" if self._connection.recv(4096) else "gone"
        except OSError:
            return "gone"

    def _thaw(self, *, why: str, failure: str = "") -> None:
        try:
            scripts = frozen.thaw_scripts(self._folder, self._started)
        except (OSError, Unsafe) as error:
            self._say(event="thawed", why=why, failure=failure, failures=[str(error)])
            return
        failures = [*map(str, frozen.thaw(scripts, self._facts, bound=True))]
        self._started = []
        failures += [
            f"{path}: the file system that holds the repository was thawed by force"
            for path in self._stuck
            if is_frozen(path) and thaw_file_system(path)
        ]
        self._say(event="thawed", why=why, failure=failure, failures=failures)

    def _say(self, **message: Any) -> None:
        try:
            self._connection.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            return  # the master is gone; what is to be done is done all the same


def is_frozen(path: str) -> bool:
    """Whether writing to the file system of `path` hangs. A write that fails does not hang."""

    def touch() -> None:
        try:
            os.close(os.open(path, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        except OSError:
            return

    # It hangs in the kernel, where no signal reaches it, until somebody thaws.
    thread = threading.Thread(target=touch, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return thread.is_alive()


def thaw_file_system(path: str) -> bool:
    """Thaw the file system of `path` itself; whether that could be done."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, _FITHAW, 0)
        finally:
            os.close(fd)
    except OSError:
        return False
    return True


def main() -> int:
    """Serve one master."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    connection = socket.socket(fileno=int(sys.argv[1]))
    with connection, connection.makefile("rb", buffering=0) as lines:
        line = lines.readline()
        if line:
            Watchdog(connection, json.loads(line)).conduct()
    return 0


if __name__ == "__main__":
    sys.exit(main())
