"""The header on disk: laws of its bytes, limits, and what a flipped bit does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from repo.errors import Damaged, NotARepository
from repo.format import limits
from repo.format.header import (
    HEADER_BYTES,
    HEADER_FIELDS,
    SEGMENT_BYTES_MIN,
    Header,
)
from repo.format.magic import HEADER_MAGIC
from repo.types import GIB, KIB, MIB, RepositoryId, SegmentClass

REPOSITORY_ID = RepositoryId(bytes(range(16)))
HEADER = Header(repository_id=REPOSITORY_ID, created_ns=1_700_000_000_000_000_000)

KNOWN = (
    "895245504f0d0a1a0100" + "00" * 14 + "000102030405060708090a0b0c0d0e0f"
    "00000100" + "00000400" + "00001000" + "00001000"
    "0000001000000000" + "0000000400000000" + "0000004000000000"
    "00002a36fe9c9717" + "00" * 128
)  # fmt: skip


def with_checksum(data: bytes | bytearray) -> bytes:
    """As an attacker writes it: the checksum needs no key."""
    body = bytes(data[:248])
    return body + xxh3_64_intdigest(body).to_bytes(8, "little")


@st.composite
def headers(draw: st.DrawFn) -> Header:
    power = draw(st.integers(7, 22))
    segment = st.integers(SEGMENT_BYTES_MIN, limits.SEGMENT_BYTES_MAX)
    return Header(
        repository_id=RepositoryId(draw(st.binary(min_size=16, max_size=16))),
        created_ns=draw(st.integers(0, (1 << 64) - 1)),
        chunk_minimum=draw(st.integers(limits.CHUNKER_BYTES_MIN, (1 << power) - 1)),
        chunk_average=1 << power,
        chunk_maximum=draw(st.integers((1 << power) + 1, limits.CHUNKER_BYTES_MAX)),
        frame_bytes=draw(st.integers(limits.FRAME_BYTES_MIN, limits.FRAME_BYTES_MAX)),
        data_segment_bytes=draw(segment),
        meta_segment_bytes=draw(segment),
        image_segment_bytes=draw(segment),
        tag=draw(st.binary(min_size=32, max_size=32)),
    )


@given(headers())
def test_parse_gives_back_what_pack_wrote(header: Header) -> None:
    data = header.pack()
    assert len(data) == HEADER_BYTES
    assert Header.parse(data) == header
    assert header.tagged_bytes() == data[:216]


def test_the_bytes_are_the_documented_ones() -> None:
    assert HEADER.pack() == with_checksum(bytes.fromhex(KNOWN) + bytes(32))
    assert HEADER_FIELDS.size == HEADER_BYTES == 256


def test_each_class_has_its_segment_bytes() -> None:
    sizes = [HEADER.segment_bytes(segment_class) for segment_class in SegmentClass]
    assert sizes == [256 * MIB, 64 * MIB, GIB]


def test_every_flipped_bit_is_refused() -> None:
    data = replace(HEADER, tag=bytes(range(32))).pack()
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises((Damaged, NotARepository)) as caught:
            Header.parse(bytes(flipped))
        assert caught.value.next_step
        # Only the magic decides whose file it is: all else is ours, and damaged.
        assert caught.type is (NotARepository if bit < 64 else Damaged)


@pytest.mark.parametrize("length", [0, 1, 7])
def test_a_header_cut_within_the_magic_is_no_repository(length: int) -> None:
    with pytest.raises(NotARepository, match="no repository of ours"):
        Header.parse(HEADER.pack()[:length])


@pytest.mark.parametrize("length", [8, 100, 255, 257])
def test_a_header_of_another_length_is_damaged(length: int) -> None:
    with pytest.raises(Damaged, match="bytes instead of 256"):
        Header.parse((HEADER.pack() + b"\0")[:length])


# The filter is needed: hypothesis tries constants of the code, the magic among them.
@given(st.binary(max_size=300).filter(lambda data: not data.startswith(HEADER_MAGIC)))
def test_other_content_is_no_repository(data: bytes) -> None:
    with pytest.raises(NotARepository, match="no repository of ours"):
        Header.parse(data)


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (8, 2, "made by a newer version.*format 2"),
        (8, 0, "format 0"),
        (16, 1, "newer version.*features 0x1"),
        (23, 128, "newer version.*features 0x8000000000000000"),
        (10, 1, "newer version"),
        (15, 1, "newer version"),
        (88, 1, "newer version"),
        (215, 1, "newer version"),
        (43, 255, "make no sense: chunk sizes"),
        (44, 1, "make no sense: chunk average 262145"),
        (55, 255, "make no sense: frame bytes"),
        (63, 255, "make no sense: segment bytes of class data"),
        (71, 255, "make no sense: segment bytes of class meta"),
        (79, 255, "make no sense: segment bytes of class image"),
    ],
)
def test_newer_and_absurd_headers_are_not_ours(offset: int, value: int, message: str) -> None:
    data = bytearray(HEADER.pack())
    data[offset] = value
    with pytest.raises(NotARepository, match=message) as caught:
        Header.parse(with_checksum(data))
    assert caught.value.exit_status == 10
    assert caught.value.next_step


@pytest.mark.parametrize(
    "changes",
    [
        {"chunk_minimum": 63},
        {"chunk_minimum": 256 * KIB},
        {"chunk_maximum": 256 * KIB},
        {"chunk_maximum": 8 * MIB + 1},
        {"chunk_average": 0},
        {"frame_bytes": 0},
        {"frame_bytes": 1 << 31},
        {"data_segment_bytes": 0},
        {"meta_segment_bytes": 64 * KIB - 1},
        {"image_segment_bytes": 64 * GIB + 1},
        {"created_ns": -1},
        {"created_ns": 1 << 64},
        {"repository_id": b"short"},
        {"tag": b"short"},
        {"features": 1 << 63},
        {"version": 2},
    ],
)
def test_absurd_parameters_are_refused_when_a_header_is_made(changes: dict[str, Any]) -> None:
    with pytest.raises(NotARepository):
        replace(HEADER, **changes)
