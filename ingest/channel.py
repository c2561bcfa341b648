"""A channel: the messages between the master and a worker, over a Unix socket pair.

Each message is its length (u32) and msgpack. Sealed frames do not pass through the socket:
they lie in slots of a shared memfd and only their number is told.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Iterator
from struct import Struct
from typing import Any

import msgspec

from ingest.task import Subject, Task
from repo.format.manifest import Problem
from repo.format.node import Entry
from repo.sealer import Ticket

_LENGTH = Struct("<I")
MESSAGE_BYTES_MAX = 256 << 20
GATHERED_BYTES = 1 << 16
_DESCRIPTOR = Struct("@i")
_DESCRIPTORS_BYTES = socket.CMSG_SPACE(16 * _DESCRIPTOR.size)

# From the master.


class Start(msgspec.Struct, array_like=True, frozen=True, tag=1):
    """The first message: what every task needs: derived keys, descriptors of the roots, sizes."""

    stream: int
    keys: bytes
    chunker: tuple[int, int, int]
    frame_bytes: int
    range_bytes: int
    levels: tuple[int, ...]
    slots: tuple[int, ...]
    slot_bytes: int
    roots: tuple[int, ...]
    subjects: tuple[Subject, ...]


class Assign(msgspec.Struct, array_like=True, frozen=True, tag=2):
    """Tasks to do, in order."""

    tasks: list[Task]


class Answer(msgspec.Struct, array_like=True, frozen=True, tag=3):
    """To a claim: `new` has a byte per chunk, 1 where this worker is to store it."""

    sequence: int
    new: bytes
    tickets: list[Ticket]


class SlotFree(msgspec.Struct, array_like=True, frozen=True, tag=4):
    """The frame in this slot has been written."""

    slot: int


class Flush(msgspec.Struct, array_like=True, frozen=True, tag=5):
    """There is nothing to do now: seal what is in the unfinished frame."""


class Stop(msgspec.Struct, array_like=True, frozen=True, tag=6):
    """The job is over."""


class Halt(msgspec.Struct, array_like=True, frozen=True, tag=7):
    """The job is interrupted: drop the tasks, seal what is claimed, say `Halted`."""


class Further(msgspec.Struct, array_like=True, frozen=True, tag=8):
    """A further source of the job. Its root comes with the message, as a descriptor."""

    subject: Subject


ToWorker = Start | Assign | Answer | SlotFree | Flush | Stop | Halt | Further

# From a worker.


class Claim(msgspec.Struct, array_like=True, frozen=True, tag=1):
    """Which of these chunks are new? `keys` are chunk keys (16 bytes each), in packing order."""

    sequence: int
    keys: bytes


class FrameReady(msgspec.Struct, array_like=True, frozen=True, tag=2):
    """A sealed frame lies in a slot. `through`: all chunks of claims up to it are in frames now.

    `shares`: of each source that has chunks in it, by its number, their plain bytes.
    """

    slot: int
    segment_id: bytes
    number: int
    sealed_bytes: int
    plain_bytes: int
    chunks: bytes
    through: int
    shares: tuple[tuple[int, int], ...]


class Directory(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A sub-directory that a listing found, and the inode that the listing gave for it."""

    name: bytes
    inode: int = 0


