"""The key slot on disk: laws of its bytes, bounds on its cost, and what a flipped bit does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from repo.errors import Damaged
from repo.format.keyslot import (
    ITERATIONS_MAX,
    KEY_SLOT_BYTES,
    KEY_SLOT_FIELDS,
    LANES_MAX,
    MEMORY_KIB_MAX,
    MEMORY_KIB_MIN,
    WORK_KIB_MAX,
    KdfCost,
    KeySlot,
    SlotKind,
    label_problem,
)
from repo.types import RepositoryId

SLOT = KeySlot(
    kind=SlotKind.PASSWORD,
    slot_id=bytes(range(16)),
    created_ns=5,
    cost=KdfCost(8192, 2, 3),
    salt=bytes(range(32)),
    label="läptop",
    nonce=bytes(range(12)),
    wrapped=bytes(range(48)),
)
KEY_FILE_SLOT = replace(SLOT, kind=SlotKind.KEY_FILE, cost=None)


def with_checksum(data: bytes | bytearray) -> bytes:
    """As an attacker writes it: the checksum needs no key."""
    body = bytes(data[:248])
    return body + xxh3_64_intdigest(body).to_bytes(8, "little")


@st.composite
def costs(draw: st.DrawFn) -> KdfCost:
    iterations = draw(st.integers(1, ITERATIONS_MAX))
    most = min(MEMORY_KIB_MAX, WORK_KIB_MAX // iterations)
    return KdfCost(
        draw(st.integers(MEMORY_KIB_MIN, most)), iterations, draw(st.integers(1, LANES_MAX))
    )


@st.composite
def slots(draw: st.DrawFn) -> KeySlot:
    kind = draw(st.sampled_from(SlotKind))
    return KeySlot(
        kind=kind,
        slot_id=draw(st.binary(min_size=16, max_size=16)),
        created_ns=draw(st.integers(0, (1 << 64) - 1)),
        cost=draw(costs()) if kind is SlotKind.PASSWORD else None,
        salt=draw(st.binary(min_size=32, max_size=32)),
        label=draw(st.text(max_size=64).filter(lambda label: not label_problem(label))),
        nonce=draw(st.binary(min_size=12, max_size=12)),
        wrapped=draw(st.binary(min_size=48, max_size=48)),
    )


@given(slots())
def test_parse_gives_back_what_pack_wrote(slot: KeySlot) -> None:
    data = slot.pack()
    assert len(data) == KEY_SLOT_BYTES
    assert KeySlot.parse(data) == slot


def test_the_bytes_are_the_documented_ones() -> None:
    label = "läptop".encode()
    expected = (
        b"REPOKEY\x1a" + b"\1\0" + b"\1" + b"\7" + b"\0\x20\0\0" + b"\2\0\0\0" + b"\3\0\0\0"
        + b"\5" + bytes(7) + bytes(range(16)) + bytes(range(32)) + label.ljust(64, b"\0")
        + bytes(44) + bytes(range(12)) + bytes(range(48))
    )  # fmt: skip
    assert SLOT.pack() == with_checksum(expected)
    assert KEY_SLOT_FIELDS.size == KEY_SLOT_BYTES == 256


def test_everything_before_the_nonce_and_the_repository_are_authenticated() -> None:
    repository_id = RepositoryId(b"r" * 16)
    assert SLOT.authenticated_bytes(repository_id) == SLOT.pack()[:188] + repository_id


@pytest.mark.parametrize("slot", [SLOT, KEY_FILE_SLOT])
def test_every_flipped_bit_is_refused(slot: KeySlot) -> None:
    data = slot.pack()
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Damaged) as caught:
            KeySlot.parse(bytes(flipped), where="keys/x")
        assert caught.value.where == "keys/x"
        assert caught.value.next_step


@pytest.mark.parametrize("length", [0, 8, 255, 257])
def test_a_slot_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(Damaged, match="wrong length"):
        KeySlot.parse((SLOT.pack() + b"\0")[:length])


@given(st.binary(min_size=256, max_size=256))
def test_other_content_is_refused(data: bytes) -> None:
    with pytest.raises(Damaged):
        KeySlot.parse(with_checksum(data))


@pytest.mark.parametrize(
    ("offset", "field", "message"),
    [
        (8, b"\2\0", "format 2 and kind 1"),
        (10, b"\3", "format 1 and kind 3"),
        (11, b"\x06", "label is longer than it says"),
        (11, b"\x41", "label is longer than it says"),
        (80, b"\xff", "not UTF-8"),
        (80, b"\x1b", "cannot be printed"),
        (144, b"\1", "reserved"),
        (187, b"\1", "reserved"),
        (12, (8191).to_bytes(4, "little"), "memory in KiB of a key slot is 8191"),
        (12, (MEMORY_KIB_MAX + 1).to_bytes(4, "little"), "memory in KiB"),
        (12, b"\xff" * 4, "memory in KiB"),
        (16, bytes(4), "iterations of a key slot is 0"),
        (16, (65).to_bytes(4, "little"), "iterations of a key slot is 65"),
        (16, b"\xff" * 4, "iterations"),
        (20, bytes(4), "lanes of a key slot is 0"),
        (20, (65).to_bytes(4, "little"), "lanes of a key slot is 65"),
        (12, MEMORY_KIB_MAX.to_bytes(4, "little") + b"\x09\0\0\0", "memory in KiB times iter"),
    ],
)
def test_a_forged_slot_is_refused(offset: int, field: bytes, message: str) -> None:
    data = bytearray(SLOT.pack())
    data[offset : offset + len(field)] = field
    with pytest.raises(Damaged, match=message) as caught:
        KeySlot.parse(with_checksum(data), where="keys/x")
    assert caught.value.exit_status == 4
    assert caught.value.where == "keys/x"


def test_a_key_file_slot_that_states_a_cost_is_refused() -> None:
    data = bytearray(SLOT.pack())
    data[10] = SlotKind.KEY_FILE
    with pytest.raises(Damaged, match="states a cost"):
        KeySlot.parse(with_checksum(data))


@pytest.mark.parametrize(
    "changes",
    [
        {"slot_id": b""},
        {"salt": b""},
        {"nonce": bytes(11)},
        {"wrapped": bytes(47)},
        {"cost": None},
        {"cost": KdfCost(1, 1, 1)},
        {"kind": SlotKind.KEY_FILE},
        {"created_ns": -1},
        {"created_ns": 1 << 64},
        {"label": "x" * 65},
        {"label": "ä" * 33},
        {"label": "two\nlines"},
        {"label": "\ud800"},
    ],
)
def test_no_slot_is_made_that_could_not_be_read(changes: dict[str, Any]) -> None:
    with pytest.raises(Damaged):
        replace(SLOT, **changes)


def test_the_default_cost_is_within_the_limits() -> None:
    assert KdfCost() == (256 * 1024, 3, 4)
    assert not KdfCost().problem()
    assert not KdfCost(MEMORY_KIB_MAX, 8, LANES_MAX).problem()
