"""A key slot: the root key, wrapped for one password or one key file.

256 bytes, one file per slot (FORMAT.md, Key slot). A slot is read before anything can be
authenticated, so its cost parameters are bounded here, before memory or time is spent on them.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from struct import Struct
from typing import Final, NamedTuple

from xxhash import xxh3_64_intdigest

from repo.errors import Damaged
from repo.format.magic import FORMAT_VERSION, KEY_SLOT_MAGIC
from repo.types import KIB, MIB, RepositoryId

KEY_SLOT_BYTES: Final = 256
SALT_BYTES: Final = 32
NONCE_BYTES: Final = 12
WRAPPED_BYTES: Final = 48
LABEL_BYTES_MAX: Final = 64

KEY_SLOT_FIELDS: Final = Struct(
    "<8s"  #   0  magic
    "H"  #     8  format version
    "B"  #    10  kind
    "B"  #    11  label length
    "I"  #    12  memory
    "I"  #    16  iterations
    "I"  #    20  lanes
    "Q"  #    24  created
    "16s"  #  32  slot id
    "32s"  #  48  salt
    "64s"  #  80  label
    "44x"  # 144  reserved
    "12s"  # 188  nonce
    "48s"  # 200  wrapped root key
    "Q"  #   248  checksum
)
assert KEY_SLOT_FIELDS.size == KEY_SLOT_BYTES  # FORMAT.md, Key slot

_AUTHENTICATED: Final = slice(0, 188)
_CHECKED: Final = slice(0, 248)
_RESERVED: Final = slice(144, 188)

MEMORY_KIB_MIN: Final = 8 * MIB // KIB
MEMORY_KIB_MAX: Final = 4 * MIB
"""4 GiB, in KiB."""

ITERATIONS_MAX: Final = 64
LANES_MAX: Final = 64
WORK_KIB_MAX: Final = 32 * MIB
"""Memory times iterations, in KiB: what bounds the time of one derivation (about half a minute)."""

_NEXT = "put back a copy of the slot, or use another slot"


class SlotKind(enum.IntEnum):
    """What opens a slot."""

    PASSWORD = 1
    KEY_FILE = 2


class KdfCost(NamedTuple):
    """What one Argon2id derivation costs: memory in KiB, passes over it, lanes computed at once."""

    memory_kib: int = 256 * KIB
    iterations: int = 3
    lanes: int = 4

    def problem(self) -> str:
        """Why no slot may ask for this; empty when it may."""
        for what, value, least, most in (
            ("memory in KiB", self.memory_kib, MEMORY_KIB_MIN, MEMORY_KIB_MAX),
            ("iterations", self.iterations, 1, ITERATIONS_MAX),
            ("lanes", self.lanes, 1, LANES_MAX),
            ("memory in KiB times iterations", self.memory_kib * self.iterations, 1, WORK_KIB_MAX),
        ):
            if not least <= value <= most:
                return f"{what} of a key slot is {value}, outside {least}..{most}"
        return ""


def label_problem(label: str) -> str:
    """Why `label` cannot name a slot; empty when it can.

    Labels are shown before anything is authenticated: no control characters for a terminal.
    """
    if not label.isprintable():
        return "the label of a key slot has characters that cannot be printed"
    if len(label.encode()) > LABEL_BYTES_MAX:
        return f"the label of a key slot is longer than {LABEL_BYTES_MAX} bytes"
    return ""


@dataclass(frozen=True, kw_only=True, slots=True)
class KeySlot:
    """One slot. `cost` is there for a password only; `created_ns` is Unix time in nanoseconds.

    `label` is what the user called it: at most 64 bytes of UTF-8. Raises Damaged when a field
    cannot be that of a slot.
    """

    kind: SlotKind
    slot_id: bytes
    created_ns: int
    cost: KdfCost | None
    salt: bytes
    label: str
    nonce: bytes
    wrapped: bytes

    def __post_init__(self) -> None:
        lengths = (len(self.slot_id), len(self.salt), len(self.nonce), len(self.wrapped))
        if lengths != (16, SALT_BYTES, NONCE_BYTES, WRAPPED_BYTES):
            raise _damaged("a field of a key slot has the wrong length")
        if (self.cost is None) != (self.kind is SlotKind.KEY_FILE):
            raise _damaged("a key slot's cost does not fit its kind")
        if not 0 <= self.created_ns < 1 << 64:
            raise _damaged("a key slot's creation time is out of range")
        problem = label_problem(self.label) or (self.cost.problem() if self.cost else "")
        if problem:
            raise _damaged(problem)

    def pack(self) -> bytes:
        """The 256 bytes, checksum included."""
        body = self._pack(0)[_CHECKED]
        return self._pack(xxh3_64_intdigest(body))

    def authenticated_bytes(self, repository_id: RepositoryId) -> bytes:
        """What the wrapping authenticates: everything before the nonce, and the repository."""
        return self._pack(0)[_AUTHENTICATED] + repository_id

    def _pack(self, checksum: int) -> bytes:
        label = self.label.encode()
        cost = self.cost
        return KEY_SLOT_FIELDS.pack(
            KEY_SLOT_MAGIC,
            FORMAT_VERSION,
            self.kind,
            len(label),
            cost.memory_kib if cost else 0,
            cost.iterations if cost else 0,
            cost.lanes if cost else 0,
            self.created_ns,
            self.slot_id,
            self.salt,
            label,
            self.nonce,
            self.wrapped,
            checksum,
        )

    @classmethod
    def parse(cls, data: bytes, *, where: str = "keys") -> KeySlot:
        """The slot in the whole content of its file. Raises Damaged when it is not one."""
        if len(data) != KEY_SLOT_BYTES:
            raise _damaged("a key slot has the wrong length", where)
        magic, version, kind, label_bytes, memory, iterations, lanes, created_ns, *rest = (
            KEY_SLOT_FIELDS.unpack(data)
        )
        slot_id, salt, label, nonce, wrapped, checksum = rest
        if magic != KEY_SLOT_MAGIC or checksum != xxh3_64_intdigest(data[_CHECKED]):
            raise _damaged("a key slot is not what was written", where)
        if version != FORMAT_VERSION or kind not in SlotKind.__members__.values():
            raise Damaged(
                f"a key slot has format {version} and kind {kind}",
                where=where,
                next_step="use a newer version of repo, or another slot",
            )
        if any(data[_RESERVED]):
            raise _damaged("a key slot's reserved bytes are not zero", where)
        try:
            return cls(
                kind=SlotKind(kind),
                slot_id=slot_id,
                created_ns=created_ns,
                cost=_parse_cost(SlotKind(kind), memory, iterations, lanes),
                salt=salt,
                label=_parse_label(label, label_bytes),
                nonce=nonce,
                wrapped=wrapped,
            )
        except Damaged as error:
            raise _damaged(error.what, where) from None


def _parse_cost(kind: SlotKind, memory_kib: int, iterations: int, lanes: int) -> KdfCost | None:
    if kind is SlotKind.PASSWORD:
        return KdfCost(memory_kib, iterations, lanes)
    if memory_kib or iterations or lanes:
        raise _damaged("a key-file slot states a cost")
    return None


def _parse_label(field: bytes, length: int) -> str:
    if length > LABEL_BYTES_MAX or any(field[length:]):
        raise _damaged("a key slot's label is longer than it says")
    try:
        return field[:length].decode()
    except UnicodeDecodeError:
        raise _damaged("a key slot's label is not UTF-8") from None


def _damaged(what: str, where: str = "keys") -> Damaged:
    return Damaged(what, where=where, next_step=_NEXT)
