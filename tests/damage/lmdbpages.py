"""The pages of an LMDB file that its newest transaction sees, and the bytes of them that count.

Most pages of a small index are free, and most of a page may be: a bit that is flipped there tells
nothing of what happens when one is flipped that matters.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct

PAGE_BYTES = 4096
_PAGE = Struct("<QHHHH")  # number, size of keys, flags, begin and end of what is free
_META = Struct("<IIQQ48s48sQQ")  # magic, version, address, size, tables, last page, transaction
_TABLE = Struct("<IHHQQQQQ")  # the last: its root
_NODE = Struct("<HHHH")
_MAGIC = 0xBEEFC0DE
_NO_PAGE = (1 << 64) - 1
_BRANCH, _OVERFLOW, _PACKED = 0x01, 0x04, 0x20
_BIG, _SUBTABLE = 0x01, 0x02


def branch_pages(data: bytes) -> list[int]:
    """The offsets of the inner pages that the newest transaction sees."""
    pages = sorted({at // PAGE_BYTES * PAGE_BYTES for at in used_bytes(data)})
    return [at for at in pages if _PAGE.unpack_from(data, at)[2] & _BRANCH]


def used_bytes(data: bytes) -> set[int]:
    """The offsets of all bytes that the newest transaction relies on."""
    metas = [_META.unpack_from(data, at + _PAGE.size) for at in (0, PAGE_BYTES)]
    assert all(meta[0] == _MAGIC for meta in metas)
    number, newest = max(enumerate(metas), key=lambda pair: pair[1][-1])
    start = number * PAGE_BYTES
    used = set(range(start, start + _PAGE.size + _META.size))
    pending = [_root(newest[5])]
    while pending:
        page = pending.pop()
        if page != _NO_PAGE:
            pending += _page(data, page * PAGE_BYTES, used)
    return used


def _root(table: bytes) -> int:
    return int(_TABLE.unpack(table)[-1])


def _page(data: bytes, at: int, used: set[int]) -> Iterator[int]:
    """Note what a page holds; the pages that it names."""
    _, key_bytes, flags, lower, upper = _PAGE.unpack_from(data, at)
    count = (lower - _PAGE.size) // 2
    used.update(range(at, at + _PAGE.size))
    if flags & _OVERFLOW:
        used.update(range(at, at + (lower | upper << 16) * PAGE_BYTES))
        return
    if flags & _PACKED:
        used.update(range(at + _PAGE.size, at + _PAGE.size + count * key_bytes))
        return
    used.update(range(at, at + lower), range(at + upper, at + PAGE_BYTES))
    for place in Struct(f"<{count}H").unpack_from(data, at + _PAGE.size):
        low, high, node_flags, key_bytes = _NODE.unpack_from(data, at + place)
        value = at + place + _NODE.size + key_bytes
        if flags & _BRANCH:
            yield low | high << 16 | node_flags << 32
        elif node_flags & _BIG:
            yield int.from_bytes(data[value : value + 8], "little")
        elif node_flags & _SUBTABLE:
            yield _root(data[value : value + _TABLE.size])
