"""Every flipped bit and every truncation of a sealed object is found and located."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from repo.errors import Damaged, NotARepository
from repo.format.frame import HEAD_SEALED_BYTES
from repo.format.segment import HEADER_BYTES, KEYS_BYTES, TRAILER_BYTES, FooterFrame
from repo.repository import Repository
from repo.scanner import Contents as Scanned
from repo.scanner import scan
from repo.types import SegmentClass
from repo.upkeep.keyless import verify_keyless
from repo.upkeep.verify import verify
from tests.damage.examine import examine, of_segment
from tests.damage.small import (
    HEADER,
    Contents,
    Small,
    changed,
    flipped,
    read_back,
    segment_of,
    truncated,
)

FLIPS, CUTS = 20, 12
"""Tried of each part of an object and of each kind of file."""

DEEP_PARTS = 8
"""What --deep tries is cut into so many tests, so that none seems to hang."""

PARTS = (
    "header",
    "frame head",
    "frame body",
    "footer keys",
    "footer table",
    "checksums",
    "trailer",
)


class Span(NamedTuple):
    """Bytes [start, end) of a file; of a frame when `frame` is one."""

    path: Path
    start: int
    end: int
    frame: FooterFrame | None = None


def scanned(repository: Repository, path: Path) -> Scanned:
    data = path.read_bytes()
    keys, segment_id = repository.keys, segment_of(path)
    return scan(lambda at, length: data[at : at + length], len(data), keys, segment_id)


def spans(path: Path, found: Scanned, part: str) -> Iterator[Span]:
    """Where a part of a segment lies."""
    assert found.footer is not None
    table = found.end + KEYS_BYTES
    sums = found.end + found.footer.trailer.sealed_bytes
    size = path.stat().st_size
    match part:
        case "header":
            yield Span(path, 0, HEADER_BYTES)
        case "frame head":
            for frame in found.frames:
                yield Span(path, frame.offset, frame.offset + HEAD_SEALED_BYTES, frame)
        case "frame body":
            for frame in found.frames:
                start, end = frame.offset + HEAD_SEALED_BYTES, frame.offset + frame.sealed_bytes
                yield Span(path, start, end, frame)
        case "footer keys":
            yield Span(path, found.end, table)
        case "footer table":
            yield Span(path, table, sums)
        case "checksums":
            yield Span(path, sums, size - TRAILER_BYTES)
        case "trailer":
            yield Span(path, size - TRAILER_BYTES, size)


@pytest.fixture(scope="module")
def segments(small: Small, truth: Contents) -> dict[Path, Scanned]:
    with small.open() as repository:
        return {path: scanned(repository, path) for path in small.segments()}


def sample(name: str) -> random.Random:
    """The same choice in every run, another for every name."""
    return random.Random(zlib.crc32(name.encode()))


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("segment_class", [SegmentClass.DATA, SegmentClass.META])
def test_a_flipped_bit_of_a_segment(
    small: Small,
    truth: Contents,
    segments: dict[Path, Scanned],
    segment_class: SegmentClass,
    part: str,
) -> None:
    places = [
        span
        for path, found in segments.items()
        if found.header.segment_class is segment_class
        for span in spans(path, found, part)
    ]
    rng = sample(f"{segment_class} {part}")
    for _ in range(FLIPS):
        span = rng.choice(places)
        bit = rng.randrange(8 * span.start, 8 * span.end)
        with changed(span.path, partial(flipped, bit=bit)):
            damages = examine(small, truth, span.path)
            assert of_segment(damages, segment_of(span.path))
            (damage,) = damages
            assert damage.frame == (None if span.frame is None else span.frame.number)
            if span.frame is not None:
                assert damage.offset == span.frame.offset
                assert damage.paths


def test_a_truncated_segment(small: Small, truth: Contents, segments: dict[Path, Scanned]) -> None:
    rng = sample("truncated segment")
    for path, found in segments.items():
        size = path.stat().st_size
        first = found.frames[0]
        edges = [0, 1, HEADER_BYTES, first.offset + first.sealed_bytes, found.end, size - 1]
        for length in edges + [rng.randrange(size) for _ in range(CUTS // 2)]:
            with changed(path, partial(truncated, length=length)):
                damages = examine(small, truth, path)
                assert of_segment(damages, segment_of(path))
                lost = [f for f in found.frames if f.offset + f.sealed_bytes > length]
                cut = [damage for damage in damages if "cut short" in damage.what]
                if length >= HEADER_BYTES and lost:
                    assert f"{len(lost)} frames" in cut[0].what
                    assert cut[0].offset == length


@pytest.mark.parametrize("tail", [b"\0", bytes(100_000), b"x" * TRAILER_BYTES])
def test_a_segment_with_a_tail(
    small: Small, truth: Contents, segments: dict[Path, Scanned], tail: bytes
) -> None:
    for path in segments:
        with changed(path, lambda data: data + tail):
            (damage,) = examine(small, truth, path)
            assert damage.paths == []  # the frames are as good as ever


def changes(size: int, name: str) -> Sequence[Callable[[bytes], bytes]]:
    """Flips and truncations of a file of so many bytes."""
    rng = sample(name)
    flips = [rng.randrange(8 * size) for _ in range(FLIPS)]
    cuts = [0, size - 1, *(rng.randrange(size) for _ in range(CUTS))]
    return [
        *(partial(flipped, bit=bit) for bit in flips),
        *(partial(truncated, length=length) for length in cuts),
        lambda data: data + b"\0",
    ]


def test_a_broken_point(small: Small, truth: Contents) -> None:
    for path in sorted((small.path / "points").iterdir()):
        for change in changes(path.stat().st_size, "point"):
            with changed(path, change):
                (damage,) = examine_point(small, truth, path)
                assert damage == path.name


def examine_point(small: Small, truth: Contents, path: Path) -> list[str]:
    """As `examine`, for a point that cannot be listed at all: the points that are named."""
    where = str(path.relative_to(small.path))
    assert {d.where for d in verify_keyless(small.path, streams=1).damages} == {where}
    with small.open() as repository:
        _ = repository.environment
        report = verify(repository, level="structure")
        with pytest.raises(Damaged, match="point"):
            repository.points()
        found = read_back(repository)
    assert found == {point: held for point, held in truth.items() if point != path.name}
    assert [damage.where for damage in report.damages] == [where]
    return report.damages[0].points


def test_a_broken_header(small: Small) -> None:
    path = small.path / "header"
    for change in changes(path.stat().st_size, "header"):
        with changed(path, change):
            (damage,) = verify_keyless(small.path, streams=1).damages
            assert damage.where == "header"
            with pytest.raises((Damaged, NotARepository)):
                small.open()


def test_a_header_that_rots_while_it_is_in_use(small: Small) -> None:
    path = small.path / "header"
    with small.open() as repository:
        _ = repository.environment
        for change in changes(path.stat().st_size, "header in use"):
            with changed(path, change):
                (damage,) = verify(repository, level="structure").damages
                assert damage.where == "header"


def test_a_header_that_somebody_altered(small: Small) -> None:
    # With a checksum that is right, but not the tag, for which the key is needed.
    from dataclasses import replace

    with small.open() as repository:
        altered = replace(repository.header, frame_bytes=2 * HEADER.frame_bytes).pack()
        with changed(small.path / "header", lambda _: altered):
            assert verify_keyless(small.path, streams=1).damages == []
            (damage,) = verify(repository, level="structure").damages
            assert (damage.where, "altered" in damage.what) == ("header", True)
            with pytest.raises(Damaged, match="altered"):
                small.open()


def test_a_broken_key_slot(small: Small) -> None:
    (path,) = (small.path / "keys").iterdir()
    with small.open() as repository:
        _ = repository.environment
        for change in changes(path.stat().st_size, "key slot"):
            with changed(path, change):
                (blind,) = verify_keyless(small.path, streams=1).damages
                (damage,) = verify(repository, level="structure").damages
                assert damage.where == blind.where == f"keys/{path.name}"
                with pytest.raises(Damaged):
                    small.open()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """A repository of two files, so small that every bit of it can be tried."""
    tiny = Small(tmp_path_factory.mktemp("tiny"))
    tiny.make_empty()
    (tiny.source / "file").write_bytes(random.Random(1).randbytes(1500))
    (tiny.source / "text").write_bytes(b"text " * 300)
    tiny.ingest()
    return tiny


@pytest.mark.deep
@pytest.mark.parametrize("part", range(DEEP_PARTS))
@pytest.mark.parametrize("number", range(3))
def test_every_bit_of_a_tiny_repository(tiny: Small, number: int, part: int) -> None:
    with tiny.open() as repository:
        truth = read_back(repository)
        path = [*tiny.segments(), *(tiny.path / "points").iterdir()][number]
        is_point = path.parent.name == "points"
        table = range(0) if is_point else table_of(repository, path)
    where = str(path.relative_to(tiny.path))
    size = path.stat().st_size
    for at in range(part, size, DEEP_PARTS):
        # The padded table is one opaque record of 16 KiB: a bit of each of its bytes is enough.
        bits = [8 * at + at % 8] if at in table else range(8 * at, 8 * at + 8)
        for bit in bits:
            with changed(path, partial(flipped, bit=bit)):
                assert {d.where for d in verify_keyless(tiny.path, streams=1).damages} == {where}
        tried = [partial(flipped, bit=8 * at + at % 8)] if at not in table or not at % 16 else []
        if not at % 61:
            tried.append(partial(truncated, length=at))
        for change in tried:
            with changed(path, change):
                if is_point:
                    assert examine_point(tiny, truth, path) == [path.name]
                else:
                    examine(tiny, truth, path)


def table_of(repository: Repository, path: Path) -> range:
    """Where the sealed table of a segment's footer lies."""
    (span,) = spans(path, scanned(repository, path), "footer table")
    return range(span.start, span.end)
