"""The FUSE protocol: its messages as bytes. Pure.

After include/uapi/linux/fuse.h of Linux (protocol 7.38), the part that a read-only file system
needs. Numbers are in the byte order of the machine; lengths and offsets are bytes.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from struct import Struct
from typing import Final, NamedTuple

from mount.answers import Shown
from repo.errors import JobFailed

MAJOR: Final = 7
MINOR: Final = 38
MINOR_LEAST: Final = 31

REQUEST_BYTES_MAX: Final = 128 * 1024
"""What a buffer for requests must hold: the longest is an attempt to write."""

MAX_WRITE: Final = 4096
MAX_PAGES: Final = 256


class Opcode(enum.IntEnum):
    """What a request asks."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    READLINK = 5
    OPEN = 14
    READ = 15
    STATFS = 17
    RELEASE = 18
    GETXATTR = 22
    LISTXATTR = 23
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    ACCESS = 34
    INTERRUPT = 36
    DESTROY = 38
    BATCH_FORGET = 42
    READDIRPLUS = 44
    LSEEK = 46


class Feature(enum.IntFlag):
    """What kernel and server agree on in INIT."""

    ASYNC_READ = 1 << 0
    EXPORT_SUPPORT = 1 << 4
    AUTO_INVAL_DATA = 1 << 12
    DO_READDIRPLUS = 1 << 13
    ASYNC_DIO = 1 << 15
    NO_OPEN_SUPPORT = 1 << 17
    PARALLEL_DIROPS = 1 << 18
    POSIX_ACL = 1 << 20
    MAX_PAGES = 1 << 22
    CACHE_SYMLINKS = 1 << 23
    NO_OPENDIR_SUPPORT = 1 << 24


OPEN_KEEP_CACHE: Final = 1 << 1
OPEN_CACHE_DIR: Final = 1 << 3
NOTIFY_STORE: Final = 4

_HEADER: Final = Struct("=IIQQIIIHH")
assert _HEADER.size == 40
HEADER_BYTES: Final = _HEADER.size
_REPLY: Final = Struct("=IiQ")
assert _REPLY.size == 16
_INIT_IN: Final = Struct("=IIII")
_INIT_OUT: Final = Struct("=IIIIHHIIHHI28x")
assert _INIT_OUT.size == 64
_ATTRIBUTES: Final = "QQQqqqIIIIIIIIII"
_ENTRY: Final = Struct("=QQQQII" + _ATTRIBUTES)
assert _ENTRY.size == 128
_LISTED: Final = Struct("=QQQQII" + _ATTRIBUTES + "QQII")
assert _LISTED.size == 152
_GETATTR_OUT: Final = Struct("=QII" + _ATTRIBUTES)
assert _GETATTR_OUT.size == 104
_OPEN_OUT: Final = Struct("=QIi")
_READ_IN: Final = Struct("=QQI")
_XATTR_IN: Final = Struct("=II")
_XATTR_OUT: Final = Struct("=II")
_STATFS_OUT: Final = Struct("=QQQQQIIII24x")
assert _STATFS_OUT.size == 80
_LSEEK_IN: Final = Struct("=QQI")
_LSEEK_OUT: Final = Struct("=Q")
_FORGET_IN: Final = Struct("=Q")
_BATCH_HEAD: Final = Struct("=II")
_FORGET_ONE: Final = Struct("=QQ")
_STORE: Final = Struct("=QQII")

_PADDING: Final = tuple(bytes(-length % 8) for length in range(8))
"""What follows a name, by the last three bits of its length."""

_SECOND: Final = 1_000_000_000
_BLOCK: Final = 4096


class Request(NamedTuple):
    """The head of a request; `length` with the head."""

    length: int
    opcode: int
    unique: int
    node: int
    uid: int
    gid: int
    pid: int
    extensions: int
    padding: int

    @classmethod
    def parse(cls, data: memoryview) -> Request:
        """The head at the beginning of a message."""
        return cls._make(_HEADER.unpack_from(data))


def reply_head(unique: int, length: int) -> bytes:
    """The head of an answer with `length` bytes behind it."""
    return _REPLY.pack(_REPLY.size + length, 0, unique)


def refusal(unique: int, errno: int) -> bytes:
    """The answer that a request failed."""
    return _REPLY.pack(_REPLY.size, -errno, unique)


class Offer(NamedTuple):
    """What a kernel says in INIT."""

    major: int
    minor: int
    max_readahead: int
    features: int

    @classmethod
    def parse(cls, body: memoryview) -> Offer:
        """The body of INIT."""
        return cls._make(_INIT_IN.unpack_from(body))


def welcome(offer: Offer, wanted: Feature, *, background_max: int) -> bytes:
    """The answer to INIT. Raises JobFailed for a kernel that is too old."""
    if offer.major != MAJOR or offer.minor < MINOR_LEAST:
        raise JobFailed(
            f"the kernel speaks FUSE {offer.major}.{offer.minor}",
            next_step=f"{MAJOR}.{MINOR_LEAST} is needed (Linux 5.4)",
        )
    return _INIT_OUT.pack(
        MAJOR,
        min(offer.minor, MINOR),
        offer.max_readahead,
        offer.features & wanted,
        background_max,
        background_max * 3 // 4,
        MAX_WRITE,
        1,
        MAX_PAGES,
        0,
        0,
    )


