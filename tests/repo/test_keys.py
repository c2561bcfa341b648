"""Keys: fixed answers, what sealing binds, and the guards against a repeated nonce."""

from __future__ import annotations

import copy
import hashlib
import hmac
import os
import pickle
import threading
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from repo import keys as keys_module
from repo.errors import Damaged, JobFailed
from repo.format.frame import SEAL_BYTES
from repo.format.header import Header
from repo.keys import ContainerKey, Keys, NonceBits, Purpose, derive, expand, new_root
from repo.types import RepositoryId, Secret

ROOT = Secret(bytes(range(32)))
REPOSITORY_ID = RepositoryId(bytes(range(16)))
SALT = b"\x07" * 32
CONTAINER_ID = b"\x09" * 16
PURPOSES: tuple[Purpose, ...] = ("segment", "footer", "manifest")
SUBKEYS = ("id_key", "chunker_key", "segment_key", "manifest_key", "header_key")


class CountingBytes:
    """In place of os.urandom: 0, 1, 2, ... so that a nonce is known beforehand."""

    def __init__(self) -> None:
        self.given = 0

    def __call__(self, length: int) -> bytes:
        start, self.given = self.given, self.given + length
        return bytes(number % 256 for number in range(start, self.given))


def hkdf(key: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869 written down a second time, from hmac alone."""
    extracted = hmac.digest(salt, key, hashlib.sha256)
    block, output = b"", b""
    for number in range(1, 256):
        if len(output) >= length:
            break
        block = hmac.digest(extracted, block + info + bytes([number]), hashlib.sha256)
        output += block
    return output[:length]


@pytest.fixture
def keys() -> Keys:
    return derive(ROOT, REPOSITORY_ID)


def container(keys: Keys, purpose: Purpose = "segment") -> ContainerKey:
    return keys.container(SALT, purpose, CONTAINER_ID)


def reader(keys: Keys, purpose: Purpose = "segment") -> ContainerKey:
    key = container(keys, purpose)
    key.check_commitment(container(keys, purpose).commitment)
    return key


# --- fixed answers ---------------------------------------------------------------------------


def test_the_second_hkdf_agrees_with_rfc_5869_case_1() -> None:
    output = hkdf(b"\x0b" * 22, bytes(range(13)), bytes(range(0xF0, 0xFA)), 42)
    assert output.hex() == (
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    )


@given(st.binary(min_size=1, max_size=64), st.binary(min_size=32, max_size=32), st.binary())
def test_expand_is_hkdf_with_an_info_that_names_project_and_version(
    key: bytes, salt: bytes, context: bytes
) -> None:
    info = b"repo format 1 label\0" + context
    assert expand(Secret(key), "label", salt=salt, length=64, context=context) == hkdf(
        key, salt, info, 64
    )


@pytest.mark.parametrize(
    ("name", "label", "value"),
    [
        ("id_key", b"id", "77cf2ca41d4f4fdce66a63d3b0444f98d9a77428af626d18dacbd999567b4447"),
        (
            "chunker_key",
            b"chunker",
            "04a78871b5a136f69b63c2f54714e0118998ba1b774f2f84809f3bbc7b23dddb",
        ),
        (
            "segment_key",
            b"segment",
            "bad4ce13b6917f5a867a12a8c17ddc76b1fb0ffe17fa16772834c58ecdf660e6",
        ),
        (
            "manifest_key",
            b"manifest",
            "e1f957aff5f14d9ad60a806f8d97a7f3b0ed557aa37b22a7b3ce989e906ac1c2",
        ),
        (
            "header_key",
            b"header",
            "71f059ef79158d8424a4ed5ce3f31be309edda72cf116e3b63115933378d996a",
        ),
    ],
)
def test_known_subkeys(keys: Keys, name: str, label: bytes, value: str) -> None:
    found = getattr(keys, name).reveal()
    assert found.hex() == value
    assert found == hkdf(ROOT.reveal(), REPOSITORY_ID, b"repo format 1 " + label + b"\0", 32)


def test_known_chunk_id(keys: Keys) -> None:
    expected = "8215c05bb4588b933e67da57474355cc3879522e776473afedaed68d78b80e0f"
    assert keys.chunk_id(b"content").hex() == expected
    assert keys.chunk_id(memoryview(b"content")).hex() == expected
    assert blake3(b"content", key=keys.id_key.reveal()).hexdigest() == expected


def test_known_header_tag(keys: Keys) -> None:
    header = Header(repository_id=REPOSITORY_ID, created_ns=1_700_000_000_000_000_000)
    signed = keys.sign_header(header)
    assert signed.tag.hex() == "43217e4d116115a8a56bf0c573ff37ca6ac80c5864ef5a1d3ee4a744e45d3596"
    assert signed.pack()[-8:].hex() == "c4676f470e32f9e8"


@pytest.mark.parametrize(
    ("purpose", "commitment"),
    [
        ("segment", "f26689b64f3728f3d746471f191dd281b2af03b4026ffb63061332ea99f303ca"),
        ("footer", "3c34a28e8a054273bbdd9b3cf3aae4206e9855f32ea24b218af67ac01ea4f7f0"),
        ("manifest", "439e42654e7d9084bb21ce4e3850d885df68227c34e27063829652fe372120d2"),
    ],
)
def test_known_commitments(keys: Keys, purpose: Purpose, commitment: str) -> None:
    assert container(keys, purpose).commitment.hex() == commitment


def test_known_sealed_record(keys: Keys) -> None:
    key = container(replace(keys, bits=NonceBits(CountingBytes())))
    sealed = key.seal(5, 2, b"plain text")
    assert sealed.hex() == (
        "05000000f8f9fafbfcfdfeffb025b9017979694f757657faa612fc4745d4108dc66c46c40d28"
    )
    info = b"repo format 1 segment\0" + REPOSITORY_ID + CONTAINER_ID
    plain_key = hkdf(keys.segment_key.reveal(), SALT, info, 64)[:32]
    associated = b"\1\0" + REPOSITORY_ID + CONTAINER_ID + b"\5\0\0\0" + b"\2"
    assert AESGCM(plain_key).decrypt(sealed[:12], sealed[12:], associated) == b"plain text"


# --- sealing and opening ---------------------------------------------------------------------


@given(st.binary(max_size=300), st.integers(0, (1 << 32) - 1), st.integers(0, 255))
def test_open_gives_back_what_seal_took(plain: bytes, record: int, kind: int) -> None:
    keys = derive(ROOT, REPOSITORY_ID)
    sealed = container(keys).seal(record, kind, plain)
    assert len(sealed) == len(plain) + SEAL_BYTES == len(plain) + keys_module.SEAL_BYTES
    assert reader(keys).open(record, kind, sealed) == plain
    assert reader(keys).open(record, kind, memoryview(sealed)) == plain


def test_seal_into_writes_the_same_and_nothing_beyond(keys: Keys) -> None:
    plain = b"some plain text"
    out = bytearray(b"\xee" * 100)
    first = container(replace(keys, bits=NonceBits(CountingBytes())))
    second = container(replace(keys, bits=NonceBits(CountingBytes())))
    written = first.seal_into(3, 1, memoryview(plain), memoryview(out)[10:])
    assert out[10 : 10 + written] == second.seal(3, 1, plain)
    assert out[:10] + out[10 + written :] == b"\xee" * (100 - written)


def test_seal_into_refuses_a_short_buffer_and_keeps_the_record_number(keys: Keys) -> None:
    key = container(keys)
    with pytest.raises(ValueError, match="does not fit"):
        key.seal_into(0, 1, b"12345", memoryview(bytearray(32)))
    assert key.seal_into(0, 1, b"12345", memoryview(bytearray(33))) == 33


def test_every_flipped_bit_of_a_sealed_record_is_refused(keys: Keys) -> None:
    sealed = container(keys).seal(7, 1, b"plain")
    key = reader(keys)
    for bit in range(len(sealed) * 8):
        flipped = bytearray(sealed)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Damaged, match="authentication failed") as caught:
            key.open(7, 1, flipped)
        assert caught.value.where == f"segment {CONTAINER_ID.hex()}, record 7"


def test_every_truncation_of_a_sealed_record_is_refused(keys: Keys) -> None:
    sealed = container(keys).seal(7, 1, b"plain")
    key = reader(keys)
    for length in range(len(sealed)):
        with pytest.raises(Damaged, match="authentication failed"):
            key.open(7, 1, sealed[:length])


def test_a_record_opens_only_as_what_it_was_sealed_as(keys: Keys) -> None:
    sealed = container(keys).seal(7, 1, b"plain")
    with pytest.raises(Damaged):
        reader(keys).open(8, 1, sealed)
    with pytest.raises(Damaged):
        reader(keys).open(7, 2, sealed)
    elsewhere: list[tuple[Keys, bytes, Purpose, bytes]] = [
        (keys, b"\x08" * 32, "segment", CONTAINER_ID),
        (keys, SALT, "segment", b"\x0a" * 16),
        (keys, SALT, "footer", CONTAINER_ID),
        (keys, SALT, "manifest", CONTAINER_ID),
        (derive(ROOT, RepositoryId(bytes(16))), SALT, "segment", CONTAINER_ID),
        (derive(new_root(), REPOSITORY_ID), SALT, "segment", CONTAINER_ID),
    ]
    for other, salt, purpose, container_id in elsewhere:
        key = other.container(salt, purpose, container_id)
        key.check_commitment(key.commitment)
        with pytest.raises(Damaged, match="authentication failed"):
            key.open(7, 1, sealed)


@pytest.mark.parametrize("purpose", PURPOSES)
def test_nothing_is_opened_before_the_commitment_is_checked(keys: Keys, purpose: Purpose) -> None:
    sealed = container(keys, purpose).seal(0, 1, b"plain")
    key = container(keys, purpose)
    with pytest.raises(JobFailed, match="commitment was not checked"):
        key.open(0, 1, sealed)
    for wrong in (b"", key.commitment[:31], key.commitment + b"\0", bytes(32)):
        with pytest.raises(Damaged, match="commitment does not match") as caught:
            key.check_commitment(wrong, where="segment x")
        assert caught.value.where == "segment x"
        with pytest.raises(JobFailed, match="commitment was not checked"):
            key.open(0, 1, sealed)
    key.check_commitment(container(keys, purpose).commitment)
    assert key.open(0, 1, sealed) == b"plain"


def test_key_and_commitment_are_apart(keys: Keys) -> None:
    seen = {container(keys, purpose).commitment for purpose in PURPOSES}
    seen |= {getattr(keys, name).reveal() for name in SUBKEYS}
    assert len(seen) == len(PURPOSES) + len(SUBKEYS)


def test_container_wants_a_whole_salt_and_id(keys: Keys) -> None:
    for salt, container_id in ((SALT[1:], CONTAINER_ID), (SALT, CONTAINER_ID[1:])):
        with pytest.raises(ValueError, match="salt of 32 bytes"):
            keys.container(salt, "segment", container_id)


def test_a_root_key_has_32_bytes() -> None:
    assert len(new_root().reveal()) == 32
    assert new_root().reveal() != new_root().reveal()
    with pytest.raises(ValueError, match="32 bytes"):
        derive(Secret(bytes(31)), REPOSITORY_ID)


# --- a nonce never comes twice ---------------------------------------------------------------


def test_nonces_never_repeat_and_carry_the_record_number(keys: Keys) -> None:
    key = container(keys)
    records = [*range(3000), (1 << 32) - 1]
    nonces = [key.seal(record, 1, b"")[:12] for record in records]
    assert [int.from_bytes(nonce[:4], "little") for nonce in nonces] == records
    assert len({nonce[4:] for nonce in nonces}) == len(records)


def test_two_keys_of_one_container_draw_other_bits(keys: Keys) -> None:
    # The second line of defence: two processes that were told the same record number.
    other = derive(ROOT, REPOSITORY_ID)
    assert container(keys).seal(0, 1, b"")[:12] != container(other).seal(0, 1, b"")[:12]


def test_a_record_number_is_sealed_once(keys: Keys) -> None:
    key = container(keys)
    key.seal(4, 1, b"a")
    for again in (
        lambda: key.seal(4, 1, b"a"),
        lambda: key.seal(4, 2, b"b"),
        lambda: key.seal_into(4, 1, b"c", memoryview(bytearray(64))),
    ):
        with pytest.raises(JobFailed, match="record 4 was sealed before") as caught:
            again()
        assert caught.value.exit_status == 1
    key.seal(3, 1, b"order does not matter")


@pytest.mark.parametrize("record", [-1, 1 << 32])
def test_a_record_number_fits_32_bits(keys: Keys, record: int) -> None:
    with pytest.raises(Exception, match=r"format requires|argument out of range"):
        container(keys).seal(record, 1, b"")


def test_of_many_threads_with_one_record_number_one_seals(keys: Keys) -> None:
    key = container(keys)
    nonces: list[bytes] = []
    refused: list[int] = []
    start = threading.Barrier(4)

    def work() -> None:
        start.wait()
        for record in range(500):
            try:
                nonces.append(key.seal(record, 1, b"")[:12])
            except JobFailed:
                refused.append(record)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(int.from_bytes(nonce[:4], "little") for nonce in nonces) == list(range(500))
    assert len({nonce[4:] for nonce in nonces}) == 500
    assert len(refused) == 1500


def test_a_reader_does_not_seal(keys: Keys) -> None:
    key = reader(keys)
    with pytest.raises(JobFailed, match="reader's"):
        key.seal(0, 1, b"")
    with pytest.raises(JobFailed, match="reader's"):
        key.seal_into(0, 1, b"", memoryview(bytearray(28)))


def in_a_fork(work: Callable[[], bytes]) -> bytes:
    """What `work` gives in a forked child."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write_end, work())
        finally:
            os._exit(0)
    os.close(write_end)
    with open(read_end, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return answer


def test_a_forked_child_does_not_seal_with_an_inherited_key(keys: Keys) -> None:
    key = container(keys)

    def seal() -> bytes:
        try:
            return key.seal(0, 1, b"")
        except JobFailed as error:
            return error.what.encode()

    assert in_a_fork(seal) == b"refused to seal: the key was made by another process"


def test_a_forked_child_does_not_share_a_batch_of_random_bits() -> None:
    bits = NonceBits(os.urandom)
    bits.take()
    assert in_a_fork(bits.take) != bits.take()


def test_random_bits_are_fetched_in_batches_and_used_once() -> None:
    asked: list[int] = []

    def random(length: int) -> bytes:
        asked.append(length)
        return os.urandom(length)

    bits = NonceBits(random)
    taken = [bits.take() for _ in range(1025)]
    assert asked == [4096] * 3
    assert len(set(taken)) == 1025
    assert {len(part) for part in taken} == {8}


# --- header ----------------------------------------------------------------------------------


def test_a_header_is_checked_against_every_change(keys: Keys) -> None:
    header = keys.sign_header(Header(repository_id=REPOSITORY_ID, created_ns=1))
    keys.check_header(Header.parse(header.pack()))
    changes: list[dict[str, Any]] = [
        {"tag": bytes(32)},
        {"created_ns": 2},
        {"repository_id": RepositoryId(bytes(16))},
        {"chunk_minimum": 64},
        {"chunk_average": 128 * 1024},
        {"chunk_maximum": 2 << 20},
        {"frame_bytes": 1 << 19},
        {"data_segment_bytes": 1 << 20},
        {"meta_segment_bytes": 1 << 20},
        {"image_segment_bytes": 1 << 20},
    ]
    for change in changes:
        with pytest.raises(Damaged, match="header was altered") as caught:
            keys.check_header(replace(header, **change))
        assert caught.value.exit_status == 4
    with pytest.raises(Damaged):
        derive(new_root(), REPOSITORY_ID).check_header(header)


# --- handing on, and keeping to oneself ------------------------------------------------------


def test_loaded_keys_are_the_exported_ones(keys: Keys) -> None:
    loaded = Keys.load(keys.export())
    assert loaded.export() == keys.export()
    assert loaded.repository_id == REPOSITORY_ID
    assert loaded.chunk_id(b"x") == keys.chunk_id(b"x")
    assert reader(loaded).open(0, 1, container(keys).seal(0, 1, b"x")) == b"x"
    assert ROOT.reveal() not in keys.export()


def test_other_bytes_load_no_keys(keys: Keys) -> None:
    exported = keys.export()
    newer = exported[:4] + b"\2" + exported[5:]
    for data in (b"", exported[:-1], exported + b"\0", bytes(len(exported)), newer):
        with pytest.raises(JobFailed, match="no keys of this version"):
            Keys.load(data)


def test_no_key_is_ever_printed_or_serialised(keys: Keys) -> None:
    key = container(keys)
    shown = "".join(f"{thing!r} {thing!s}" for thing in (keys, key, ROOT, keys.id_key))
    for secret in (ROOT, *(getattr(keys, name) for name in SUBKEYS)):
        assert secret.reveal().hex() not in shown
        assert repr(secret.reveal())[2:-1] not in shown
    assert "id_key=***" in repr(keys)
    assert {field.name for field in fields(keys)} == {"repository_id", "bits", *SUBKEYS}
    for thing in (keys, key, ROOT):
        with pytest.raises(TypeError):
            pickle.dumps(thing)
        with pytest.raises(TypeError):
            copy.deepcopy(thing)
