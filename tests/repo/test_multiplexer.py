"""Many streams into one segment: numbers given once, frames in any order, one footer."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from repo.errors import RepositoryFailed
from repo.format.frame import TABLE_ROW
from repo.multiplexer import Multiplexer, frame_table
from repo.repository import Repository
from repo.scanner import reader_of, scan, walk
from repo.sealer import SealedFrame, Sealer, Ticket, frame_bytes_max
from repo.storage.fetcher import Fetcher
from repo.types import KIB, SegmentClass, SegmentId
from tests.repo import made


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    with made.make(tmp_path) as repository:
        yield repository


@pytest.fixture
def multiplexer(repository: Repository) -> Iterator[Multiplexer]:
    found = Multiplexer(repository.folder, repository.keys, repository.header)
    yield found
    found.abandon()


def sealed(repository: Repository, ticket: Ticket, data: bytes) -> tuple[SealedFrame, memoryview]:
    """A frame of one chunk, as a worker seals it: with a key of its own from the ticket."""
    key = repository.keys.container(ticket.salt, "segment", ticket.segment_id)
    out = memoryview(bytearray(frame_bytes_max(len(data), 0)))
    chunk = (repository.keys.chunk_id(data), data)
    return Sealer(level=None).seal(key, ticket.number, [chunk], out), out


def close_all(repository: Repository, multiplexer: Multiplexer) -> list[SegmentId]:
    closed = []
    for segment in multiplexer.closable(everything=True):
        segment.close(repository.keys)
        multiplexer.forget(segment)
        closed.append(segment.id)
    return closed


def test_frames_of_many_streams_come_back_from_one_segment(
    repository: Repository, multiplexer: Multiplexer
) -> None:
    contents = made.contents(60)
    tickets = [multiplexer.ticket(SegmentClass.DATA) for _ in contents]
    work = list(zip(tickets, contents, strict=True))
    random.Random(1).shuffle(work)  # as workers finish
    for ticket, data in work:
        multiplexer.append(ticket.segment_id, *sealed(repository, ticket, data))
    (segment_id,) = close_all(repository, multiplexer)
    fetcher = Fetcher(repository.folder)
    read, size = reader_of(fetcher, segment_id)
    by_footer = scan(read, size, repository.keys, segment_id)
    by_walking = walk(read, size, repository.keys, segment_id)
    fetcher.close()
    assert by_footer.frames == by_walking.frames
    assert by_footer.end == by_walking.end
    assert by_footer.footer is not None
    assert [frame.number for frame in by_footer.frames] == [ticket.number for ticket, _ in work]
    lengths = [length for frame in by_footer.frames for _, _, length in frame.places()]
    assert lengths == [len(data) for _, data in work]


def test_no_number_is_given_twice(multiplexer: Multiplexer) -> None:
    tickets = [multiplexer.ticket(SegmentClass.DATA) for _ in range(500)]
    multiplexer.burn(tickets[0].segment_id, 400)
    tickets += [multiplexer.ticket(SegmentClass.DATA) for _ in range(500)]
    assert len({(ticket.segment_id, ticket.number) for ticket in tickets}) == 1000
    multiplexer.burn(tickets[0].segment_id, 600)


def test_classes_never_share_a_segment(multiplexer: Multiplexer) -> None:
    tickets = [multiplexer.ticket(segment_class) for segment_class in SegmentClass]
    assert len({ticket.segment_id for ticket in tickets}) == len(SegmentClass)
    assert len({ticket.salt for ticket in tickets}) == len(SegmentClass)
    assert sorted(s.segment_class for s in multiplexer.segments()) == sorted(SegmentClass)


def test_a_full_segment_waits_for_the_tickets_it_gave(
    repository: Repository, multiplexer: Multiplexer
) -> None:
    late = multiplexer.ticket(SegmentClass.DATA)
    data = random.Random(1).randbytes(70 * KIB)
    filling = multiplexer.ticket(SegmentClass.DATA)
    multiplexer.append(filling.segment_id, *sealed(repository, filling, data))
    following = multiplexer.ticket(SegmentClass.DATA)
    assert following.segment_id != filling.segment_id
    assert multiplexer.closable(everything=False) == []
    with pytest.raises(RepositoryFailed, match="outstanding"):
        multiplexer.closable(everything=True)
    multiplexer.append(late.segment_id, *sealed(repository, late, b"late"))
    assert [segment.id for segment in multiplexer.closable(everything=False)] == [late.segment_id]
    multiplexer.burn(following.segment_id)
    assert set(close_all(repository, multiplexer)) == {late.segment_id, following.segment_id}
    assert list(repository.folder.segments()) == [(late.segment_id, False)]


def test_the_frame_table_has_zeros_for_burned_numbers(
    repository: Repository, multiplexer: Multiplexer
) -> None:
    tickets = [multiplexer.ticket(SegmentClass.DATA) for _ in range(4)]
    for ticket in (tickets[3], tickets[1]):
        multiplexer.append(ticket.segment_id, *sealed(repository, ticket, b"data"))
    multiplexer.burn(tickets[0].segment_id, 2)
    (segment,) = multiplexer.segments()
    rows = list(TABLE_ROW.iter_unpack(frame_table(segment.frames)))
    assert rows[0] == rows[2] == (0, 0, 0)
    assert rows[3][0] < rows[1][0]
    assert [row[2] for row in rows] == [0, 4, 0, 4]
    assert frame_table([]) == b""


def test_what_is_abandoned_stays_open_on_disk(
    repository: Repository, multiplexer: Multiplexer
) -> None:
    ticket = multiplexer.ticket(SegmentClass.DATA)
    multiplexer.append(ticket.segment_id, *sealed(repository, ticket, b"data"))
    multiplexer.abandon()
    multiplexer.abandon()
    assert list(repository.folder.segments()) == [(ticket.segment_id, True)]
    assert list(multiplexer.segments()) == []


def test_a_segment_without_frames_leaves_nothing_behind(
    repository: Repository, multiplexer: Multiplexer
) -> None:
    ticket = multiplexer.ticket(SegmentClass.META)
    multiplexer.burn(ticket.segment_id)
    close_all(repository, multiplexer)
    assert list(repository.folder.segments()) == []
