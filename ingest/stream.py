"""A stream: what one worker produces: chunks, claimed in batches, packed into sealed frames.

A chunk is hashed when it is added and waits in a batch until the master has said which of
the batch are new; those go into the frame that is being filled. Two claims may be in flight, so
that reading goes on meanwhile. A full frame is compressed and sealed straight into a slot of
the memory shared with the master; no free slot means waiting: that is the back-pressure.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from itertools import compress, pairwise
from typing import Any, Final

from ingest.channel import (
    Answer,
    Assign,
    Claim,
    Flush,
    FrameReady,
    Further,
    Halt,
    Halted,
    SlotFree,
    Start,
    Stop,
    WorkerEnd,
)
from ingest.task import Subject, Task
from repo.keys import ContainerKey, Keys
from repo.sealer import Chunk, Sealer, Ticket, weight
from repo.types import CHUNK_KEY_BYTES

CLAIMS_IN_FLIGHT: Final = 2
TICKETS_HELD: Final = 10
"""Tickets that a worker may hold: an answer needs at most 3, and 3 answers may be on their way."""

TASKS_LOW: Final = 4
"""With so many tasks left the results of the others are sent: no more come before."""

CALM_FRAMES: Final = 8
"""After so many frames without waiting for a slot the compression level goes down again."""


class Stopped(Exception):
    """The master has ended the job."""


class Halting(Exception):
    """The job is interrupted: what is claimed is still to be stored, and nothing more."""


class Stream:
    """The packing half of a worker. One thread."""

    def __init__(self, channel: WorkerEnd, keys: Keys, start: Start, slots: memoryview) -> None:
        self.tasks: deque[Task] = deque()
        self._channel = channel
        self._keys = keys
        self._chunk_id = keys.chunk_id
        self._frame_bytes = start.frame_bytes
        self._slot_bytes = start.slot_bytes
        self._slots = slots
        self._free: deque[int] = deque(start.slots)
        self._tickets: deque[Ticket] = deque()
        self._segment_keys: dict[bytes, ContainerKey] = {}
        self._levels = start.levels
        self._calm = 0
        self._sealer = Sealer(level=start.levels[0] if start.levels else None)
        self._batch: list[Chunk] = []
        self._batch_weight = 0
        self._batch_starts: list[tuple[int, int]] = [(0, 0)]
        """From which chunk of the batch on they are of which source."""
        self._sequence = 0
        self._asked: deque[tuple[list[Chunk], list[tuple[int, int]]]] = deque()
        self._answers: deque[Answer] = deque()
        self._packing = False
        self._frame: list[Chunk] = []
        self._frame_weight = 0
        self._frame_shares: Counter[int] = Counter()
        self._through = 0
        self._flush_wanted = False
        self._halting = False
        self.further: deque[tuple[int, Subject]] = deque()
        """Sources that were added to the job: a descriptor of the root, and what to know of it."""

    @property
    def claims(self) -> int:
        """The claim that the chunk added last went, or will go, into."""
        return self._sequence + bool(self._batch)

    def add(self, data: bytes | memoryview) -> bytes:
        """Take a chunk; returns its id. The memory must stay as it is. Raises Halting."""
        chunk_id = self._chunk_id(data)
        self._batch.append((chunk_id, data))
        self._batch_weight += weight(len(data))
        if self._batch_weight >= self._frame_bytes:
            self._claim()
        return chunk_id

    def send(self, message: Any) -> None:
        """Send a result to the master."""
        self._channel.send(message)

    def close(self) -> None:
        """Close the roots of sources that no task came of."""
        for fd in (*(fd for fd, _ in self.further), *self._channel.descriptors):
            os.close(fd)

    def next_task(self) -> Task:
        """The next task; waits for one, claiming and sealing what is unfinished meanwhile.

        Raises Stopped, Halting, or EOFError when the master is gone.
        """
        while not self.tasks:
            if self._halting:
                raise Halting
            if self._batch:
                self._claim()
            elif self._flush_wanted and not self._asked:
                self._flush()
            else:
                self._handle(self._channel.receive())
        if len(self.tasks) == TASKS_LOW:
            self._channel.flush()  # so that more arrive while these are done
        task = self.tasks.popleft()
        if task.source != self._batch_starts[-1][1]:
            self._batch_starts.append((len(self._batch), task.source))
        return task

    def _claim(self) -> None:
        self._sequence += 1
        keys = b"".join([chunk_id[:CHUNK_KEY_BYTES] for chunk_id, _ in self._batch])
        self._channel.send(Claim(self._sequence, keys))
        self._channel.flush()
        self._asked.append((self._batch, self._batch_starts))
        self._batch = []
        self._batch_weight = 0
        self._batch_starts = [(0, self._batch_starts[-1][1])]
        while len(self._asked) > CLAIMS_IN_FLIGHT:
            self._handle(self._channel.receive())
        while (message := self._channel.receive_ready()) is not None:
            self._handle(message)
        if self._halting:
            raise Halting

    def halt(self) -> None:
        """After Halting: seal what is claimed, say so, and wait for the end of the job.

        Raises Stopped, or EOFError when the master is gone.
        """
        while self._asked:
            self._handle(self._channel.receive())
        self._flush()
        self._channel.send(Halted())
        while True:
            self._handle(self._channel.receive())

    def _handle(self, message: Any) -> None:
        match message:
            case Answer():
                self._answers.append(message)
                self._pack_answers()
            case SlotFree(slot):
                self._free.append(slot)
            case Assign(tasks):
                self._flush_wanted = False
                self.tasks.extend(tasks)
            case Flush():
                self._flush_wanted = True
            case Halt():
                self._halting = True
                self.tasks.clear()
            case Further(subject):
                self.further.append((self._channel.descriptors.popleft(), subject))
            case Stop():
                raise Stopped

    def _pack_answers(self) -> None:
        if self._packing:
            return  # called from within: sealing waits for a slot and read another answer
        self._packing = True
        try:
            while self._answers:
                self._pack(self._answers.popleft())
        finally:
            self._packing = False

    def _pack(self, answer: Answer) -> None:
        self._tickets.extend(answer.tickets)
        batch, starts = self._asked.popleft()
        left = sum(answer.new)
        for (start, source), (stop, _) in pairwise([*starts, (len(batch), -1)]):
            for chunk in compress(batch[start:stop], answer.new[start:stop]):
                left -= 1
                length = len(chunk[1])
                self._frame.append(chunk)
                self._frame_shares[source] += length
                self._frame_weight += weight(length)
                if self._frame_weight >= self._frame_bytes:
                    self._through = answer.sequence - bool(left)
                    self._seal()
        self._through = answer.sequence

    def _flush(self) -> None:
        self._flush_wanted = False
        if self._frame:
            self._seal()

    def _seal(self) -> None:
        waited = not self._free
        while not self._free:
            self._handle(self._channel.receive())
        slot = self._free.popleft()
        ticket = self._tickets.popleft()
        key = self._segment_keys.get(ticket.segment_id)
        if key is None:
            key = self._keys.container(ticket.salt, "segment", ticket.segment_id)
            self._segment_keys = {ticket.segment_id: key}
        self._choose_level(waited=waited)
        start = slot * self._slot_bytes
        out = self._slots[start : start + self._slot_bytes]
        frame = self._sealer.seal(key, ticket.number, self._frame, out)
        shares = tuple(self._frame_shares.items())
        self._channel.send(FrameReady(slot, ticket.segment_id, *frame, self._through, shares))
        self._frame = []
        self._frame_weight = 0
        self._frame_shares.clear()

    def _choose_level(self, *, waited: bool) -> None:
        """Compress harder while the store is what we wait for, and faster when it is not."""
        if len(self._levels) < 2:
            return
        place = self._levels.index(self._sealer.level or self._levels[0])
        self._calm = 0 if waited else self._calm + 1
        if waited and place + 1 < len(self._levels):
            self._sealer.level = self._levels[place + 1]
        elif self._calm >= CALM_FRAMES and place:
            self._sealer.level = self._levels[place - 1]
            self._calm = 0
