"""A stream: every new chunk ends up in exactly one frame, whatever the master answers, and when."""

from __future__ import annotations

import random
from collections import Counter, deque
from itertools import compress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest import channel
from ingest.channel import Answer, Assign, Claim, Flush, FrameReady, Halt, Halted, SlotFree, Start
from ingest.stream import TICKETS_HELD, Halting, Stopped, Stream
from ingest.task import ListTask
from repo.keys import derive
from repo.sealer import Ticket, frame_bytes_max, open_frame, weight
from repo.types import CHUNK_KEY_BYTES, KIB, RepositoryId, Secret, SegmentId

KEYS = derive(Secret(bytes(32)), RepositoryId(bytes(16)))
FRAME_BYTES = 4 * KIB
CHUNK_BYTES_MAX = 2 * KIB
SLOT_BYTES = frame_bytes_max(FRAME_BYTES, CHUNK_BYTES_MAX)
SALT = bytes(32)
SEGMENT = SegmentId(b"s" * 16)
TASK = ListTask(1, 0, ())


class Master:
    """The other end of a channel, in the same thread: it acts when the stream waits for it.

    What it does next is drawn by `choose`: nothing here depends on time.
    """

    def __init__(self, *, slots: int, choose: random.Random, new: float) -> None:
        self.slots = memoryview(bytearray(slots * SLOT_BYTES))
        self.free = set(range(slots))
        self.claims: deque[Claim] = deque()
        self.used: list[int] = []
        self.wanted: set[bytes] = set()
        """Chunk keys that the stream was told to store."""
        self.claimed: dict[int, list[bytes]] = {}
        self.stored: Counter[bytes] = Counter()
        self.answered = 0
        self.halted = False
        self.orders: deque[Any] = deque()
        self._choose = choose
        self._new = new
        self._known: set[bytes] = set()
        self._next_ticket = 0
        self._tickets_out = 0
        start = Start(
            1, b"", (1, 1, 1), FRAME_BYTES, 0, (1, 3), tuple(self.free), SLOT_BYTES, (), ()
        )
        self.stream = Stream(self, KEYS, start, self.slots)  # type: ignore[arg-type]

    # -- the stream's side --

    def send(self, message: Any) -> None:
        match message:
            case Claim():
                assert not self.halted
                self.claims.append(message)
                assert len(self.claims) <= 3, "two in flight, and the one that waits for them"
            case FrameReady():
                self._frame(message)
            case Halted():
                self.halted = True

    def flush(self) -> None:
        pass

    def receive(self) -> Any:
        message = self._act()
        assert message is not None, "the stream waits for nothing"
        return message

    def receive_ready(self) -> Any | None:
        return self._act() if self._choose.random() < 0.3 else None

    # -- the master's side --

    def _act(self) -> Any | None:
        able = ["answer"] * bool(self.claims) + ["free"] * bool(self.used)
        if self.orders and (not able or self._choose.random() < 0.4):
            return self.orders.popleft()
        if not able:
            return None
        if self._choose.choice(able) == "free":
            slot = self.used.pop(self._choose.randrange(len(self.used)))
            self.free.add(slot)
            return SlotFree(slot)
        return self._answer(self.claims.popleft())

    def _answer(self, claim: Claim) -> Answer:
        size = CHUNK_KEY_BYTES
        keys = [claim.keys[at : at + size] for at in range(0, len(claim.keys), size)]
        new = bytearray()
        for key in keys:
            fresh = key not in self._known and self._choose.random() < self._new
            self._known.add(key)
            new.append(fresh)
            if fresh:
                self.wanted.add(key)
        self.claimed[claim.sequence] = list(compress(keys, new))
        assert claim.sequence == self.answered + 1
        self.answered = claim.sequence
        count = TICKETS_HELD - self._tickets_out if any(new) else 0
        self._tickets_out += count
        tickets = [Ticket(SEGMENT, SALT, self._next_ticket + number) for number in range(count)]
        self._next_ticket += count
        return Answer(claim.sequence, bytes(new), tickets)

    def _frame(self, ready: FrameReady) -> None:
        assert ready.slot in self.free, "a slot is filled only while it is free"
        self.free.discard(ready.slot)
        self.used.append(ready.slot)
        self._tickets_out -= 1
        at = ready.slot * SLOT_BYTES
        data = self.slots[at : at + ready.sealed_bytes]
        key = KEYS.container(SALT, "segment", SEGMENT)
        key.check_commitment(key.commitment, where="")
        frame = open_frame(key, ready.number, data, where="")
        assert ready.shares == ((0, ready.plain_bytes),)
        for chunk_id in frame.chunks:
            chunk = frame.chunk(chunk_id)
            assert chunk is not None
            assert KEYS.chunk_id(chunk) == chunk_id
            self.stored[chunk_id[:CHUNK_KEY_BYTES]] += 1
        for sequence in range(1, ready.through + 1):
            assert all(self.stored[key] for key in self.claimed[sequence]), "as it was promised"

    def check_all_is_stored(self) -> None:
        assert set(self.stored) == self.wanted
        assert set(self.stored.values()) <= {1}, "no chunk is stored twice"


