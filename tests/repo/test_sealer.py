"""Frames sealed and opened again: whole and authentic, or damage."""

from __future__ import annotations

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from repo.errors import Damaged, JobFailed
from repo.format import limits
from repo.format.frame import (
    CHUNK_ROW,
    HEAD_SEALED_BYTES,
    SEAL_BYTES,
    Codec,
    FrameHead,
    Record,
    body_record,
    head_record,
)
from repo.format.segment import CHUNK_ROW as FOOTER_ROW
from repo.keys import ContainerKey
from repo.sealer import SealedFrame, Sealer, frame_bytes_max, open_frame, open_head, weight
from repo.types import KIB, MIB, SegmentId
from tests.repo.made import keys

KEYS = keys()
SALT = bytes(32)
SEGMENT = SegmentId(bytes(range(16)))

chunk_lists = st.lists(st.binary(max_size=300), min_size=1, max_size=12, unique=True)
levels = st.sampled_from([None, 1, 3])


def writer_key() -> ContainerKey:
    return KEYS.container(SALT, "segment", SEGMENT)


def reader_key(segment_id: SegmentId = SEGMENT) -> ContainerKey:
    key = KEYS.container(SALT, "segment", segment_id)
    key.check_commitment(key.commitment)
    return key


def seal(
    contents: list[bytes], *, level: int | None = 3, number: int = 5
) -> tuple[SealedFrame, bytes]:
    chunks = [(KEYS.chunk_id(data), data) for data in contents]
    total = sum(weight(len(data)) for data in contents)
    out = memoryview(bytearray(frame_bytes_max(total, 0)))
    frame = Sealer(level=level).seal(writer_key(), number, chunks, out)
    return frame, bytes(out[: frame.sealed_bytes])


def sealed_as(head: FrameHead, body: bytes) -> bytes:
    """A frame as a writer with a defect would make it: authentic, but not true."""
    key = writer_key()
    return key.seal(head_record(head.number), Record.FRAME_HEAD, head.pack()) + key.seal(
        body_record(head.number), Record.FRAME_BODY, body
    )


@given(chunk_lists, levels)
def test_a_frame_is_opened_as_it_was_sealed(contents: list[bytes], level: int | None) -> None:
    frame, sealed = seal(contents, level=level)
    opened = open_frame(reader_key(), 5, sealed, where="here")
    assert frame.number == opened.number == 5
    assert frame.plain_bytes == len(opened.content) == sum(map(len, contents))
    assert len(opened.chunks) == len(contents)
    for data in contents:
        assert bytes(opened.chunk(KEYS.chunk_id(data)) or b"?") == (data or b"?")
    rows = b"".join(FOOTER_ROW.pack(KEYS.chunk_id(data)[:16], len(data)) for data in contents)
    assert frame.chunks == rows
    assert opened.chunk(bytes(32)) is None


@given(chunk_lists, levels)
def test_the_head_tells_where_the_frame_ends(contents: list[bytes], level: int | None) -> None:
    _, sealed = seal(contents, level=level)
    head = open_head(reader_key(), 5, sealed, where="here")
    assert head.sealed_bytes == len(sealed)
    assert head.chunks == len(contents)


def test_what_does_not_shrink_is_stored_raw() -> None:
    noise = writer_key().seal(1, 1, bytes(5000))  # ciphertext: as random as can be
    _, sealed = seal([noise])
    head = open_head(reader_key(), 5, sealed, where="here")
    assert head.codec == Codec.RAW
    assert head.body_bytes == CHUNK_ROW.size + len(noise)
    _, sealed = seal([bytes(5000)])
    assert open_head(reader_key(), 5, sealed, where="here").codec == Codec.ZSTD
    _, sealed = seal([bytes(5000)], level=None)
    assert open_head(reader_key(), 5, sealed, where="here").codec == Codec.RAW


def test_a_slot_of_the_stated_size_holds_any_frame() -> None:
    frame_bytes, longest = 4 * KIB, 8 * KIB
    # As a stream fills it: closed as soon as the target is reached, here by the longest chunk.
    contents = [bytes((number,)) for number in range(100)]
    while sum(weight(len(data)) for data in contents) >= frame_bytes:
        contents.pop()
    contents.append(writer_key().seal(1, 1, bytes(longest))[:longest])
    chunks = [(KEYS.chunk_id(data), data) for data in contents]
    out = memoryview(bytearray(frame_bytes_max(frame_bytes, longest)))
    for level in (None, 3):
        frame = Sealer(level=level).seal(writer_key(), 5, chunks, out)
        assert open_frame(reader_key(), 5, out[: frame.sealed_bytes], where="here").chunks


