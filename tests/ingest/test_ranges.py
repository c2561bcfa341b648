from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.filereader import ContentReader, Hole, Piece
from ingest.ranges import BLOCK_BYTES, data_ranges, read_range, read_run
from ingest.statx import stat_fd
from repo.kernel.cut import CutParameters, Cutter
from repo.types import KIB, MIB
from tests.support import loopfs
from tests.support.oddities import content

CUTTER = Cutter(CutParameters(minimum=64, average=256, maximum=1024), bytes(range(32)))
BLOCKS = 24


def make(path: Path, layout: list[bool], *, size: int | None = None) -> bytes:
    """A file with a block of data or a hole for each item; its content."""
    with path.open("wb") as file:
        for number, data in enumerate(layout):
            if data:
                file.seek(number * BLOCK_BYTES)
                file.write(content(number, BLOCK_BYTES))
        file.truncate(len(layout) * BLOCK_BYTES if size is None else size)
    return path.read_bytes()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranges") / "file"


LAYOUTS = st.lists(st.booleans(), max_size=BLOCKS)
OFFSETS = st.integers(0, BLOCKS * BLOCK_BYTES)


# -- where the data is --------------------------------------------------------------------------


@given(layout=LAYOUTS, one=OFFSETS, other=OFFSETS)
def test_ranges_divide_without_gaps_and_holes_are_zeros(
    path: Path, layout: list[bool], one: int, other: int
) -> None:
    whole = make(path, layout)
    start, stop = sorted(min(at, len(whole)) for at in (one, other))
    with path.open("rb") as file:
        found = list(data_ranges(file.fileno(), start, stop, stat_fd(file.fileno())))
    position = start
    for first, last, is_hole in found:
        assert first == position < last
        assert not is_hole or not any(whole[first:last])
        position = last
    assert position == stop
    data = sum(last - first for first, last, is_hole in found if not is_hole)
    blocks = range(start // BLOCK_BYTES, -(-stop // BLOCK_BYTES))
    assert data <= sum(layout[block] for block in blocks) * BLOCK_BYTES


def test_a_file_without_holes_is_not_searched(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(path, [True] * 3)
    with path.open("rb") as file:
        os.fsync(file.fileno())
        found = stat_fd(file.fileno())
        monkeypatch.delattr(os, "lseek")
        assert list(data_ranges(file.fileno(), 5, 9000, found)) == [(5, 9000, False)]
        assert list(data_ranges(file.fileno(), 5, 5, found)) == []


def test_a_file_system_that_knows_no_holes_has_data(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(path, [True, False, True, False])
    seek = os.lseek

    def lseek(fd: int, position: int, whence: int) -> int:
        if whence in (os.SEEK_DATA, os.SEEK_HOLE):
            raise OSError(errno.EINVAL, "no such whence")
        return seek(fd, position, whence)

    monkeypatch.setattr(os, "lseek", lseek)
    with path.open("rb") as file:
        found = list(data_ranges(file.fileno(), 100, 9000, stat_fd(file.fileno())))
        assert found == [(100, 9000, False)]


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "tmpfs"])
def test_holes_are_found_on_real_file_systems(tmp_path: Path, kind: str) -> None:
    with loopfs.mounted(kind, tmp_path) as filesystem:
        path = filesystem.path / "file"
        with path.open("wb") as file:
            for place in (0, 4 * MIB):
                file.seek(place)
                file.write(content(place, 64 * KIB))
            file.truncate(1 << 40)
        with path.open("rb") as file:
            found = list(data_ranges(file.fileno(), 0, 1 << 40, stat_fd(file.fileno())))
        assert found == [
            (0, 64 * KIB, False),
            (64 * KIB, 4 * MIB, True),
            (4 * MIB, 4 * MIB + 64 * KIB, False),
            (4 * MIB + 64 * KIB, 1 << 40, True),
        ]


# -- unreadable blocks --------------------------------------------------------------------------


class Disk:
    """Fails reads that touch bad blocks, as a page cache does: what comes before is delivered."""

    def __init__(self, bad: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
        self.bad = bad
        self._pread = os.pread
        monkeypatch.setattr(os, "pread", self.pread)
        monkeypatch.setattr(os, "preadv", self.preadv)

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        data = self._pread(fd, length, offset)
        if not data:
            return data
        for block in range(offset // BLOCK_BYTES, -(-(offset + len(data)) // BLOCK_BYTES)):
            if block in self.bad:
                if block * BLOCK_BYTES <= offset:
                    raise OSError(errno.EIO, "bad block")
                return data[: block * BLOCK_BYTES - offset]
        return data

    def preadv(self, fd: int, buffers: list[memoryview], offset: int) -> int:
        data = self.pread(fd, len(buffers[0]), offset)
        buffers[0][: len(data)] = data
        return len(data)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(set(), monkeypatch)


@given(
    bad=st.sets(st.integers(0, BLOCKS)),
    size=OFFSETS,
    offset=OFFSETS,
    length=OFFSETS,
)
def test_unreadable_blocks_are_zeros_and_reported(
    path: Path, bad: set[int], size: int, offset: int, length: int
) -> None:
    whole = make(path, [True] * BLOCKS, size=size)
    expected = bytearray(whole)
    for block in bad:
        begin, end = (min(at, size) for at in (block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES))
        expected[begin:end] = bytes(end - begin)
    with pytest.MonkeyPatch.context() as monkeypatch, path.open("rb") as file:
        Disk(bad, monkeypatch)
        data, unreadable = read_range(file.fileno(), offset, length)
    assert data == expected[offset : offset + length]
    reported = {byte for start, stop in unreadable for byte in (start, stop - 1)}
    assert {byte // BLOCK_BYTES for byte in reported} <= bad
    lost = sum(stop - start for start, stop in unreadable)
    assert lost == sum(at // BLOCK_BYTES in bad for at in range(offset, min(offset + length, size)))


def test_without_being_asked_nothing_is_skipped(path: Path, disk: Disk) -> None:
    make(path, [True] * 3)
    disk.bad = {1}
    with path.open("rb") as file, pytest.raises(OSError, match="bad block"):
        read_run(file.fileno(), memoryview(bytearray(9000)), 0)


def test_a_block_that_btrfs_finds_damaged_is_skipped(tmp_path: Path) -> None:
    written = content(1, 16 * BLOCK_BYTES)
    with loopfs.mounted("btrfs", tmp_path) as filesystem:
        path = filesystem.path / "file"
        path.write_bytes(written)
        filesystem.unmount()
        assert filesystem.image is not None
        spoil(filesystem.image, written[5 * BLOCK_BYTES : 6 * BLOCK_BYTES])
        spoil(filesystem.image, written[6 * BLOCK_BYTES : 7 * BLOCK_BYTES])
        spoil(filesystem.image, written[9 * BLOCK_BYTES : 10 * BLOCK_BYTES])
        filesystem.mount()
        with path.open("rb", buffering=0) as file:
            data, unreadable = read_range(file.fileno(), 100, len(written))
        assert unreadable == [
            (5 * BLOCK_BYTES, 7 * BLOCK_BYTES),
            (9 * BLOCK_BYTES, 10 * BLOCK_BYTES),
        ]
        expected = bytearray(written)
        for start, stop in unreadable:
            expected[start:stop] = bytes(stop - start)
        assert data == expected[100:]


def spoil(image: Path, block: bytes) -> None:
    """Flip a bit of a block's only copy in the image of a file system."""
    with image.open("r+b") as file:
        while (read := file.read(MIB)) and block not in read:
            pass
        place = file.tell() - len(read) + read.index(block)
        file.seek(place + 1000)
        file.write(bytes([block[1000] ^ 1]))


# -- pieces -------------------------------------------------------------------------------------


def read_all(reader: ContentReader) -> tuple[bytes, list[int]]:
    """The content that pieces and holes stand for, and where pieces end."""
    parts: list[bytes] = []
    ends = []
    position = 0
    for item in reader:
        if isinstance(item, Piece):
            parts.append(bytes(item.data))
            position += len(item.data)
            ends.append(position)
        else:
            parts.append(bytes(item.length))
            position += item.length
    return b"".join(parts), ends


@given(
    layout=LAYOUTS,
    one=OFFSETS,
    other=OFFSETS,
    window=st.integers(500, 5 * BLOCK_BYTES),
)
def test_pieces_and_holes_are_the_content_whatever_the_window(
    path: Path, layout: list[bool], one: int, other: int, window: int
) -> None:
    whole = make(path, layout)
    start, stop = sorted(min(at, len(whole)) for at in (one, other))
    with path.open("rb") as file:
        fd = file.fileno()
        found = stat_fd(fd)
        reader = ContentReader(fd, start, stop, found, CUTTER, window_bytes=window)
        data, ends = read_all(reader)
        ranges = list(data_ranges(fd, start, stop, found))
    assert data == whole[start:stop]
    assert reader.stopped == stop
    assert not reader.shrunk
    expected = [
        first - start + end
        for first, last, is_hole in ranges
        if not is_hole
        for end in CUTTER.cuts(whole[first:last], final=True)
    ]
    assert ends == expected


def test_pieces_stay_good_while_they_are_held(path: Path) -> None:
    whole = make(path, [True] * BLOCKS)
    with path.open("rb") as file:
        found = stat_fd(file.fileno())
        reader = ContentReader(
            file.fileno(), 0, len(whole), found, CUTTER, window_bytes=BLOCK_BYTES
        )
        held = list(reader)
    assert b"".join(item.data for item in held if isinstance(item, Piece)) == whole


def test_zeros_that_are_written_are_data(path: Path) -> None:
    path.write_bytes(bytes(10_000))
    with path.open("rb") as file:
        os.fsync(file.fileno())
        reader = ContentReader(file.fileno(), 0, 10_000, stat_fd(file.fileno()), CUTTER)
        assert all(isinstance(item, Piece) for item in reader)


@pytest.mark.parametrize("layout", [[True] * 8, [True, False] * 4, [False] * 8])
def test_a_file_that_shrinks_ends_early(path: Path, layout: list[bool]) -> None:
    whole = make(path, layout)
    with path.open("r+b") as file:
        found = stat_fd(file.fileno())
        reader = ContentReader(
            file.fileno(), 0, len(whole), found, CUTTER, window_bytes=BLOCK_BYTES
        )
        file.truncate(3 * BLOCK_BYTES + 77)
        data, _ = read_all(reader)
    assert data == whole[: 3 * BLOCK_BYTES + 77]
    assert reader.shrunk
    assert reader.stopped == len(data)


@given(bad=st.sets(st.integers(0, BLOCKS - 1)), window=st.integers(500, 8 * BLOCK_BYTES))
def test_damage_becomes_holes_only_when_asked(path: Path, bad: set[int], window: int) -> None:
    whole = make(path, [True] * BLOCKS)
    expected = bytearray(whole)
    for block in bad:
        expected[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES] = bytes(BLOCK_BYTES)
    with pytest.MonkeyPatch.context() as monkeypatch, path.open("rb") as file:
        fd = file.fileno()
        found = stat_fd(fd)
        Disk(bad, monkeypatch)
        asked = ContentReader(
            fd, 0, len(whole), found, CUTTER, window_bytes=window, skip_bad_blocks=True
        )
        assert read_all(asked)[0] == expected
        items = list(
            ContentReader(
                fd, 0, len(whole), found, CUTTER, window_bytes=window, skip_bad_blocks=True
            )
        )
        if bad:
            with pytest.raises(OSError, match="bad block"):
                list(ContentReader(fd, 0, len(whole), found, CUTTER, window_bytes=window))
    holes = [item for item in items if isinstance(item, Hole)]
    assert all(item.damaged for item in holes)
    assert sum(item.length for item in holes) == len(bad) * BLOCK_BYTES
    lost = {at // BLOCK_BYTES for start, stop in asked.unreadable for at in range(start, stop, 500)}
    assert lost == bad