sizes = st.lists(st.integers(1, CHUNK_BYTES_MAX), max_size=60)


@settings(max_examples=150)
@given(sizes, st.integers(1, 4), st.integers(), st.sampled_from([0.0, 0.1, 0.5, 1.0]))
def test_every_new_chunk_is_in_one_frame(
    sizes: list[int], slots: int, seed: int, new: float
) -> None:
    choose = random.Random(seed)
    master = Master(slots=slots, choose=choose, new=new)
    stream = master.stream
    for size in sizes:
        before = stream.claims
        stream.add(choose.randbytes(size))
        assert before <= stream.claims <= before + 1
    relied_on = stream.claims
    master.orders.append(Flush())
    master.orders.append(Assign([]))  # an order that changes its mind
    master.orders.append(Flush())
    while master.answered < relied_on or not _settled(master):
        _idle(stream, master)
    assert master.answered >= relied_on
    master.check_all_is_stored()


def _settled(master: Master) -> bool:
    return set(master.stored) == master.wanted and not master.used


def _idle(stream: Stream, master: Master) -> None:
    """Let the stream wait for a task until it has done what it can, then give it one."""
    master.orders += [Flush(), Assign([TASK])]
    assert stream.next_task() == TASK


@settings(max_examples=60)
@given(sizes, st.integers(1, 4), st.integers())
def test_a_halt_stores_what_is_claimed_and_nothing_more(
    sizes: list[int], slots: int, seed: int
) -> None:
    choose = random.Random(seed)
    master = Master(slots=slots, choose=choose, new=0.8)
    stream = master.stream
    at = choose.randrange(len(sizes) + 1)
    try:
        for number, size in enumerate(sizes):
            if number == at:
                master.orders.append(Halt())
            stream.add(choose.randbytes(size))
        if at == len(sizes):
            master.orders.append(Halt())
        while True:
            assert stream.next_task() == TASK
    except Halting:
        pass
    assert not stream.tasks
    master.orders.clear()
    with pytest.raises(AssertionError, match="the stream waits for nothing"):
        stream.halt()
    assert master.halted
    assert not master.claims
    master.check_all_is_stored()


def test_a_stream_with_nothing_to_do_waits() -> None:
    master = Master(slots=1, choose=random.Random(1), new=1)
    master.orders += [Flush(), Assign([TASK]), channel.Stop()]
    assert master.stream.next_task() == TASK
    with pytest.raises(Stopped):
        master.stream.next_task()
    assert not master.stored


def test_the_level_goes_up_when_slots_are_waited_for_and_down_again() -> None:
    choose = random.Random(1)
    master = Master(slots=1, choose=choose, new=1)
    seen = set()
    for _ in range(40):
        master.stream.add(choose.randbytes(CHUNK_BYTES_MAX))
        seen.add(master.stream._sealer.level)
    assert seen == {1, 3}
    assert weight(0) > 0
