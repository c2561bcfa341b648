"""An ACL: the extended attribute that holds one, and what taking permissions away leaves of it."""

from __future__ import annotations

from struct import Struct
from typing import Final

ACCESS: Final = b"system.posix_acl_access"

_VERSION: Final = Struct("<I")
_ROW: Final = Struct("<HHI")  # tag, permissions, id
_SHIFTS: Final = {0x01: 6, 0x20: 0}
"""The bits of the mode that stand for the owner (ACL_USER_OBJ) and for others (ACL_OTHER)."""

_MASK: Final = 0x10
_GROUP: Final = 0x04


def without(value: bytes, umask: int) -> bytes:
    """The ACL without these bits of the mode, as chmod(2) takes them away: those of the group from
    the mask, which limits all that is named, or where there is none from the group itself.

    What is no ACL is left alone: the kernel refuses it.
    """
    if len(value) % _ROW.size != _VERSION.size:
        return value
    rows = list(_ROW.iter_unpack(value[_VERSION.size :]))
    group = _MASK if any(tag == _MASK for tag, _, _ in rows) else _GROUP
    shifts = {**_SHIFTS, group: 3}
    kept = [
        _ROW.pack(tag, mode & ~(umask >> shifts[tag] & 7) if tag in shifts else mode, number)
        for tag, mode, number in rows
    ]
    return value[: _VERSION.size] + b"".join(kept)
