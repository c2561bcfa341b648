"""A repacker: copies what is alive in segments into new ones, as little changed as can be.

A frame of which every chunk is alive is unsealed and sealed again with the key of its new segment,
neither decompressed nor compressed. Of one that is partly dead the rest is packed with that of its
neighbours into new frames. Chunks keep their order, so what was read one behind the other still is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, NamedTuple

from repo.errors import Damaged
from repo.format.frame import (
    HEAD_SEALED_BYTES,
    Record,
    body_record,
    head_record,
    parse_chunk_table,
)
from repo.format.place import pack_place
from repo.format.segment import CHUNK_ROW as FOOTER_CHUNK_ROW
from repo.format.segment import FooterFrame
from repo.index.environment import Transaction
from repo.index.places import Places
from repo.keys import ContainerKey
from repo.multiplexer import Multiplexer, frame_table
from repo.repository import Repository
from repo.sealer import (
    Chunk,
    SealedFrame,
    Sealer,
    frame_bytes_max,
    open_frame,
    open_head,
    weight,
)
from repo.storage.fetcher import GAP_BYTES, RUN_BYTES_MAX, join
from repo.types import CHUNK_KEY_BYTES, SegmentClass, SegmentId

LEVEL: Final = 3
"""zstd's, for frames that are made anew."""


class Moved(NamedTuple):
    """Where a chunk lies now: segment, frame, offset and length in the frame."""

    segment_id: SegmentId
    frame: int
    offset: int
    length: int


