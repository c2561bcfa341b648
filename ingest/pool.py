"""A pool: the workers of a job as the master sees them: started, spoken to, buried.

The first worker is a thread of the master, so that a job with little to do starts no process.
Processes are started by exec, never by fork, and in a process group of their own: an interrupt
typed at the terminal reaches the master alone, and a worker ends when its channel does.
"""

from __future__ import annotations

import mmap
import os
import socket
import subprocess
import sys
import threading
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol

import trio

from ingest.channel import Splitter, Start, Stop, ToWorker, pack, parse_from_worker
from ingest.planner import Work
from ingest.task import Path
from repo.errors import JobFailed
from repo.types import SegmentId

SLOTS_PER_WORKER: Final = 4
RECEIVED_BYTES: Final = 1 << 18
THREAD: Final = 0
"""The number of the worker that is a thread."""


class Handle:
    """One worker: what it holds, and the channel to it."""

    def __init__(self, number: int, connection: socket.socket, slots: Sequence[int]) -> None:
        self.number = number
        self.slots = slots
        self.held: dict[int, Work] = {}
        self.tickets: Counter[SegmentId] = Counter()
        self.ready = False
        self.retired = False
        self.gone = False
        self.halted = False
        self.flushed = False
        self.path: Path = ()
        self.process: subprocess.Popen[bytes] | None = None
        self.thread: threading.Thread | None = None
        connection.setblocking(False)
        self._socket = connection
        self._outgoing = bytearray()
        self._descriptors: deque[tuple[int, int]] = deque()  # where in what is outgoing, and which
        self._wake = trio.Event()

    def send(self, message: ToWorker) -> None:
        """Send with the next `flush`: messages leave together, as each wakes the worker."""
        self._outgoing += pack(message)

    def send_with(self, message: ToWorker, fd: int) -> None:
        """Send a message and a descriptor, which must stay open until it has left."""
        self._descriptors.append((len(self._outgoing), fd))
        self.send(message)

    def flush(self) -> None:
        """Send what has gathered, without waiting. What the socket does not take `pump` sends."""
        if self._outgoing and not self._wake.is_set():
            self._send_some()
            if self._outgoing:
                self._wake.set()

    async def pump(self) -> None:
        """Send what `flush` had to leave; runs as long as the worker lives."""
        while not self.gone:
            await self._wake.wait()
            with suppress(trio.ClosedResourceError):  # buried meanwhile
                while self._outgoing and not self.gone:
                    await trio.lowlevel.wait_writable(self._socket)
                    self._send_some()
            self._wake = trio.Event()

    def _send_some(self) -> None:
        """Send what the socket takes at once."""
        while self._outgoing:
            wanted = len(self._outgoing)
            fds: list[int] = []
            if self._descriptors:
                wanted, fd = self._descriptors[0]
                if not wanted:  # it goes with the first byte of its message
                    wanted, fds = 1, [fd]
            sent = self._send_now(self._outgoing[:wanted], fds)
            if fds and sent:
                self._descriptors.popleft()
            del self._outgoing[:sent]
            self._descriptors = deque((at - sent, fd) for at, fd in self._descriptors)
            if sent < wanted:
                return

    def _send_now(self, data: bytearray, fds: list[int]) -> int:
        """How many bytes the socket takes at once; all, when the worker is gone anyhow."""
        try:
            return socket.send_fds(self._socket, [data], fds) if fds else self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            return len(data)  # `receive` meets the end, too, and the worker is buried

    async def receive(self) -> bytes:
        """What has arrived, waiting for it; b"" at the end."""
        # One system call and one checkpoint each time: trio's own recv would cost twice that.
        while True:
            await trio.lowlevel.wait_readable(self._socket)
            with suppress(BlockingIOError):
                return self._socket.recv(RECEIVED_BYTES)

    def bury(self) -> None:
        """Close the channel and end the process, if it has not ended by itself."""
        self.gone = True
        self._wake.set()
        trio.lowlevel.notify_closing(self._socket)
        self._socket.close()
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        if self.thread is not None:
            self.thread.join()


