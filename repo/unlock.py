"""Unlocking: from a password or a key file to the root key, by way of key slots.

A password goes through Argon2id (RFC 9106), a key file through HKDF-SHA256; either gives the
key that wraps the root key with AES-256-GCM. The slot's own fields and the repository id are
authenticated with it, so a slot cannot be altered or carried to another repository.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from repo import keyfile
from repo.errors import Damaged, JobFailed, UsageError, WrongKey
from repo.format.keyslot import (
    NONCE_BYTES,
    SALT_BYTES,
    WRAPPED_BYTES,
    KdfCost,
    KeySlot,
    SlotKind,
    label_problem,
)
from repo.keys import KEY_BYTES, Credential, Password, Random, expand
from repo.types import MIB, RepositoryId, Secret

SLOTS_MAX: Final = 64
OPEN_WORK_KIB_MAX: Final = 128 * MIB
"""Memory times passes, in KiB, of all the slots that one unlocking may try: about two minutes."""

COST: Final = KdfCost()
"""256 MiB, three passes, four lanes: some .6 s for each guess."""


class Unlocked(NamedTuple):
    """The root key, and the name of the slot that gave it."""

    slot: str
    root: Secret


class _Opener(NamedTuple):
    """A credential ready for use: the kind of slot that it fits, and the bytes."""

    kind: SlotKind
    secret: Secret


def wrap(
    root: Secret,
    credential: Credential,
    repository_id: RepositoryId,
    *,
    label: str = "",
    cost: KdfCost = COST,
    created_ns: int | None = None,
    random: Random = os.urandom,
) -> KeySlot:
    """A new slot that `credential` opens; `cost` counts for a password only.

    `created_ns`: Unix time in nanoseconds, by default now. Raises UsageError for an empty
    password, a label or cost that no slot may have, or a key file that cannot be used.
    """
    opener = _opener(credential)
    problem = label_problem(label) or cost.problem()
    if problem:
        raise UsageError(problem)
    if not opener.secret.reveal():
        raise UsageError("the password is empty", next_step="give a password or use a key file")
    if len(root.reveal()) != KEY_BYTES:
        raise ValueError("a root key has 32 bytes")
    draft = KeySlot(
        kind=opener.kind,
        slot_id=random(16),
        created_ns=time.time_ns() if created_ns is None else created_ns,
        cost=cost if opener.kind is SlotKind.PASSWORD else None,
        salt=random(SALT_BYTES),
        label=label,
        nonce=random(NONCE_BYTES),
        wrapped=bytes(WRAPPED_BYTES),
    )
    cipher = AESGCM(_wrapping_key(draft, opener, "the new slot").reveal())
    associated = draft.authenticated_bytes(repository_id)
    return replace(draft, wrapped=cipher.encrypt(draft.nonce, root.reveal(), associated))


def unwrap(
    data: bytes, credential: Credential, repository_id: RepositoryId, *, where: str = "keys"
) -> Secret:
    """The root key in the slot that `data` is.

    Raises WrongKey when the credential does not open it, Damaged when it is no slot or asks
    for more than the limits allow, JobFailed when this machine lacks the memory it asks for.
    """
    slot, opener = KeySlot.parse(data, where=where), _opener(credential)
    root = _open(slot, opener, repository_id, where) if slot.kind is opener.kind else None
    if root is None:
        raise _wrong_key("the slot does not open with the password or key file given", where)
    return root


def open_any(
    slots: Mapping[str, bytes], credential: Credential, repository_id: RepositoryId
) -> Unlocked:
    """The root key from the first of `slots` (name: content) that the credential opens.

    Cheap slots are tried first; a damaged one does not keep the others from opening. Raises
    WrongKey when none opens, Damaged when there is none or none is intact, JobFailed when one
    could not be tried for want of memory.
    """
    if not 0 < len(slots) <= SLOTS_MAX:
        raise Damaged(
            f"the repository has {len(slots)} key slots, not 1..{SLOTS_MAX}",
            where="keys",
            next_step="put back a copy of the folder `keys`",
        )
    opener = _opener(credential)
    intact, damage = _parse_all(slots)
    want_of_memory: JobFailed | None = None
    work = 0
    untried = len(damage)
    for name, slot in intact:
        if slot.kind is not opener.kind:
            continue
        work += _work(slot)
        if work > OPEN_WORK_KIB_MAX:
            untried += 1
            continue
        try:
            root = _open(slot, opener, repository_id, f"keys/{name}")
        except JobFailed as error:
            want_of_memory = error
            continue
        if root is not None:
            return Unlocked(name, root)
    if want_of_memory:
        raise want_of_memory
    if not intact:
        raise damage[0]
    what = "no key slot opens with the password or key file given"
    if untried:
        what += f" ({untried} slots were not tried: they are damaged or ask for too much work)"
    raise _wrong_key(what, "keys")


def _parse_all(slots: Mapping[str, bytes]) -> tuple[list[tuple[str, KeySlot]], list[Damaged]]:
    intact: list[tuple[str, KeySlot]] = []
    damage: list[Damaged] = []
    for name, data in slots.items():
        try:
            intact.append((name, KeySlot.parse(data, where=f"keys/{name}")))
        except Damaged as error:
            damage.append(error)
    intact.sort(key=lambda item: (_work(item[1]), item[0]))
    return intact, damage


def _work(slot: KeySlot) -> int:
    return slot.cost.memory_kib * slot.cost.iterations if slot.cost else 0


def _opener(credential: Credential) -> _Opener:
    if isinstance(credential, Password):
        return _Opener(SlotKind.PASSWORD, credential.secret)
    return _Opener(SlotKind.KEY_FILE, keyfile.read(credential.path))


def _open(slot: KeySlot, opener: _Opener, repository_id: RepositoryId, where: str) -> Secret | None:
    """The root key, or None when the credential does not open the slot."""
    cipher = AESGCM(_wrapping_key(slot, opener, where).reveal())
    try:
        associated = slot.authenticated_bytes(repository_id)
        return Secret(cipher.decrypt(slot.nonce, slot.wrapped, associated))
    except InvalidTag:
        return None


def _wrapping_key(slot: KeySlot, opener: _Opener, where: str) -> Secret:
    if slot.cost is None:
        return Secret(expand(opener.secret, "key file", salt=slot.salt))
    memory_kib, iterations, lanes = slot.cost
    try:
        kdf = Argon2id(
            salt=slot.salt,
            length=KEY_BYTES,
            iterations=iterations,
            lanes=lanes,
            memory_cost=memory_kib,
        )
        return Secret(kdf.derive(opener.secret.reveal()))
    except MemoryError:
        raise JobFailed(
            f"deriving a key from the password takes {memory_kib // 1024} MiB of memory",
            where=where,
            next_step="free memory, or unlock with a key file",
        ) from None


def _wrong_key(what: str, where: str) -> WrongKey:
    return WrongKey(what, where=where, next_step="check the password or the key file")