class Repacker:
    """Copies live chunks into new segments. Nothing counts before `close` and the index agree."""

    def __init__(self, repository: Repository, places: Places, *, streams: int) -> None:
        self._repository = repository
        self._places = places
        self._frame_bytes = repository.header.class_frame_bytes
        self._multiplexer = Multiplexer(repository.folder, repository.keys, repository.header)
        self._pool = ThreadPoolExecutor(max_workers=max(1, streams), thread_name_prefix="repack")
        self._sealers = [Sealer(level=LEVEL) for _ in range(2 * max(1, streams))]
        self._sealing: deque[tuple[SegmentId, Future[SealedFrame], memoryview, Sealer]] = deque()
        self._rest: dict[SegmentClass, list[Chunk]] = {}
        self._rest_weight: dict[SegmentClass, int] = {}
        self.moves: dict[bytes, Moved] = {}
        self.bytes_written = 0

    def copy(
        self,
        segment_id: SegmentId,
        segment_class: SegmentClass,
        frames: Sequence[FooterFrame],
        alive: set[bytes],
    ) -> None:
        """Copy the chunks of a segment whose keys are in `alive`.

        Raises Damaged when one of its frames that is needed does not verify, RepositoryFailed.
        """
        key = self._repository.reader.segment_key(segment_id)
        needed = [f for f in sorted(frames, key=lambda f: f.offset) if _keys(f) & alive]
        for frame, sealed in self._read(segment_id, needed):
            where = f"segment {segment_id.hex()}, frame {frame.number}"
            if _keys(frame) <= alive and frame.plain_bytes * 2 >= self._frame_bytes(segment_class):
                self._seal_rest(segment_class)  # the order of chunks stays
                self._copy_frame(key, segment_class, frame.number, sealed, where)
            else:
                opened = open_frame(key, frame.number, sealed, where=where)
                for chunk_id, row in opened.chunks.items():
                    if chunk_id[:CHUNK_KEY_BYTES] in alive:
                        data = opened.content[row.offset : row.offset + row.length]
                        self._take(segment_class, chunk_id, data)

    def _read(
        self, segment_id: SegmentId, frames: Sequence[FooterFrame]
    ) -> Iterator[tuple[FooterFrame, memoryview]]:
        """The sealed bytes of frames, neighbours read together."""
        requests = [(segment_id, frame.offset, frame.sealed_bytes) for frame in frames]
        for run in join(requests, gap=GAP_BYTES, most=RUN_BYTES_MAX):
            data = memoryview(self._repository.fetcher.read(segment_id, run.offset, run.length))
            for position in run.requests:
                start = frames[position].offset - run.offset
                yield frames[position], data[start : start + frames[position].sealed_bytes]

    def _copy_frame(
        self,
        key: ContainerKey,
        segment_class: SegmentClass,
        number: int,
        sealed: memoryview,
        where: str,
    ) -> None:
        head = open_head(key, number, sealed, where=where)
        if len(sealed) != head.sealed_bytes:
            raise Damaged("a frame's length is wrong", where=where, next_step="run `repo verify`")
        body = key.open(body_record(number), Record.FRAME_BODY, sealed[HEAD_SEALED_BYTES:])
        rows = parse_chunk_table(head, body, where=where)
        ticket = self._multiplexer.ticket(segment_class)
        new_key = self._multiplexer.key(ticket)
        out = memoryview(bytearray(head.sealed_bytes))
        new_head = head._replace(number=ticket.number)
        end = new_key.seal_into(head_record(ticket.number), Record.FRAME_HEAD, new_head.pack(), out)
        end += new_key.seal_into(body_record(ticket.number), Record.FRAME_BODY, body, out[end:])
        packed = b"".join(
            [FOOTER_CHUNK_ROW.pack(row.id[:CHUNK_KEY_BYTES], row.length) for row in rows]
        )
        self._append(
            ticket.segment_id, SealedFrame(ticket.number, end, head.plain_bytes, packed), out
        )

    def _take(self, segment_class: SegmentClass, chunk_id: bytes, data: memoryview) -> None:
        rest = self._rest.setdefault(segment_class, [])
        rest.append((chunk_id, bytes(data)))
        total = self._rest_weight.get(segment_class, 0) + weight(len(data))
        self._rest_weight[segment_class] = total
        if total >= self._frame_bytes(segment_class):
            self._seal_rest(segment_class)

    def _seal_rest(self, segment_class: SegmentClass) -> None:
        chunks = self._rest.pop(segment_class, [])
        total = self._rest_weight.pop(segment_class, 0)
        if not chunks:
            return
        while len(self._sealing) >= len(self._sealers) or not self._sealers:
            self._append_next()
        ticket = self._multiplexer.ticket(segment_class)
        out = memoryview(bytearray(frame_bytes_max(total, 0)))
        sealer = self._sealers.pop()
        future = self._pool.submit(
            sealer.seal, self._multiplexer.key(ticket), ticket.number, chunks, out
        )
        self._sealing.append((ticket.segment_id, future, out, sealer))

    def _append_next(self) -> None:
        segment_id, future, out, sealer = self._sealing.popleft()
        frame = future.result()
        self._sealers.append(sealer)
        self._append(segment_id, frame, out)

    def _append(self, segment_id: SegmentId, frame: SealedFrame, data: memoryview) -> None:
        self._multiplexer.append(segment_id, frame, data)
        self.bytes_written += frame.sealed_bytes
        offset = 0
        for key, length in FOOTER_CHUNK_ROW.iter_unpack(frame.chunks):
            self.moves[key] = Moved(segment_id, frame.number, offset, length)
            offset += length

    def close(self) -> dict[bytes, bytes]:
        """Make all that was copied durable and known as segments; the new places by chunk key.

        The index has the segments and their frames then, and still the old places.
        """
        for segment_class in list(self._rest):
            self._seal_rest(segment_class)
        while self._sealing:
            self._append_next()
        segments = list(self._multiplexer.closable(everything=True))
        for segment in segments:
            frames = sum(frame.sealed_bytes for frame in segment.frames)
            segment.close(self._repository.keys)
            if frames:
                self.bytes_written += segment.appender.size - frames  # header and footer
        numbers: dict[SegmentId, int] = {}

        def add(txn: Transaction) -> None:
            for segment in segments:
                number = self._places.by_id(segment.id, txn)
                if number is None:
                    number = self._places.add_segment(txn, segment.id, segment.segment_class)
                self._places.set_frames(txn, number, frame_table(segment.frames), closed=True)
                numbers[segment.id] = number

        if segments:
            self._places.environment.write(add)
        for segment in segments:
            self._multiplexer.forget(segment)
        moves, self.moves = self.moves, {}
        return {
            key: pack_place(numbers[moved.segment_id], *moved[1:]) for key, moved in moves.items()
        }

    def end(self) -> None:
        """Give up what was not closed, for recovery to find."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._multiplexer.abandon()


def _keys(frame: FooterFrame) -> set[bytes]:
    return {key for key, _ in FOOTER_CHUNK_ROW.iter_unpack(frame.chunks)}