def test_every_flipped_bit_is_damage() -> None:
    _, sealed = seal([b"first chunk", b"second chunk" * 5])
    for bit in range(8 * len(sealed)):
        data = bytearray(sealed)
        data[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Damaged):
            open_frame(reader_key(), 5, bytes(data), where="here")


def test_every_truncation_is_damage() -> None:
    _, sealed = seal([b"first chunk", b"second chunk" * 5])
    for length in range(len(sealed)):
        with pytest.raises(Damaged):
            open_frame(reader_key(), 5, sealed[:length], where="here")
    with pytest.raises(Damaged, match="length is wrong"):
        open_frame(reader_key(), 5, sealed + b"\0", where="here")


def test_a_frame_passes_for_no_other() -> None:
    _, sealed = seal([b"chunk"])
    with pytest.raises(Damaged):
        open_frame(reader_key(), 6, sealed, where="here")
    with pytest.raises(Damaged):
        open_frame(reader_key(SegmentId(bytes(16))), 5, sealed, where="here")
    _, other = seal([b"other"], number=6)
    mixed = sealed[:HEAD_SEALED_BYTES] + other[HEAD_SEALED_BYTES:]
    with pytest.raises(Damaged):
        open_frame(reader_key(), 5, mixed, where="here")


def test_a_number_is_sealed_once() -> None:
    key, out = writer_key(), memoryview(bytearray(5000))
    chunks = [(KEYS.chunk_id(b"chunk"), b"chunk")]
    Sealer(level=3).seal(key, 1, chunks, out)
    with pytest.raises(JobFailed):
        Sealer(level=3).seal(key, 1, chunks, out)


def bomb(stated: int | None) -> bytes:
    """A small zstd stream of 256 MiB of zeros that states a size, or none."""
    writer = zstandard.ZstdCompressor(write_content_size=stated is not None).compressobj(
        size=-1 if stated is None else stated
    )
    parts = [writer.compress(bytes(MIB)) for _ in range(256)]
    return b"".join((*parts, writer.flush()))


@pytest.mark.parametrize("stated", [256 * MIB, None])
def test_a_bomb_is_damage_before_memory_is_taken(stated: int | None) -> None:
    payload = bomb(stated)
    table = CHUNK_ROW.pack(bytes(32), limits.FRAME_PLAIN_MAX)
    head = FrameHead(5, 1, limits.FRAME_PLAIN_MAX, len(table) + len(payload), Codec.ZSTD)
    with pytest.raises(Damaged, match="size"):
        open_frame(reader_key(), 5, sealed_as(head, table + payload), where="here")


@pytest.mark.parametrize(
    ("payload", "plain_bytes", "codec"),
    [
        (b"", 5, Codec.ZSTD),
        (b"no zstd stream", 50, Codec.ZSTD),
        (zstandard.ZstdCompressor().compress(b"12345")[:-1], 5, Codec.ZSTD),
        (zstandard.ZstdCompressor().compress(b"12345"), 20, Codec.ZSTD),
        (b"1234", 5, Codec.RAW),
        (b"", 5, Codec.RAW),
    ],
)
def test_a_payload_that_is_not_what_the_head_says_is_damage(
    payload: bytes, plain_bytes: int, codec: Codec
) -> None:
    table = CHUNK_ROW.pack(bytes(32), plain_bytes)
    body = table + payload
    most = plain_bytes + len(table)
    head = FrameHead(5, 1, plain_bytes, min(len(body), most), codec)
    with pytest.raises(Damaged):
        open_frame(reader_key(), 5, sealed_as(head, body[:most]), where="here")


def test_a_head_that_names_another_frame_is_damage() -> None:
    head = FrameHead(6, 1, 5, CHUNK_ROW.size + 5, Codec.RAW)
    key = writer_key()
    sealed = key.seal(head_record(5), Record.FRAME_HEAD, head.pack()) + bytes(
        SEAL_BYTES + head.body_bytes
    )
    with pytest.raises(Damaged, match="another's number"):
        open_frame(reader_key(), 5, sealed, where="here")
