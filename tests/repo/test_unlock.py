"""Unlocking: fixed answers, wrong credentials, forged and damaged slots, bounded cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from xxhash import xxh3_64_intdigest

from repo import keyfile, unlock
from repo.errors import Damaged, JobFailed, UsageError, WrongKey
from repo.format.keyslot import KEY_SLOT_BYTES, KdfCost, KeySlot
from repo.keys import Credential, KeyFile, Password
from repo.types import RepositoryId, Secret
from repo.unlock import SLOTS_MAX, open_any, unwrap, wrap
from tests.repo.test_keys import CountingBytes, hkdf

ROOT = Secret(bytes(range(32)))
REPOSITORY_ID = RepositoryId(bytes(range(16)))
CHEAP = KdfCost(8192, 1, 1)
PASSWORD = Password(Secret("pässword".encode()))
OTHER = Password(Secret(b"other"))

KNOWN_PASSWORD_WRAP = (
    "3bd9ac4876f0e0f35f8e4bb1b0304906f096640cbe8c33236561022041bd55a4"
    "1e0173b6438a0ef950e5931e6b910904"
)
KNOWN_KEY_FILE_WRAP = (
    "bc60ff12304b070357de64ae2b4f6df929c4769789b88efe97b05d8b9d0c0356"
    "891a2bfd9ec10c74a597710d260f6aae"
)


def with_checksum(data: bytes | bytearray) -> bytes:
    """As an attacker writes it: the checksum needs no key."""
    body = bytes(data[:248])
    return body + xxh3_64_intdigest(body).to_bytes(8, "little")


def slot_for(credential: Credential, label: str = "", cost: KdfCost = CHEAP) -> bytes:
    return wrap(ROOT, credential, REPOSITORY_ID, label=label, cost=cost).pack()


@pytest.fixture
def key_file(tmp_path: Path) -> KeyFile:
    path = tmp_path / "key"
    path.write_bytes(b"K" * 32)
    path.chmod(0o600)
    return KeyFile(path)


@pytest.fixture
def derivations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The memory, in KiB, of every Argon2id derivation that a test makes."""
    asked: list[int] = []

    def counted(**parameters: int) -> Argon2id:
        asked.append(parameters["memory_cost"])
        return Argon2id(**parameters)  # type: ignore[arg-type]  # the very arguments it was given

    monkeypatch.setattr(unlock, "Argon2id", counted)
    return asked


# --- fixed answers ---------------------------------------------------------------------------


def test_the_librarys_argon2id_agrees_with_rfc_9106() -> None:
    kdf = Argon2id(
        salt=b"\x02" * 16,
        length=32,
        iterations=3,
        lanes=4,
        memory_cost=32,
        ad=b"\x04" * 12,
        secret=b"\x03" * 8,
    )
    assert kdf.derive(b"\x01" * 32).hex() == (
        "0d640df58d78766c08c037a34a8b53c9d01ef0452d75b65eb52520e96b01e659"
    )


def test_known_password_slot() -> None:
    slot = wrap(
        ROOT, PASSWORD, REPOSITORY_ID, label="a", cost=CHEAP, created_ns=5, random=CountingBytes()
    )
    assert (slot.slot_id, slot.salt) == (bytes(range(16)), bytes(range(16, 48)))
    assert slot.nonce == bytes(range(48, 60))
    key = Argon2id(salt=slot.salt, length=32, iterations=1, lanes=1, memory_cost=8192)
    cipher = AESGCM(key.derive("pässword".encode()))
    associated = slot.pack()[:188] + REPOSITORY_ID
    assert cipher.encrypt(slot.nonce, ROOT.reveal(), associated) == slot.wrapped


def test_known_wraps(key_file: KeyFile) -> None:
    by_password = wrap(
        ROOT,
        PASSWORD,
        REPOSITORY_ID,
        label="läptop",
        cost=CHEAP,
        created_ns=5,
        random=CountingBytes(),
    )
    assert by_password.wrapped.hex() == KNOWN_PASSWORD_WRAP
    by_file = wrap(ROOT, key_file, REPOSITORY_ID, created_ns=5, random=CountingBytes())
    assert by_file.wrapped.hex() == KNOWN_KEY_FILE_WRAP
    key = hkdf(b"K" * 32, by_file.salt, b"repo format 1 key file\0", 32)
    associated = by_file.pack()[:188] + REPOSITORY_ID
    assert AESGCM(key).decrypt(by_file.nonce, by_file.wrapped, associated) == ROOT.reveal()