def _attributes(shown: Shown) -> tuple[int, ...]:
    number, size, blocks, mtime_ns, ctime_ns, mode, nlink, uid, gid, rdev = shown
    mtime, mtime_rest = divmod(mtime_ns, _SECOND)
    ctime, ctime_rest = divmod(ctime_ns, _SECOND)
    return (
        number, size, blocks, mtime, mtime, ctime, mtime_rest, mtime_rest, ctime_rest,
        mode, nlink, uid, gid, rdev & 0xFFFF_FFFF, _BLOCK, 0,
    )  # fmt: skip


def entry(shown: Shown, generation: int, seconds: int) -> bytes:
    """The answer to LOOKUP."""
    head = (shown.number, generation, seconds, seconds, 0, 0)
    return _ENTRY.pack(*head, *_attributes(shown))


def no_entry(seconds: int) -> bytes:
    """The answer to LOOKUP that there is nothing, which may be remembered for so long."""
    return _ENTRY.pack(0, 0, seconds, *bytes(19))


def attributes(shown: Shown, seconds: int) -> bytes:
    """The answer to GETATTR."""
    return _GETATTR_OUT.pack(seconds, 0, 0, *_attributes(shown))


def listed(name: bytes, shown: Shown, generation: int, seconds: int, following: int) -> bytes:
    """One entry of the answer to READDIRPLUS."""
    # The same as `entry` and `_attributes`, spelled out: this runs for each name of each listing.
    number, size, blocks, mtime_ns, ctime_ns, mode, nlink, uid, gid, rdev = shown
    mtime, mtime_rest = divmod(mtime_ns, _SECOND)
    ctime, ctime_rest = divmod(ctime_ns, _SECOND)
    length = len(name)
    packed = _LISTED.pack(
        number, generation, seconds, seconds, 0, 0,
        number, size, blocks, mtime, mtime, ctime, mtime_rest, mtime_rest, ctime_rest,
        mode, nlink, uid, gid, rdev & 0xFFFF_FFFF, _BLOCK, 0,
        number, following, length, mode >> 12,
    )  # fmt: skip
    return packed + name + _PADDING[length & 7]


def opened(flags: int) -> bytes:
    """The answer to OPEN or OPENDIR: no handle, but flags."""
    return _OPEN_OUT.pack(0, flags, 0)


def parse_read(body: memoryview) -> tuple[int, int]:
    """The offset and length that READ or READDIRPLUS asks for."""
    _, offset, length = _READ_IN.unpack_from(body)
    return offset, length


def parse_xattr(body: memoryview) -> tuple[int, bytes]:
    """The room for an answer (0: only its length is asked) and, of GETXATTR, the name."""
    room, _ = _XATTR_IN.unpack_from(body)
    return room, bytes(body[_XATTR_IN.size :]).rstrip(b"\0")


def xattr_length(length: int) -> bytes:
    """The answer to GETXATTR or LISTXATTR when only the length is asked."""
    return _XATTR_OUT.pack(length, 0)


def parse_name(body: memoryview) -> bytes:
    """The name that LOOKUP asks for."""
    return bytes(body).rstrip(b"\0")


def statfs(*, size: int, entries: int, name_bytes_max: int) -> bytes:
    """The answer to STATFS: so much is there, and room for nothing."""
    blocks = max(1, -(-size // _BLOCK))
    return _STATFS_OUT.pack(blocks, 0, 0, max(1, entries), 0, _BLOCK, name_bytes_max, _BLOCK, 0)


def parse_lseek(body: memoryview) -> tuple[int, int]:
    """The offset and whence of LSEEK."""
    _, offset, whence = _LSEEK_IN.unpack_from(body)
    return offset, whence


def sought(offset: int) -> bytes:
    """The answer to LSEEK."""
    return _LSEEK_OUT.pack(offset)


def parse_forget(request: Request, body: memoryview) -> Iterator[tuple[int, int]]:
    """What FORGET or BATCH_FORGET gives back: (number, how many times)."""
    if request.opcode == Opcode.FORGET:
        yield request.node, _FORGET_IN.unpack_from(body)[0]
        return
    count, _ = _BATCH_HEAD.unpack_from(body)
    end = _BATCH_HEAD.size + count * _FORGET_ONE.size
    yield from _FORGET_ONE.iter_unpack(body[_BATCH_HEAD.size : end])


def store_head(number: int, offset: int, length: int) -> bytes:
    """The head of a message that puts `length` bytes into the page cache of an inode."""
    total = _REPLY.size + _STORE.size + length
    return _REPLY.pack(total, NOTIFY_STORE, 0) + _STORE.pack(number, offset, length, 0)
