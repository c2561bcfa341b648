"""A restore pool: the workers of a restore as its master sees them: started, spoken to, ended.

Processes are started by exec, never by fork, in a process group of their own: an interrupt typed
at the terminal reaches the master alone.
"""

from __future__ import annotations

import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Final

from mount.restorechannel import Splitter, Start, ToWorker, pack, parse_from_worker
from mount.restoreplan import Work
from repo.errors import JobFailed

WORKER = "mount.restoreworker"
"""The module that a worker runs."""

END_SECONDS: Final = 30.0
"""A worker that was told to stop has so long before it is killed: the target may be slow."""

_STEP_SECONDS: Final = 0.1


class Worker:
    """One worker process: what it holds, and the channel to it."""

    def __init__(
        self, number: int, connection: socket.socket, process: subprocess.Popen[bytes]
    ) -> None:
        self.number = number
        self.process = process
        self.socket = connection
        self.ready = False
        self.held: dict[int, Work] = {}
        self.splitter = Splitter()
        self.outgoing = bytearray()
        connection.setblocking(False)

    def flush(self) -> None:
        """Send what the socket takes just now. Raises OSError when the worker is gone."""
        while self.outgoing:
            try:
                sent = self.socket.send(self.outgoing)
            except BlockingIOError:
                return
            del self.outgoing[:sent]


class Gone:
    """Instead of a message: the worker has ended."""


class RestorePool:
    """Starts workers and passes their messages on. For one thread."""

    def __init__(self, root_fd: int, start: Start) -> None:
        self.workers: dict[int, Worker] = {}
        self._root_fd = root_fd
        self._start = start
        self._numbers = 0
        self._selector = selectors.DefaultSelector()

    def start_worker(self) -> None:
        """Start a worker process. Raises JobFailed when there is none to be had."""
        mine, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-P", "-m", WORKER, str(theirs.fileno())]
            try:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(), self._root_fd),
                    process_group=0,
                )
            except OSError as error:
                mine.close()
                raise JobFailed(
                    f"a worker cannot be started: {error.strerror}", where=sys.executable
                ) from error
        self._numbers += 1
        worker = Worker(self._numbers, mine, process)
        self.workers[worker.number] = worker
        self._selector.register(mine, selectors.EVENT_READ, worker)
        self.send(worker, self._start)

    def send(self, worker: Worker, message: ToWorker) -> None:
        """Send without waiting. What the socket does not take at once follows later."""
        worker.outgoing += pack(message)
        self._flush(worker)

    def _flush(self, worker: Worker) -> None:
        with suppress(OSError):  # gone: the reading side finds out
            worker.flush()
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if worker.outgoing else 0)
        self._selector.modify(worker.socket, events, worker)

    def messages(self, seconds: float) -> Iterator[tuple[Worker, Any]]:
        """What workers say, waiting so long at most for the first; `Gone` when one has ended."""
        for key, events in self._selector.select(seconds):
            worker: Worker = key.data
            if events & selectors.EVENT_WRITE:
                self._flush(worker)
            if not events & selectors.EVENT_READ or worker.number not in self.workers:
                continue
            try:
                data = worker.socket.recv(1 << 18)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            if not data:
                self._bury(worker)
                yield worker, Gone()
                continue
            for body in worker.splitter.feed(data):
                yield worker, parse_from_worker(body)

    def _bury(self, worker: Worker) -> None:
        del self.workers[worker.number]
        self._selector.unregister(worker.socket)
        worker.socket.close()
        with suppress(ProcessLookupError):
            worker.process.kill()
        worker.process.wait()

    def close(self, hurry: Callable[[], bool] = lambda: False) -> None:
        """End all workers: each finishes the file it is at. `hurry`: whether to kill them."""
        workers = list(self.workers.values())
        for worker in workers:
            worker.process.send_signal(signal.SIGTERM)
            with suppress(OSError):
                worker.socket.shutdown(socket.SHUT_RDWR)
        left = END_SECONDS
        while left > 0 and not hurry() and any(w.process.poll() is None for w in workers):
            for worker in workers:
                with suppress(subprocess.TimeoutExpired):
                    worker.process.wait(_STEP_SECONDS)
            left -= _STEP_SECONDS
        for worker in workers:
            self._bury(worker)
        self._selector.close()