# --- right and wrong -------------------------------------------------------------------------


def test_what_wrapped_unwraps(key_file: KeyFile) -> None:
    for credential in (PASSWORD, key_file):
        opened = unwrap(slot_for(credential, "läptop"), credential, REPOSITORY_ID)
        assert opened.reveal() == ROOT.reveal()
        assert str(opened) == "***"


def test_the_same_secret_wraps_differently_each_time(key_file: KeyFile) -> None:
    for credential in (PASSWORD, key_file):
        first, second = (KeySlot.parse(slot_for(credential)) for _ in range(2))
        for name in ("slot_id", "salt", "nonce", "wrapped"):
            assert getattr(first, name) != getattr(second, name)


def test_a_wrong_credential_opens_nothing(key_file: KeyFile, tmp_path: Path) -> None:
    wrong_file = KeyFile(tmp_path / "wrong")
    keyfile.create(wrong_file.path)
    tries: list[tuple[Credential, Credential]] = [
        (PASSWORD, OTHER),
        (PASSWORD, key_file),
        (key_file, PASSWORD),
        (key_file, wrong_file),
    ]
    for right, wrong in tries:
        with pytest.raises(WrongKey) as caught:
            unwrap(slot_for(right), wrong, REPOSITORY_ID, where="keys/x")
        assert caught.value.exit_status == 11
        assert caught.value.where == "keys/x"
        assert caught.value.next_step


def test_a_slot_of_another_repository_does_not_open(key_file: KeyFile) -> None:
    for credential in (PASSWORD, key_file):
        with pytest.raises(WrongKey):
            unwrap(slot_for(credential), credential, RepositoryId(bytes(16)))


def test_every_forged_bit_of_a_slot_is_refused(key_file: KeyFile) -> None:
    data = slot_for(key_file, "label")
    for bit in range(248 * 8):
        forged = bytearray(data)
        forged[bit // 8] ^= 1 << bit % 8
        with pytest.raises((Damaged, WrongKey)):
            unwrap(with_checksum(forged), key_file, REPOSITORY_ID)


@pytest.mark.parametrize("offset", [12, 16, 20, 24, 32, 48, 80, 188, 200, 247])
def test_a_forged_field_of_a_password_slot_does_not_open(offset: int) -> None:
    forged = bytearray(slot_for(PASSWORD, "label", KdfCost(8192, 2, 2)))
    forged[offset] ^= 1
    with pytest.raises(WrongKey):
        unwrap(with_checksum(forged), PASSWORD, REPOSITORY_ID)


def test_wrap_refuses_what_could_not_be_read_back() -> None:
    with pytest.raises(UsageError, match="password is empty"):
        wrap(ROOT, Password(Secret(b"")), REPOSITORY_ID, cost=CHEAP)
    with pytest.raises(UsageError, match="longer than 64 bytes"):
        wrap(ROOT, PASSWORD, REPOSITORY_ID, label="x" * 65, cost=CHEAP)
    with pytest.raises(UsageError, match="cannot be printed"):
        wrap(ROOT, PASSWORD, REPOSITORY_ID, label="\x1b[31m", cost=CHEAP)
    with pytest.raises(UsageError, match="memory in KiB"):
        wrap(ROOT, PASSWORD, REPOSITORY_ID, cost=KdfCost(1024, 1, 1))
    with pytest.raises(ValueError, match="32 bytes"):
        wrap(Secret(b"short"), PASSWORD, REPOSITORY_ID, cost=CHEAP)


# --- cost ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "value"),
    [(12, 1 << 32), (12, (4 << 20) + 1), (12, 1), (16, 65), (16, 1 << 32), (20, 65), (20, 1 << 32)],
)
def test_absurd_cost_is_refused_before_memory_is_taken(
    derivations: list[int], offset: int, value: int
) -> None:
    data = bytearray(slot_for(PASSWORD))
    derivations.clear()
    data[offset : offset + 4] = min(value, (1 << 32) - 1).to_bytes(4, "little")
    with pytest.raises(Damaged, match="outside"):
        unwrap(with_checksum(data), PASSWORD, REPOSITORY_ID)
    with pytest.raises(Damaged, match="outside"):
        open_any({"a": with_checksum(data)}, PASSWORD, REPOSITORY_ID)
    assert not derivations


