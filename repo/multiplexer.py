"""A multiplexer: the one writer of the open segments; frames of many streams go into one file.

It gives out frame numbers (tickets), so that streams may seal in parallel with one segment's
key and no nonce ever repeats: a number is given out once, and one that comes to nothing is
burned, never given again. Frames are appended in the order in which they arrive.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Sequence

from repo.errors import RepositoryFailed
from repo.format import limits
from repo.format.frame import TABLE_ROW, Record
from repo.format.header import Header
from repo.format.place import pack_place
from repo.format.segment import (
    CHUNK_ROW,
    FooterFrame,
    SegmentHeader,
    pack_footer,
    pack_table,
)
from repo.keys import ContainerKey, Keys
from repo.sealer import SealedFrame, Ticket
from repo.storage.appender import Appender
from repo.storage.folder import Folder
from repo.types import MIB, SegmentClass, SegmentId

WRITEBACK_BYTES = 8 * MIB
"""The kernel is asked to start writing back each time this much is new."""


class OpenSegment:
    """A segment that is being written: its file, its key and what it holds so far."""

    def __init__(self, folder: Folder, keys: Keys, header: Header, segment_class: SegmentClass):
        self.id = SegmentId(secrets.token_bytes(16))
        self.salt = secrets.token_bytes(32)
        self.segment_class = segment_class
        self.key = keys.container(self.salt, "segment", self.id)
        self.header = SegmentHeader(
            segment_class, header.repository_id, self.id, self.salt, self.key.commitment
        ).pack()
        self.bytes_max = header.segment_bytes(segment_class)
        self.appender = Appender(folder, self.id, self.header)
        self.index_number: int | None = None  # given by the first commit
        self.frames: list[FooterFrame] = []
        self.committed = 0  # of `frames`: those whose places are in the index
        self.chunks = 0
        self._next_number = 0
        self._outstanding = 0
        self._written_back = 0

    @property
    def full(self) -> bool:
        """Whether no more numbers are to be given out."""
        return (
            self.appender.size >= self.bytes_max
            or self.chunks >= limits.CHUNKS_PER_SEGMENT_MAX
            or self._next_number >= limits.FRAMES_PER_SEGMENT_MAX
        )

    @property
    def idle(self) -> bool:
        """Whether every number given out has come back."""
        return self._outstanding == 0

    def ticket(self) -> Ticket:
        """The next frame number."""
        number = self._next_number
        self._next_number += 1
        self._outstanding += 1
        return Ticket(self.id, self.salt, number)

    def burn(self, count: int = 1) -> None:
        """Numbers given out that come to nothing. They are never given again."""
        self._outstanding -= count

    def append(self, frame: SealedFrame, data: memoryview) -> None:
        """Write a sealed frame; its ticket is used up."""
        offset = self.appender.append((data[: frame.sealed_bytes],))
        self._outstanding -= 1
        self.chunks += frame.chunk_count
        self.frames.append(
            FooterFrame(frame.number, offset, frame.sealed_bytes, frame.plain_bytes, frame.chunks)
        )
        if self.appender.size - self._written_back >= WRITEBACK_BYTES:
            self._written_back = self.appender.size
            self.appender.start_writeback()

    def close(self, keys: Keys) -> None:
        """Seal the footer and close the file: from here on the segment stands by itself.

        One whose tickets all came to nothing is removed instead.
        """
        if not self.frames:
            self.appender.discard()
            return
        footer = sealed_footer(
            keys, self.id, self.header, self.frames, self.appender.size, self.appender.checksums()
        )
        self.appender.close(footer)


def frame_table(frames: Sequence[FooterFrame]) -> bytes:
    """Packed rows (offset, sealed length, plain length) by frame number."""
    highest = max((frame.number for frame in frames), default=-1)
    table = bytearray((highest + 1) * TABLE_ROW.size)
    for frame in frames:
        TABLE_ROW.pack_into(
            table,
            frame.number * TABLE_ROW.size,
            frame.offset,
            frame.sealed_bytes,
            frame.plain_bytes,
        )
    return bytes(table)


def place_rows(number: int, frames: Iterable[FooterFrame]) -> list[tuple[bytes, bytes]]:
    """The index's rows (chunk key, packed place) for frames of segment `number`, sorted."""
    rows: list[tuple[bytes, bytes]] = []
    for frame in frames:
        offset = 0
        for key, length in CHUNK_ROW.iter_unpack(frame.chunks):
            rows.append((key, pack_place(number, frame.number, offset, length)))
            offset += length
    rows.sort()
    return rows


def sealed_footer(
    keys: Keys,
    segment_id: SegmentId,
    header: bytes,
    frames: Sequence[FooterFrame],
    content_bytes: int,
    checksums: Sequence[int],
) -> bytes:
    """The footer's bytes. It has a salt, thus a key, of its own: a recovery may write it again."""
    salt = secrets.token_bytes(32)
    key = keys.container(salt, "footer", segment_id)
    sealed = salt + key.commitment + key.seal(0, Record.FOOTER, pack_table(frames))
    return pack_footer(header, content_bytes, sealed, checksums)


class Multiplexer:
    """The open segments of one job: one of each class takes tickets, full ones wait to close."""

    def __init__(self, folder: Folder, keys: Keys, header: Header) -> None:
        self._folder = folder
        self._keys = keys
        self._header = header
        self._current: dict[SegmentClass, OpenSegment] = {}
        self._open: dict[SegmentId, OpenSegment] = {}

    def ticket(self, segment_class: SegmentClass) -> Ticket:
        """A frame number in the current segment of a class, opening one when needed."""
        segment = self._current.get(segment_class)
        if segment is None or segment.full:
            segment = OpenSegment(self._folder, self._keys, self._header, segment_class)
            self._current[segment_class] = segment
            self._open[segment.id] = segment
        return segment.ticket()

    def key(self, ticket: Ticket) -> ContainerKey:
        """The key that a ticket's frame is sealed with."""
        return self._open[ticket.segment_id].key

    def append(self, segment_id: SegmentId, frame: SealedFrame, data: memoryview) -> None:
        """Append a frame that was sealed with one of this multiplexer's tickets."""
        self._open[segment_id].append(frame, data)

    def burn(self, segment_id: SegmentId, count: int = 1) -> None:
        """Give up tickets, after a worker's death or at the end of its work."""
        self._open[segment_id].burn(count)

    def segments(self) -> Iterator[OpenSegment]:
        """All segments that are open."""
        yield from self._open.values()

    def closable(self, *, everything: bool) -> list[OpenSegment]:
        """Segments that take no more frames; at the end of a job, everything."""
        if everything and any(not segment.idle for segment in self._open.values()):
            raise RepositoryFailed("a segment was to be closed with frames outstanding")
        return [s for s in self._open.values() if everything or (s.full and s.idle)]

    def forget(self, segment: OpenSegment) -> None:
        """Drop a segment that was closed."""
        del self._open[segment.id]
        if self._current.get(segment.segment_class) is segment:
            del self._current[segment.segment_class]

    def abandon(self) -> None:
        """Leave every open segment as it is, for the next start to recover."""
        for segment in self._open.values():
            segment.appender.abandon()
        self._open.clear()
        self._current.clear()