class Part(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Packed names that are left for a task of their own: the first, the last, and all."""

    first_name: bytes
    last_name: bytes
    names: bytes


class Large(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A large file that a listing found: its entry without extents, and its version.

    `base` is what a base holds of it. `begun`: that is the beginning of this very file, which an
    unfinished run has read.
    """

    entry: Entry
    version: tuple[int, int, int, int, int]
    base: Entry | None = None
    begun: bool = False


class Counts(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What a task did: entries saved, bytes of regular files among them, bytes read, whether any
    entry has extended attributes; entries taken over from a base, and how many of these were
    read all the same, to audit the base's word.
    """

    files: int = 0
    bytes_source: int = 0
    bytes_read: int = 0
    xattrs: bool = False
    reused: int = 0
    audited: int = 0


class Run(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A packed run of entries."""

    first_name: bytes
    count: int
    entries: bytes
    bytes_below: int


class Listed(msgspec.Struct, array_like=True, frozen=True, tag=3):
    """A directory was listed. `entry` is itself, without node; `runs` are its saved entries.

    `parts` are names that are left for tasks of their own. `claims` is the last claim that its
    chunks went into. `error` instead of an entry: the directory failed.

    `unchanged`: its entries are those of the comparison's first run, and `runs` is empty.
    `same`: its own attributes are those of the base. `put_off`: it was not listed, for its base
    lies elsewhere. `wrong`: names that a base called unchanged, and that an audit found changed.
    """

    task: int
    claims: int
    counts: Counts
    entry: Entry | None = None
    device: int = 0
    volume: int = 0
    directories: list[Directory] = []
    large: list[Large] = []
    runs: list[Run] = []
    parts: list[Part] = []
    failed: list[bytes] = []
    problems: list[Problem] = []
    notices: list[str] = []
    owners: list[tuple[int, int]] = []
    error: Problem | None = None
    unchanged: bool = False
    same: bool = False
    put_off: bool = False
    wrong: list[bytes] = []


class Saved(msgspec.Struct, array_like=True, frozen=True, tag=4):
    """A part of a directory was saved. `unchanged` and `wrong` as in `Listed`."""

    task: int
    claims: int
    counts: Counts
    large: list[Large] = []
    runs: list[Run] = []
    failed: list[bytes] = []
    problems: list[Problem] = []
    owners: list[tuple[int, int]] = []
    unchanged: bool = False
    wrong: list[bytes] = []


class RangeSaved(msgspec.Struct, array_like=True, frozen=True, tag=5):
    """A range was saved: packed extents of `covered` bytes. `changed`: the file is another now."""

    task: int
    claims: int
    extents: bytes
    covered: int
    bytes_read: int
    changed: str = ""
    unreadable: int = 0
    errno: int = 0


class Ready(msgspec.Struct, array_like=True, frozen=True, tag=7):
    """The worker has started and takes tasks."""


class Broken(msgspec.Struct, array_like=True, frozen=True, tag=6):
    """The worker itself failed and ends: its error in words."""

    error: str


class Halted(msgspec.Struct, array_like=True, frozen=True, tag=8):
    """The tasks are dropped and all chunks that were claimed are in frames: nothing follows."""


FromWorker = Claim | FrameReady | Listed | Saved | RangeSaved | Ready | Broken | Halted

_encoder = msgspec.msgpack.Encoder()
_to_worker = msgspec.msgpack.Decoder(ToWorker)
_from_worker = msgspec.msgpack.Decoder(FromWorker)


def pack(message: ToWorker | FromWorker) -> bytes:
    """A message as it goes over the socket."""
    body = _encoder.encode(message)
    return _LENGTH.pack(len(body)) + body


class Splitter:
    """Cuts a byte stream into the bodies of messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The bodies that `data` completes."""
        buffer = self._buffer
        buffer += data
        position = 0
        try:
            while len(buffer) - position >= _LENGTH.size:
                (length,) = _LENGTH.unpack_from(buffer, position)
                if length > MESSAGE_BYTES_MAX:
                    raise ConnectionError(f"a message of {length} bytes")
                end = position + _LENGTH.size + length
                if len(buffer) < end:
                    break
                yield bytes(buffer[position + _LENGTH.size : end])
                position = end
        finally:
            del buffer[:position]


def parse_from_worker(body: bytes) -> Any:
    """A message of a worker."""
    return _from_worker.decode(body)


class WorkerEnd:
    """The worker's end of a channel: blocking, one thread."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._splitter = Splitter()
        self._inbox: deque[bytes] = deque()
        self.descriptors: deque[int] = deque()
        """Received with messages, in their order; whoever takes one closes it."""
        self._outgoing = bytearray()

    def send(self, message: FromWorker) -> None:
        """Send with what comes next: waking the master costs more than a message.

        It leaves with `flush`, before this end waits, or when much has gathered.
        """
        self._outgoing += pack(message)
        if len(self._outgoing) >= GATHERED_BYTES:
            self.flush()

    def flush(self) -> None:
        """Send what has gathered. Raises OSError when the master is gone."""
        if self._outgoing:
            self._socket.sendall(self._outgoing)
            self._outgoing.clear()

    def _recv(self, flags: int) -> bytes:
        # Not socket.recv_fds, which drops the flags.
        data, gathered, _, _ = self._socket.recvmsg(
            1 << 16, _DESCRIPTORS_BYTES, flags | socket.MSG_CMSG_CLOEXEC
        )
        for level, kind, content in gathered:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                self.descriptors.extend(number for (number,) in _DESCRIPTOR.iter_unpack(content))
        return data

    def receive(self) -> Any:
        """The next message; waits for it. Raises EOFError when the master is gone."""
        if not self._inbox:
            self.flush()
        while not self._inbox:
            data = self._recv(0)
            if not data:
                raise EOFError
            self._inbox.extend(self._splitter.feed(data))
        return _to_worker.decode(self._inbox.popleft())

    def receive_ready(self) -> Any | None:
        """The next message if one has arrived, else None. Raises EOFError."""
        if not self._inbox:
            try:
                data = self._recv(socket.MSG_DONTWAIT)
            except BlockingIOError:
                return None
            if not data:
                raise EOFError
            self._inbox.extend(self._splitter.feed(data))
        return _to_worker.decode(self._inbox.popleft()) if self._inbox else None