def test_want_of_memory_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    data = slot_for(PASSWORD)

    def greedy(**_: int) -> Argon2id:
        raise MemoryError

    monkeypatch.setattr(unlock, "Argon2id", greedy)
    for attempt in (
        lambda: unwrap(data, PASSWORD, REPOSITORY_ID),
        lambda: open_any({"a": data}, PASSWORD, REPOSITORY_ID),
    ):
        with pytest.raises(JobFailed, match="takes 8 MiB of memory"):
            attempt()


# --- many slots ------------------------------------------------------------------------------


def test_open_any_names_the_slot_that_opened(key_file: KeyFile) -> None:
    slots = {"a": slot_for(OTHER), "b": slot_for(PASSWORD), "c": slot_for(key_file)}
    for credential, name in ((PASSWORD, "b"), (OTHER, "a"), (key_file, "c")):
        opened = open_any(slots, credential, REPOSITORY_ID)
        assert (opened.slot, opened.root.reveal()) == (name, ROOT.reveal())
        assert ROOT.reveal().hex() not in repr(opened)


def test_open_any_tries_cheap_slots_first_and_only_of_its_kind(
    derivations: list[int], key_file: KeyFile
) -> None:
    slots = {
        "a": slot_for(OTHER, cost=KdfCost(16384, 1, 1)),
        "b": slot_for(PASSWORD, cost=KdfCost(9000, 1, 1)),
        "c": slot_for(OTHER, cost=KdfCost(8192, 1, 1)),
        "d": slot_for(key_file),
    }
    derivations.clear()
    assert open_any(slots, PASSWORD, REPOSITORY_ID).slot == "b"
    assert derivations == [8192, 9000]


def test_open_any_with_a_wrong_password_is_the_wrong_key() -> None:
    with pytest.raises(WrongKey, match="no key slot opens") as caught:
        open_any({"a": slot_for(PASSWORD)}, OTHER, REPOSITORY_ID)
    assert caught.value.exit_status == 11
    assert "not tried" not in caught.value.what


def test_a_damaged_slot_does_not_keep_another_from_opening() -> None:
    slots = {"a": bytes(KEY_SLOT_BYTES), "b": b"", "c": slot_for(PASSWORD)}
    assert open_any(slots, PASSWORD, REPOSITORY_ID).slot == "c"
    with pytest.raises(WrongKey, match="2 slots were not tried"):
        open_any(slots, OTHER, REPOSITORY_ID)


def test_only_damaged_slots_or_none_is_damage() -> None:
    with pytest.raises(Damaged) as caught:
        open_any({"a": b""}, PASSWORD, REPOSITORY_ID)
    assert caught.value.where == "keys/a"
    with pytest.raises(Damaged, match="0 key slots"):
        open_any({}, PASSWORD, REPOSITORY_ID)
    with pytest.raises(Damaged, match="65 key slots"):
        open_any({str(number): b"" for number in range(SLOTS_MAX + 1)}, PASSWORD, REPOSITORY_ID)


def test_a_multitude_of_expensive_slots_is_not_worked_through(
    derivations: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unlock, "OPEN_WORK_KIB_MAX", 3 * 8192)
    slots = {f"{number}": slot_for(OTHER) for number in range(5)}
    derivations.clear()
    with pytest.raises(WrongKey, match="2 slots were not tried"):
        open_any(slots, PASSWORD, REPOSITORY_ID)
    assert len(derivations) == 3


def test_the_key_file_is_read_once(key_file: KeyFile, monkeypatch: pytest.MonkeyPatch) -> None:
    slots = {f"{number}": slot_for(key_file) for number in range(3)}
    reads: list[Path] = []
    read: Callable[[Path], Secret] = keyfile.read

    def counted(path: Path) -> Secret:
        reads.append(path)
        return read(path)

    monkeypatch.setattr(keyfile, "read", counted)
    open_any(slots, key_file, REPOSITORY_ID)
    assert reads == [key_file.path]


def test_a_slot_with_an_altered_label_does_not_open() -> None:
    renamed = replace(KeySlot.parse(slot_for(PASSWORD, "mine")), label="yours")
    with pytest.raises(WrongKey):
        unwrap(renamed.pack(), PASSWORD, REPOSITORY_ID)
