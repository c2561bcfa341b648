"""A restore channel: the messages between the master of a restore and a worker.

Each is its length (u32) and msgpack, over a Unix socket pair.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Iterator, Sequence
from struct import Struct
from typing import Any

import msgspec

from mount.links import Answer, Asked, Group
from mount.restoreproblem import Path
from mount.restoretask import BatchTask, Done, RangeTask, RestoreTask

_LENGTH = Struct("<I")
MESSAGE_BYTES_MAX = 256 << 20

# From the master; the tasks themselves are messages, too.


class Start(msgspec.Struct, array_like=True, frozen=True, tag=3):
    """The first message. `keys` are the derived ones; `root` is the descriptor of the target.

    `kept`: the nodes of a delta point, which are in no segment.
    """

    keys: bytes
    repository: str
    repository_id: bytes
    index: str
    root: int
    kept: list[bytes] = []


class Answers(msgspec.Struct, array_like=True, frozen=True, tag=4):
    """To Ask and Wait."""

    answers: list[Answer]


ToWorker = BatchTask | RangeTask | Start | Answers

# From a worker, besides Done.


class Ready(msgspec.Struct, array_like=True, frozen=True, tag=2):
    """The worker has started and takes tasks."""


class Ask(msgspec.Struct, array_like=True, frozen=True, tag=3):
    """A question: who restores these files with several names."""

    asked: list[Asked]


class Tell(msgspec.Struct, array_like=True, frozen=True, tag=4):
    """Where some of them are now."""

    made: list[tuple[Group, Path]]


class Wait(msgspec.Struct, array_like=True, frozen=True, tag=5):
    """The worker goes on when one of these is restored, or left to it."""

    groups: list[Group]


class Broken(msgspec.Struct, array_like=True, frozen=True, tag=6):
    """The worker ends: the repository failed (`repository`), or the worker itself did."""

    what: str
    where: str
    next_step: str
    repository: bool


FromWorker = Done | Ready | Ask | Tell | Wait | Broken

_encoder = msgspec.msgpack.Encoder()
_to_worker = msgspec.msgpack.Decoder(ToWorker)
_from_worker = msgspec.msgpack.Decoder(FromWorker)


def pack(message: ToWorker | FromWorker) -> bytes:
    """A message as it goes over the socket."""
    body = _encoder.encode(message)
    return _LENGTH.pack(len(body)) + body


def parse_from_worker(body: bytes) -> Any:
    """A message of a worker."""
    return _from_worker.decode(body)


class Splitter:
    """Cuts a byte stream into the bodies of messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The bodies that `data` completes."""
        self._buffer += data
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > MESSAGE_BYTES_MAX:
                raise ConnectionError(f"a message of {length} bytes")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[_LENGTH.size : end])
            del self._buffer[:end]
            yield body


class WorkerEnd:
    """The worker's end: blocking, one thread. To its restorer it is the registry of links."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._splitter = Splitter()
        self._bodies: deque[bytes] = deque()
        self._tasks: deque[RestoreTask] = deque()

    def send(self, message: FromWorker) -> None:
        """Send, waiting as long as the master does not read. Raises OSError when it is gone."""
        self._socket.sendall(pack(message))

    def receive(self) -> Any:
        """The next message; waits for it. Raises EOFError when the master is gone."""
        while not self._bodies:
            data = self._socket.recv(1 << 18)
            if not data:
                raise EOFError
            self._bodies.extend(self._splitter.feed(data))
        return _to_worker.decode(self._bodies.popleft())

    def next_task(self) -> RestoreTask:
        """The next task; waits for it. Raises EOFError."""
        if self._tasks:
            return self._tasks.popleft()
        task: RestoreTask = self.receive()
        return task

    def ask(self, asked: Sequence[Asked]) -> Sequence[Answer]:
        """An answer for each question, at once."""
        self.send(Ask(list(asked)))
        return self._answers()

    def tell(self, made: Sequence[tuple[Group, Path]]) -> None:
        """Where groups that were ours are now."""
        self.send(Tell(list(made)))

    def wait(self, groups: Sequence[Group]) -> Sequence[Answer]:
        """New answers for groups in another's hands, for one of them at least."""
        self.send(Wait(list(groups)))
        return self._answers()

    def _answers(self) -> Sequence[Answer]:
        while True:
            message = self.receive()
            if isinstance(message, Answers):
                return message.answers
            self._tasks.append(message)
