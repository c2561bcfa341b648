"""The segment on disk: laws of header, footer table, trailer and footer, and what damage does."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from repo.errors import Damaged
from repo.format import limits
from repo.format.frame import SEAL_BYTES
from repo.format.segment import (
    BLOCK_BYTES,
    CHUNK_ROW,
    HEADER_BYTES,
    KEYS_BYTES,
    TABLE_PADDING_BYTES,
    TRAILER_BYTES,
    Footer,
    FooterFrame,
    SegmentHeader,
    Trailer,
    pack_footer,
    pack_table,
    parse_footer,
    parse_table,
)
from repo.types import RepositoryId, SegmentClass, SegmentId

ID = st.binary(min_size=16, max_size=16)
SALT = st.binary(min_size=32, max_size=32)
U32 = st.integers(0, (1 << 32) - 1)

headers = st.builds(
    SegmentHeader,
    segment_class=st.sampled_from(SegmentClass),
    repository_id=ID.map(RepositoryId),
    segment_id=ID.map(SegmentId),
    salt=SALT,
    commitment=SALT,
)
chunk_rows = st.lists(st.tuples(ID, U32), max_size=8).map(
    lambda rows: b"".join(CHUNK_ROW.pack(*row) for row in rows)
)
frames = st.builds(
    FooterFrame,
    number=st.integers(0, limits.FRAMES_PER_SEGMENT_MAX),
    offset=st.integers(0, (1 << 64) - 1),
    sealed_bytes=U32,
    plain_bytes=U32,
    chunks=chunk_rows,
)

HEADER = SegmentHeader(
    SegmentClass.DATA, RepositoryId(b"r" * 16), SegmentId(b"s" * 16), b"S" * 32, b"C" * 32
).pack()
CONTENT_BYTES = 2 * BLOCK_BYTES + 5
SEALED = bytes(range(KEYS_BYTES)) + b"sealed table with its nonce and tag"
SUMS = [1, 2**64 - 1, 3]
FOOTER = pack_footer(HEADER, CONTENT_BYTES, SEALED, SUMS)


def every_flip(data: bytes) -> Sequence[bytes]:
    """The data with each of its bits turned over, one at a time."""
    return [
        data[:at] + bytes((data[at] ^ 1 << bit,)) + data[at + 1 :]
        for at in range(len(data))
        for bit in range(8)
    ]


def read_footer(data: bytes, *, header: bytes = HEADER) -> Footer:
    """As a scanner does it, from the bytes behind the content."""
    trailer = Trailer.parse(data[-TRAILER_BYTES:], CONTENT_BYTES + len(data), where="here")
    return parse_footer(header, trailer, data, where="here")


def with_checksum(body: bytes) -> bytes:
    """As an attacker writes it: the checksum needs no key."""
    return body + xxh3_64_intdigest(body).to_bytes(8, "little")


@given(headers)
def test_a_header_is_read_as_it_was_written(header: SegmentHeader) -> None:
    data = header.pack()
    assert len(data) == HEADER_BYTES
    assert SegmentHeader.parse(data + b"frames", where="here") == header


def test_every_flipped_bit_of_a_header_is_damage() -> None:
    for data in every_flip(HEADER):
        with pytest.raises(Damaged):
            SegmentHeader.parse(data, where="here")


def test_every_truncation_of_a_header_is_damage() -> None:
    for length in range(HEADER_BYTES):
        with pytest.raises(Damaged, match="shorter"):
            SegmentHeader.parse(HEADER[:length], where="here")


@pytest.mark.parametrize(
    ("at", "value", "what"),
    [(8, 2, "format 2"), (10, 0, "unknown class"), (10, 4, "unknown class")],
)
def test_a_header_of_another_format_or_class_says_so(at: int, value: int, what: str) -> None:
    data = HEADER[:at] + bytes((value,)) + HEADER[at + 1 : -8]
    with pytest.raises(Damaged, match=what):
        SegmentHeader.parse(with_checksum(data), where="here")


@given(st.lists(frames, max_size=8))
def test_a_table_is_read_as_it_was_written(rows: list[FooterFrame]) -> None:
    data = pack_table(rows)
    assert len(data) % TABLE_PADDING_BYTES == 0
    assert parse_table(data, where="here") == rows


@given(frames)
def test_a_frame_lists_its_chunks_one_behind_the_other(frame: FooterFrame) -> None:
    end = 0
    for place, row in zip(frame.places(), CHUNK_ROW.iter_unpack(frame.chunks), strict=True):
        assert place == (row[0], end, row[1])
        end += row[1]


@given(st.lists(frames, min_size=1, max_size=4), st.data())
def test_a_truncated_table_is_damage(rows: list[FooterFrame], data: st.DataObject) -> None:
    table = pack_table(rows)
    length = sum(24 + len(row.chunks) for row in rows) + 4
    cut = data.draw(st.integers(0, length - 1))
    with pytest.raises(Damaged, match="cut short"):
        parse_table(table[:cut], where="here")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_table_or_damage(data: bytes) -> None:
    try:
        rows = parse_table(data, where="here")
    except Damaged:
        return
    assert pack_table(rows).startswith(data)


def test_a_count_beyond_all_memory_is_damage_at_once() -> None:
    with pytest.raises(Damaged, match="cut short"):
        parse_table(b"\xff\xff\xff\xff" + bytes(20), where="here")
    row = b"\1\0\0\0" + b"\0\0\0\0" + b"\xff\xff\0\0" + bytes(16)
    with pytest.raises(Damaged, match="cut short"):
        parse_table(row, where="here")


@pytest.mark.parametrize("tail", [b"x", bytes(TABLE_PADDING_BYTES)])
def test_bytes_behind_a_table_are_damage(tail: bytes) -> None:
    with pytest.raises(Damaged, match="too long"):
        parse_table(pack_table([]) + tail, where="here")


@given(
    st.integers(HEADER_BYTES, 40 * BLOCK_BYTES),
    st.binary(min_size=KEYS_BYTES + SEAL_BYTES, max_size=300),
    st.data(),
)
def test_a_footer_is_read_as_it_was_written(
    content_bytes: int, sealed: bytes, data: st.DataObject
) -> None:
    blocks = -(-content_bytes // BLOCK_BYTES)
    sum64 = st.integers(0, (1 << 64) - 1)
    sums = data.draw(st.lists(sum64, min_size=blocks, max_size=blocks))
    footer = pack_footer(HEADER, content_bytes, sealed, sums)
    trailer = Trailer.parse(footer[-TRAILER_BYTES:], content_bytes + len(footer), where="here")
    assert trailer.footer_bytes == len(footer)
    assert trailer.pack() == footer[-TRAILER_BYTES:]
    assert parse_footer(HEADER, trailer, footer, where="here") == Footer(trailer, sealed, sums)


def test_every_flipped_bit_of_a_footer_is_damage() -> None:
    assert read_footer(FOOTER).checksums == SUMS
    for data in every_flip(FOOTER):
        with pytest.raises(Damaged):
            read_footer(data)


def test_every_truncation_of_a_footer_is_damage() -> None:
    for length in range(len(FOOTER)):
        with pytest.raises(Damaged):
            read_footer(FOOTER[:length])


def test_a_footer_belongs_to_its_header() -> None:
    with pytest.raises(Damaged, match="footer is damaged"):
        read_footer(FOOTER, header=HEADER[:-1] + b"?")


def trailer_of(change: Callable[[Trailer], Trailer]) -> tuple[bytes, int]:
    """A trailer that lies, its checksum right, with the file's length that it would need."""
    lying = change(Trailer.parse(FOOTER[-TRAILER_BYTES:], CONTENT_BYTES + len(FOOTER), where=""))
    return lying.pack(), lying.content_bytes + lying.footer_bytes


@pytest.mark.parametrize(
    "change",
    [
        lambda trailer: trailer._replace(sealed_bytes=1 << 63),
        lambda trailer: trailer._replace(sealed_bytes=limits.FOOTER_BYTES_MAX),
        lambda trailer: trailer._replace(sealed_bytes=KEYS_BYTES + SEAL_BYTES - 1),
        lambda trailer: trailer._replace(blocks=(1 << 32) - 1),
        lambda trailer: trailer._replace(blocks=trailer.blocks + 1),
        lambda trailer: trailer._replace(content_bytes=(1 << 64) - 1),
    ],
)
def test_lengths_that_lie_are_damage(change: Callable[[Trailer], Trailer]) -> None:
    data, file_bytes = trailer_of(change)
    with pytest.raises(Damaged):
        Trailer.parse(data, file_bytes, where="here")


def test_a_trailer_belongs_to_the_length_of_its_file() -> None:
    with pytest.raises(Damaged, match="add up"):
        Trailer.parse(FOOTER[-TRAILER_BYTES:], CONTENT_BYTES + len(FOOTER) + 1, where="here")
