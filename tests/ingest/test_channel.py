"""A channel: messages come through whole, in order, however the socket cuts them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest import channel
from ingest.channel import Splitter, WorkerEnd, pack, parse_from_worker
from ingest.task import ListTask, PartTask, RangeTask, Subject
from repo.format.manifest import Problem
from repo.format.node import Entry
from repo.sealer import Ticket
from repo.types import Kind, SegmentId

ENTRY = Entry(b"name \xff", Kind.FILE, 0o644, 1, 2, -5, 1 << 62, 0, (1 << 64) - 1, 1)
TICKET = Ticket(SegmentId(b"s" * 16), b"salt" * 8, 7)

TO_WORKER: list[Any] = [
    channel.Start(
        1, b"keys", (1, 2, 3), 4, 5, (), (0, 1), 6, (8, 9), (Subject(b"rules", ((1, 2),)),)
    ),
    channel.Assign(
        [
            ListTask(1, 0, (b"a", b"\xff")),
            PartTask(2, 0, (), b"names", True),
            RangeTask(3, 0, (b"a",), b"f", 0, 1 << 40, (1, 2, 3, -4, 5)),
        ]
    ),
    channel.Answer(1, b"\0\1", [TICKET]),
    channel.SlotFree(3),
    channel.Flush(),
    channel.Halt(),
    channel.Further(Subject(frozen=True)),
    channel.Stop(),
]

FROM_WORKER: list[Any] = [
    channel.Claim(1, b"k" * 32),
    channel.FrameReady(1, b"s" * 16, 2, 3, 4, b"chunks", 5, ((0, 4),)),
    channel.Listed(
        1,
        2,
        channel.Counts(1, 2, 3, True),
        ENTRY,
        directories=[channel.Directory(b"d")],
        large=[channel.Large(ENTRY, (1, 2, 3, 4, 5))],
        runs=[channel.Run(b"a", 1, b"entries", 9)],
        problems=[Problem(b"p", "read", 5, "why")],
        owners=[(0, 0), (1000, 1000)],
    ),
    channel.Saved(1, 2, channel.Counts(), failed=[b"names"]),
    channel.RangeSaved(1, 2, b"extents", 3, 4, "changed", 5, 6),
    channel.Ready(),
    channel.Broken("why"),
    channel.Halted(),
]


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, WorkerEnd]]:
    master, worker = socket.socketpair()
    with master, worker:
        yield master, WorkerEnd(worker)


def test_every_message_has_an_example_here() -> None:
    assert {type(message) for message in TO_WORKER} == set(get_args(channel.ToWorker))
    assert {type(message) for message in FROM_WORKER} == set(get_args(channel.FromWorker))


@given(st.lists(st.integers(1, 50), min_size=1))
def test_messages_come_through_however_the_bytes_are_cut(cuts: list[int]) -> None:
    stream = b"".join(pack(message) for message in FROM_WORKER)
    splitter = Splitter()
    found: list[Any] = []
    position = 0
    while position < len(stream):
        size = cuts[len(found) % len(cuts)]
        found += map(parse_from_worker, splitter.feed(stream[position : position + size]))
        position += size
    assert found == FROM_WORKER


def test_a_worker_receives_what_was_sent(pair: tuple[socket.socket, WorkerEnd]) -> None:
    master, end = pair
    assert end.receive_ready() is None
    stream = b"".join(pack(message) for message in TO_WORKER)
    master.sendall(stream[:-1])
    received = [end.receive() for _ in TO_WORKER[:-1]]
    assert end.receive_ready() is None, "the last one lacks a byte"
    master.sendall(stream[-1:])
    received.append(end.receive_ready())
    assert received == TO_WORKER


def test_a_message_larger_than_the_socket_takes(pair: tuple[socket.socket, WorkerEnd]) -> None:
    master, end = pair
    large = channel.Claim(1, bytes(3 << 20))
    end.send(channel.Ready())
    sender = threading.Thread(target=end.send, args=(large,))  # so much leaves at once
    sender.start()
    splitter = Splitter()
    bodies: list[bytes] = []
    while len(bodies) < 2:
        bodies += splitter.feed(master.recv(1 << 16))
    sender.join()
    assert list(map(parse_from_worker, bodies)) == [channel.Ready(), large]


def test_what_was_sent_leaves_before_the_worker_waits(
    pair: tuple[socket.socket, WorkerEnd],
) -> None:
    master, end = pair
    for message in FROM_WORKER:
        end.send(message)
    master.sendall(pack(channel.Flush()))
    assert end.receive() == channel.Flush()
    found: list[Any] = []
    splitter = Splitter()
    while len(found) < len(FROM_WORKER):
        found += map(parse_from_worker, splitter.feed(master.recv(1 << 16)))
    assert found == FROM_WORKER


def test_the_end_of_a_channel_is_told(pair: tuple[socket.socket, WorkerEnd]) -> None:
    master, end = pair
    master.sendall(pack(channel.Flush())[:3])
    master.close()
    assert end.receive_ready() is None, "a part of a message is none"
    for receive in (end.receive_ready, end.receive):
        with pytest.raises(EOFError):
            receive()
    end.send(channel.Ready())
    with pytest.raises(OSError, match=r"Broken pipe|reset"):
        end.flush()


def test_an_absurd_length_is_refused_at_once() -> None:
    with pytest.raises(ConnectionError):
        list(Splitter().feed(b"\xff\xff\xff\xff" + bytes(100)))


def test_what_is_no_message_is_refused() -> None:
    for body in (b"", b"\xc1", b"\x91\x63", pack(TO_WORKER[1])[4:]):
        with pytest.raises(msgspec.DecodeError):
            parse_from_worker(body)