class Serve(Protocol):
    """What a worker does at its end: `ingest.worker.serve`."""

    def __call__(self, connection: socket.socket, slots: memoryview) -> None:
        """Be a worker until the job ends."""


OnMessage = Callable[[Handle, Any], Awaitable[None]]
OnGone = Callable[[Handle], None]


class Pool:
    """Starts workers and passes their messages on. Lives in one nursery."""

    def __init__(
        self,
        nursery: trio.Nursery,
        *,
        start: Callable[[int, tuple[int, ...]], Start],
        roots: Callable[[], Sequence[int]],
        workers_max: int,
        slot_bytes: int,
        on_message: OnMessage,
        on_gone: OnGone,
    ) -> None:
        """`start` makes a worker's first message from its number and slots; `roots` are the
        descriptors that it names.
        """
        self.workers: dict[int, Handle] = {}
        self._nursery = nursery
        self._start = start
        self._roots = roots
        self._slot_bytes = slot_bytes
        self._on_message = on_message
        self._on_gone = on_gone
        places = (workers_max + 1) * SLOTS_PER_WORKER
        self._memfd = os.memfd_create("repo-slots", os.MFD_CLOEXEC)
        os.ftruncate(self._memfd, places * slot_bytes)
        self._memory = mmap.mmap(self._memfd, 0)
        self.slots = memoryview(self._memory)
        self._free_slots = list(range(places))
        self._numbers = THREAD

    def slot(self, number: int, length: int) -> memoryview:
        """The first `length` bytes of a slot."""
        at = number * self._slot_bytes
        return self.slots[at : at + length]

    def start_thread(self, serve: Serve) -> None:
        """Start the worker that shares this process."""
        mine, theirs = socket.socketpair()
        handle = self._adopt(mine)
        handle.thread = threading.Thread(
            target=serve, args=(theirs, self.slots), name="worker", daemon=True
        )
        handle.thread.start()

    @property
    def has_room(self) -> bool:
        """Whether there are slots for one worker more: those of a dead one come free later."""
        return len(self._free_slots) >= SLOTS_PER_WORKER

    def start_process(self) -> None:
        """Start a worker process. Raises JobFailed when there is none to be had."""
        mine, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-P", "-m", "ingest.worker"]
            command += [str(theirs.fileno()), str(self._memfd)]
            try:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(), self._memfd, *self._roots()),
                    process_group=0,
                )
            except OSError as error:
                mine.close()
                raise JobFailed(
                    f"a worker cannot be started: {error.strerror}", where=sys.executable
                ) from error
        self._adopt(mine).process = process

    def _adopt(self, connection: socket.socket) -> Handle:
        slots = tuple(self._free_slots.pop() for _ in range(SLOTS_PER_WORKER))
        handle = Handle(self._numbers, connection, slots)
        self._numbers += 1
        self.workers[handle.number] = handle
        handle.send(self._start(handle.number, slots))
        handle.flush()
        self._nursery.start_soon(handle.pump)
        self._nursery.start_soon(self._listen, handle)
        return handle

    async def _listen(self, handle: Handle) -> None:
        splitter = Splitter()
        try:
            while data := await handle.receive():
                for body in splitter.feed(data):
                    await self._on_message(handle, parse_from_worker(body))
                self.flush()
        except (OSError, trio.ClosedResourceError):
            pass  # a reset says the same as an end: the worker is gone
        if not handle.gone:
            self._on_gone(handle)
            self.flush()

    def flush(self) -> None:
        """Send to every worker what has gathered for it."""
        for handle in self.workers.values():
            handle.flush()

    def remove(self, handle: Handle) -> None:
        """Bury a worker. Its slots are free when `free` says that nothing is read from them."""
        del self.workers[handle.number]
        handle.bury()

    def free(self, slots: Sequence[int]) -> None:
        """The slots of a removed worker may be given to the next one."""
        self._free_slots.extend(slots)

    def close(self) -> None:
        """End all workers and free the slots."""
        for handle in list(self.workers.values()):
            handle.send(Stop())
            handle.flush()
            self.remove(handle)
        self.slots.release()
        with suppress(BufferError):
            self._memory.close()  # a dying thread may still hold a view; the process ends it
        os.close(self._memfd)
