"""FUSE messages as bytes: what is written parses back as the kernel reads it."""

from __future__ import annotations

import stat
from struct import pack, unpack_from

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mount import protocol
from mount.answers import Shown
from mount.protocol import Feature, Offer, Opcode, Request
from repo.errors import JobFailed

u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**63 - 1)
times = st.integers(-(2**61), 2**61)
modes = st.sampled_from([stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFBLK])
shown = st.builds(Shown, u64, u64, u64, times, times, modes, u32, u32, u32, u64)


def _attributes(data: bytes) -> Shown:
    (number, size, blocks, atime, mtime, ctime, atime_rest, mtime_rest, ctime_rest) = unpack_from(
        "=QQQqqqIII", data
    )
    mode, nlink, uid, gid, rdev, block, flags = unpack_from("=IIIIIII", data, 60)
    assert (atime, atime_rest) == (mtime, mtime_rest)
    assert (block, flags) == (4096, 0)
    second = 10**9
    mtime_ns, ctime_ns = mtime * second + mtime_rest, ctime * second + ctime_rest
    return Shown(number, size, blocks, mtime_ns, ctime_ns, mode, nlink, uid, gid, rdev)


def _expected(one: Shown) -> Shown:
    return one._replace(rdev=one.rdev & 0xFFFF_FFFF)


@given(shown, u32, st.integers(0, 10**6))
def test_an_entry(one: Shown, generation: int, seconds: int) -> None:
    data = protocol.entry(one, generation, seconds)
    assert unpack_from("=QQQQII", data) == (one.number, generation, seconds, seconds, 0, 0)
    assert _attributes(data[40:]) == _expected(one)


@given(shown, st.integers(0, 10**6))
def test_attributes(one: Shown, seconds: int) -> None:
    data = protocol.attributes(one, seconds)
    assert unpack_from("=QII", data) == (seconds, 0, 0)
    assert _attributes(data[16:]) == _expected(one)


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=255), shown), max_size=8))
def test_a_listing(entries: list[tuple[bytes, Shown]]) -> None:
    data = b"".join(
        protocol.listed(name, one, 3, 60, 10 + at) for at, (name, one) in enumerate(entries)
    )
    offset = 0
    for at, (name, one) in enumerate(entries):
        assert data[offset : offset + 128] == protocol.entry(one, 3, 60)
        head = unpack_from("=QQII", data, offset + 128)
        assert head == (one.number, 10 + at, len(name), one.mode >> 12)
        assert data[offset + 152 : offset + 152 + len(name)] == name
        offset += (152 + len(name) + 7) // 8 * 8
    assert offset == len(data)


def test_no_entry_is_an_entry_without_number() -> None:
    assert protocol.no_entry(60) == pack("=QQQ104x", 0, 0, 60)


def test_a_request_and_its_answers() -> None:
    message = memoryview(pack("=IIQQIIIHH", 50, Opcode.LOOKUP, 7, 1, 10, 20, 30, 0, 0) + b"name\0")
    request = Request.parse(message)
    assert request[:7] == (50, Opcode.LOOKUP, 7, 1, 10, 20, 30)
    assert protocol.parse_name(message[protocol.HEADER_BYTES :]) == b"name"
    assert protocol.reply_head(7, 5) == pack("=IiQ", 21, 0, 7)
    assert protocol.refusal(7, 2) == pack("=IiQ", 16, -2, 7)


def test_the_other_bodies() -> None:
    assert protocol.parse_read(memoryview(pack("=QQIIQII", 1, 2, 3, 0, 0, 0, 0))) == (2, 3)
    assert protocol.parse_xattr(memoryview(pack("=II", 9, 0) + b"user.x\0")) == (9, b"user.x")
    assert protocol.parse_lseek(memoryview(pack("=QQII", 0, 5, 3, 0))) == (5, 3)
    assert protocol.xattr_length(5) == pack("=II", 5, 0)
    assert protocol.sought(9) == pack("=Q", 9)
    assert protocol.opened(3) == pack("=QIi", 0, 3, 0)
    assert protocol.store_head(5, 6, 7) == pack("=IiQQQII", 47, 4, 0, 5, 6, 7, 0)
    told = protocol.statfs(size=5000, entries=3, name_bytes_max=255)
    assert told == pack("=QQQQQIIII24x", 2, 0, 0, 3, 0, 4096, 255, 4096, 0)


def test_forgetting_one_and_many() -> None:
    one = Request(48, Opcode.FORGET, 1, 5, 0, 0, 0, 0, 0)
    assert list(protocol.parse_forget(one, memoryview(pack("=Q", 2)))) == [(5, 2)]
    many = one._replace(opcode=Opcode.BATCH_FORGET)
    body = pack("=II", 2, 0) + pack("=QQQQ", 5, 1, 6, 2) + b"rest"
    assert list(protocol.parse_forget(many, memoryview(body))) == [(5, 1), (6, 2)]


def test_the_welcome_takes_only_what_is_offered() -> None:
    offered = Feature.MAX_PAGES | Feature.ASYNC_READ
    offer = Offer.parse(memoryview(pack("=IIII", 7, 45, 131072, offered)))
    wanted = Feature.MAX_PAGES | Feature.POSIX_ACL
    data = protocol.welcome(offer, wanted, background_max=64)
    major, minor, ahead, features, background, congested = unpack_from("=IIIIHH", data)
    assert (major, minor, ahead, features) == (7, 38, 131072, Feature.MAX_PAGES)
    assert (background, congested, len(data)) == (64, 48, 64)


@pytest.mark.parametrize("version", [(6, 99), (8, 0), (7, 30)])
def test_a_kernel_too_old_or_new_is_refused(version: tuple[int, int]) -> None:
    with pytest.raises(JobFailed, match=f"FUSE {version[0]}.{version[1]}"):
        protocol.welcome(Offer(*version, 0, 0), Feature(0), background_max=1)
