"""The frame on disk: laws of its head and its chunk table, and what they refuse."""

from __future__ import annotations

from struct import Struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repo.errors import Damaged
from repo.format import limits
from repo.format.frame import (
    CHUNK_ROW,
    HEAD_SEALED_BYTES,
    SEAL_BYTES,
    Codec,
    FrameChunk,
    FrameHead,
    body_record,
    head_record,
    parse_chunk_table,
)

HEAD = Struct("<IIIIB15x")


@st.composite
def heads(draw: st.DrawFn) -> FrameHead:
    chunks = draw(st.integers(1, limits.FRAME_CHUNKS_MAX))
    plain = draw(st.integers(0, limits.FRAME_PLAIN_MAX))
    table = chunks * CHUNK_ROW.size
    return FrameHead(
        number=draw(st.integers(0, (1 << 32) - 1)),
        chunks=chunks,
        plain_bytes=plain,
        body_bytes=table + draw(st.integers(0, plain)),
        codec=draw(st.sampled_from(Codec)),
    )


@st.composite
def bodies(draw: st.DrawFn) -> tuple[FrameHead, bytes]:
    """A head with the body that belongs to it: table and payload."""
    ids = draw(st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=20))
    lengths = [draw(st.integers(0, 40)) for _ in ids]
    table = b"".join(map(CHUNK_ROW.pack, ids, lengths))
    payload = draw(st.binary(min_size=sum(lengths), max_size=sum(lengths)))
    body = table + payload
    return FrameHead(7, len(ids), sum(lengths), len(body), Codec.RAW), body


@given(heads())
def test_parse_gives_back_what_pack_wrote(head: FrameHead) -> None:
    data = head.pack()
    assert len(data) == HEAD.size == HEAD_SEALED_BYTES - SEAL_BYTES
    assert FrameHead.parse(data, where="here") == head
    assert head.sealed_bytes == HEAD_SEALED_BYTES + head.body_bytes + SEAL_BYTES


@pytest.mark.parametrize(
    ("chunks", "plain", "body", "codec", "what"),
    [
        (0, 0, 0, 0, "chunk count"),
        (limits.FRAME_CHUNKS_MAX + 1, 0, 1 << 31, 0, "chunk count"),
        (1, limits.FRAME_PLAIN_MAX + 1, 36, 0, "plain length"),
        (2, 100, 71, 1, "body length"),  # shorter than its table
        (2, 100, 173, 1, "body length"),  # longer than it would be raw
        (1, 0, 36, 2, "codec"),
        ((1 << 32) - 1, (1 << 32) - 1, (1 << 32) - 1, 255, "chunk count"),
    ],
)
def test_lengths_beyond_their_limits_are_damage(
    chunks: int, plain: int, body: int, codec: int, what: str
) -> None:
    with pytest.raises(Damaged, match=what):
        FrameHead.parse(HEAD.pack(0, chunks, plain, body, codec), where="here")


@given(st.binary(max_size=80))
def test_any_bytes_are_a_head_or_damage(data: bytes) -> None:
    try:
        head = FrameHead.parse(data, where="here")
    except Damaged:
        return
    assert head.plain_bytes <= limits.FRAME_PLAIN_MAX
    assert head.chunks * CHUNK_ROW.size <= head.body_bytes


@given(bodies())
def test_the_chunk_table_tells_where_each_chunk_lies(pair: tuple[FrameHead, bytes]) -> None:
    head, body = pair
    rows = parse_chunk_table(head, memoryview(body), where="here")
    assert len(rows) == head.chunks
    assert CHUNK_ROW.pack(rows[0].id, rows[0].length) == body[: CHUNK_ROW.size]
    end = 0
    for row in rows:
        assert row == FrameChunk(row.id, end, row.length)
        end += row.length
    assert end == head.plain_bytes


@given(bodies(), st.data())
def test_a_chunk_table_that_does_not_add_up_is_damage(
    pair: tuple[FrameHead, bytes], data: st.DataObject
) -> None:
    head, body = pair
    row = data.draw(st.integers(0, head.chunks - 1)) * CHUNK_ROW.size
    bit = data.draw(st.integers(8 * (row + 32), 8 * (row + 36) - 1))  # one of a length
    other = bytearray(body)
    other[bit // 8] ^= 1 << bit % 8
    with pytest.raises(Damaged, match="add up"):
        parse_chunk_table(head, bytes(other), where="here")


@given(bodies(), st.data())
def test_a_body_cut_short_or_longer_is_damage(
    pair: tuple[FrameHead, bytes], data: st.DataObject
) -> None:
    head, body = pair
    cut = data.draw(st.integers(0, len(body) - 1))
    for other in (body[:cut], body + b"\0"):
        with pytest.raises(Damaged, match="wrong length"):
            parse_chunk_table(head, other, where="here")


def test_no_two_records_of_a_segment_share_a_number() -> None:
    numbers = range(1000)
    records = [head_record(n) for n in numbers] + [body_record(n) for n in numbers]
    assert len(set(records)) == len(records)
    assert body_record(limits.FRAMES_PER_SEGMENT_MAX) < 1 << 32
