"""The manifest and the point's file: laws of their bytes, and what damage does to them."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from repo.errors import Damaged
from repo.format import limits
from repo.format.frame import SEAL_BYTES
from repo.format.manifest import (
    HEAD_BYTES,
    Point,
    PointFile,
    Problem,
    Snapshot,
    Statistics,
    pack_problems,
    parse_problems,
)
from repo.format.node import Entry
from repo.types import Kind, PointId, RepositoryId

ID16 = st.binary(min_size=16, max_size=16)
ID32 = st.binary(min_size=32, max_size=32)
COUNT = st.integers(0, (1 << 63) - 1)
WORDS = st.text(max_size=20)

ROOT = Entry(b"", Kind.DIRECTORY, 0o755, 0, 0, 1, 2, 3, 4, 5, node=bytes(range(32)))
POINT = Point(
    id=bytes(16),
    source_id="id",
    source_path="/path",
    host="host",
    created_ns=1,
    received_ns=2,
    root=ROOT,
)
FILE = PointFile(
    RepositoryId(b"r" * 16), PointId(b"p" * 16), b"s" * 32, b"c" * 32, b"sealed" * 8
).pack()

points = st.builds(
    Point,
    id=ID16,
    source_id=WORDS,
    source_path=WORDS,
    host=WORDS,
    created_ns=COUNT,
    received_ns=COUNT,
    root=st.builds(
        lambda node, below: msgspec.structs.replace(ROOT, node=node, bytes_below=below), ID32, COUNT
    ),
    statistics=st.builds(Statistics, files=COUNT, bytes_read=COUNT, seconds=st.floats(0, 1e9)),
    snapshot=st.builds(
        Snapshot, provider=WORDS, identity=st.dictionaries(WORDS, WORDS, max_size=3)
    ),
    problems_total=COUNT,
    problems=st.lists(ID32, max_size=3).map(tuple),
    tags=st.lists(WORDS, max_size=3).map(tuple),
    users=st.dictionaries(WORDS, WORDS, max_size=3),
    groups=st.dictionaries(WORDS, WORDS, max_size=3),
    exclusions=st.binary(max_size=40),
    made_by=WORDS,
    verdict=WORDS,
    change_source=WORDS,
)
problems = st.builds(
    Problem, path=st.binary(max_size=40), step=WORDS, errno=st.integers(0, 200), detail=WORDS
)
files = st.builds(
    PointFile,
    repository_id=ID16.map(RepositoryId),
    point_id=ID16.map(PointId),
    salt=ID32,
    commitment=ID32,
    sealed=st.binary(min_size=SEAL_BYTES, max_size=200),
)


def with_checksum(body: bytes) -> bytes:
    """As an attacker writes it: the checksum needs no key."""
    return body + xxh3_64_intdigest(body).to_bytes(8, "little")


# The plain manifest


@given(points)
def test_a_manifest_is_read_as_it_was_written(point: Point) -> None:
    assert Point.parse(point.pack(), where="here") == point


@given(st.data())
def test_a_truncated_manifest_is_damage(data: st.DataObject) -> None:
    packed = POINT.pack()
    cut = data.draw(st.integers(0, len(packed) - 1))
    for other in (packed[:cut], packed + b"\xc0"):
        with pytest.raises(Damaged):
            Point.parse(other, where="here")


@given(st.binary(max_size=100))
def test_any_bytes_are_a_manifest_or_damage(data: bytes) -> None:
    with pytest.raises(Damaged):
        Point.parse(data, where="here")


@pytest.mark.parametrize(
    "change",
    [
        {"id": bytes(15)},
        {"problems": (bytes(31),)},
        {"root": msgspec.structs.replace(ROOT, name=b"name")},
        {"root": msgspec.structs.replace(ROOT, node=b"")},
        {"root": msgspec.structs.replace(ROOT, uid=-1)},
        {"root": msgspec.structs.replace(ROOT, uid=(1 << 32) - 1)},
        {"root": msgspec.structs.replace(ROOT, node=b"short")},
        {"root": msgspec.structs.replace(ROOT, kind=Kind.FILE)},
        {"root": msgspec.structs.replace(ROOT, kind=99)},
        {"root": msgspec.structs.replace(ROOT, mode=0o17777)},
        {"root": msgspec.structs.replace(ROOT, xattrs=((b"user.\0", b""),))},
        {"source_id": 5},
    ],
)
def test_a_manifest_that_makes_no_sense_is_damage(change: dict[str, object]) -> None:
    with pytest.raises(Damaged):
        Point.parse(msgspec.structs.replace(POINT, **change).pack(), where="here")


def test_fields_of_a_newer_version_are_passed_over() -> None:
    fields = msgspec.structs.asdict(POINT) | {"new": [1, {"deep": 2}]}
    assert Point.parse(msgspec.msgpack.encode(fields), where="here") == POINT


def test_nesting_without_end_is_damage() -> None:
    fields = msgspec.msgpack.encode({"new": None})
    assert fields.endswith(b"\xc0")
    with pytest.raises(Damaged):
        Point.parse(fields[:-1] + b"\x91" * 1_000_000 + b"\xc0", where="here")


# Problems


@given(st.lists(problems, max_size=5))
def test_problems_are_read_as_they_were_written(found: list[Problem]) -> None:
    assert parse_problems(pack_problems(found), where="here") == found


@given(st.binary(max_size=60))
def test_any_bytes_are_problems_or_damage(data: bytes) -> None:
    try:
        found = parse_problems(data, where="here")
    except Damaged:
        return
    assert all(isinstance(problem, Problem) for problem in found)


# The file


@given(files)
def test_a_file_is_read_as_it_was_written(file: PointFile) -> None:
    data = file.pack()
    assert len(data) == HEAD_BYTES + len(file.sealed) + 8
    assert PointFile.parse(data, where="here") == file


def test_every_flipped_bit_of_a_file_is_damage() -> None:
    for bit in range(8 * len(FILE)):
        data = bytearray(FILE)
        data[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Damaged):
            PointFile.parse(bytes(data), where="here")


def test_every_truncation_of_a_file_is_damage() -> None:
    for length in range(len(FILE)):
        with pytest.raises(Damaged):
            PointFile.parse(FILE[:length], where="here")
    with pytest.raises(Damaged):
        PointFile.parse(FILE + b"\0", where="here")


def test_a_file_of_another_format_says_so() -> None:
    data = FILE[:8] + b"\2\0" + FILE[10:-8]
    with pytest.raises(Damaged, match="format 2"):
        PointFile.parse(with_checksum(data), where="here")


def test_a_file_beyond_the_limit_is_damage() -> None:
    with pytest.raises(Damaged, match="manifest length"):
        PointFile.parse(bytes(limits.MANIFEST_BYTES_MAX + 1), where="here")
