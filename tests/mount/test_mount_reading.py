"""Reading a mounted file in any way gives the bytes of the source, or EIO, and never others."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from repo.format.frame import TABLE_ROW
from repo.format.node import HOLE, Entry, pack_extent_page, pack_extents
from repo.format.segment import HEADER_BYTES, SegmentHeader
from repo.keys import KeyFile
from repo.repository import Repository as Opened
from repo.types import MIB, Kind, SegmentClass
from tests.mount.mounting import ADAPTERS, Mount, mounted
from tests.mount.restoring import Store
from tests.support import need
from tests.support.command import Repository

SIZES = (1, 4095, 4096, 4097, 131_072, 131_073, MIB, 5 * MIB + 1234, 40 * MIB + 17)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need.fuse()
    return tmp_path_factory.mktemp("reading")


@pytest.fixture(scope="module")
def source(folder: Path) -> Path:
    tree = folder / "source"
    tree.mkdir()
    rng = random.Random(1)
    for size in SIZES:
        (tree / f"{size}").write_bytes(rng.randbytes(size))
    (tree / "text").write_bytes(b"".join(b"line %d\n" % number for number in range(1_500_000)))
    small = tree / "small"
    small.mkdir()
    for number in range(600):
        (small / f"{number:03}").write_bytes(rng.randbytes(rng.randrange(1, 9000)))
    return tree


@pytest.fixture(scope="module")
def repository(folder: Path, source: Path) -> Repository:
    made = Repository.make(folder / "repo")
    made.run("ingest", source, "--source-id", "reading")
    return made


@pytest.fixture(scope="module", params=ADAPTERS)
def mount(request: pytest.FixtureRequest, folder: Path, repository: Repository) -> Iterator[Mount]:
    at = folder / f"mnt-{request.param}"
    # Far less than what is read: frames come and go while they are used.
    options = ("--adapter", request.param, "--cache-size", "8MiB")
    with mounted(repository, at, *options, point="latest:reading") as made:
        yield made


def test_files_are_whole(source: Path, mount: Mount) -> None:
    for path in sorted(source.rglob("*")):
        if path.is_file():
            assert (mount.path / path.relative_to(source)).read_bytes() == path.read_bytes()


def test_a_second_time_costs_nothing(source: Path, mount: Mount) -> None:
    def read_all() -> None:
        for path in sorted((mount.path / "small").iterdir()):
            path.read_bytes()

    read_all()
    before = mount.statistics()
    read_all()
    after = mount.statistics()
    assert after["hits"] == before["hits"]
    assert after["misses"] == before["misses"]


def test_small_files_reach_the_kernel_before_it_asks(
    folder: Path, source: Path, repository: Repository, mount: Mount
) -> None:
    at = folder / f"{mount.path.name}-fresh"
    adapter = mount.path.name.removeprefix("mnt-")
    with mounted(repository, at, "--adapter", adapter, point="latest:reading") as fresh:
        # In the order in which they are listed, as tar, cp and grep read.
        names = [entry.name for entry in os.scandir(fresh.path / "small")]
        for name in names:
            assert (fresh.path / "small" / name).read_bytes() == (
                source / "small" / name
            ).read_bytes()
        told = fresh.statistics()
        assert told["files_pushed"] > 0
        assert told["frames_ahead"] > 0


def test_ends_of_files_are_where_they_belong(mount: Mount) -> None:
    for size in SIZES:
        fd = os.open(mount.path / f"{size}", os.O_RDONLY)
        try:
            assert os.pread(fd, 100, size) == b""
            assert len(os.pread(fd, 100, size - 1)) == 1
            assert os.pread(fd, 100, size + 123_456) == b""
            assert os.lseek(fd, 0, os.SEEK_END) == size
        finally:
            os.close(fd)


def _by_pread(path: Path, start: int, length: int) -> bytes:
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.pread(fd, length, start)
    finally:
        os.close(fd)


def _by_map(path: Path, start: int, length: int) -> bytes:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        return mapped[start : start + length]


def _by_direct(path: Path, start: int, length: int) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        first = start // 4096 * 4096
        buffer = mmap.mmap(-1, (start + length - first + 8191) // 4096 * 4096)
        got = os.preadv(fd, [buffer], first)
        return buffer[:got][start - first : start - first + length]
    finally:
        os.close(fd)


def _by_sendfile(path: Path, start: int, length: int) -> bytes:
    fd = os.open(path, os.O_RDONLY)
    out = os.memfd_create("out")
    try:
        sent = 0
        while sent < length:
            part = os.sendfile(out, fd, start + sent, length - sent)
            if part == 0:
                break
            sent += part
        return os.pread(out, length, 0)
    finally:
        os.close(fd)
        os.close(out)


@pytest.mark.parametrize("way", [_by_pread, _by_map, _by_direct, _by_sendfile])
def test_random_ranges_from_threads_agree(
    source: Path, mount: Mount, way: Callable[[Path, int, int], bytes]
) -> None:
    contents = {name: (source / name).read_bytes() for name in (f"{SIZES[-1]}", "text")}
    wrong: list[str] = []

    def read(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(60):
            name, content = rng.choice(list(contents.items()))
            start = rng.randrange(len(content))
            length = rng.choice((1, 4096, 100_000, 3 * MIB))
            got = way(mount.path / name, start, length)
            if got != content[start : start + length]:
                wrong.append(f"{name} {start} {length}: {len(got)} bytes")

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def _damage_frame(repository: Repository, name: str) -> tuple[int, int]:
    """Flip a byte of the frame in the middle of a file; the range that lies in the frame."""
    with Opened.open(repository.path, KeyFile(repository.key_file)) as opened:
        entry = opened.tree.resolve(opened.point("latest").root, name.encode())
        extents = list(opened.tree.extents(entry))
        places = opened.reader.places_of([extent.id for extent in extents])
        chosen = places[len(places) // 2]
        row = opened.places.segment(chosen.segment)
        assert row.segment_class == SegmentClass.DATA
        offset, length, _ = TABLE_ROW.unpack_from(row.frames, chosen.frame * TABLE_ROW.size)
        path = opened.folder.segment_path(row.segment_id)
    with path.open("r+b") as file:
        file.seek(offset + length // 2)
        byte = file.read(1)
        file.seek(offset + length // 2)
        file.write(bytes([byte[0] ^ 1]))
    start, ranges = 0, []
    for extent, place in zip(extents, places, strict=True):
        if (place.segment, place.frame) == (chosen.segment, chosen.frame):
            ranges.append((start, start + extent.length))
        start += extent.length
    return ranges[0][0], ranges[-1][1]


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_damaged_frame_gives_eio_for_its_range_only(
    tmp_path: Path, source: Path, adapter: str
) -> None:
    repository = Repository.make(tmp_path / "repo")
    repository.run("ingest", source)
    name = f"{SIZES[-1]}"
    start, stop = _damage_frame(repository, name)
    content = (source / name).read_bytes()
    with mounted(repository, tmp_path / "mnt", "--adapter", adapter) as mount:
        fd = os.open(mount.path / name, os.O_RDONLY | os.O_DIRECT)
        try:
            buffer = mmap.mmap(-1, 4096)
            for at in range(0, len(content), 128 * 1024):
                touches = at < stop and at + 4096 > start
                with contextlib.ExitStack() as stack:
                    if touches:
                        stack.enter_context(pytest.raises(OSError, match="Input/output error"))
                    got = os.preadv(fd, [buffer], at)
                    assert buffer[:got] == content[at : at + 4096]
        finally:
            os.close(fd)
        with pytest.raises(OSError, match="Input/output error") as caught:
            (mount.path / name).read_bytes()
        assert caught.value.errno == errno.EIO
        assert (mount.path / "text").read_bytes() == (source / "text").read_bytes()
        assert f"/{name}" in mount.log()


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_file_of_very_many_pieces_is_read(tmp_path: Path, adapter: str) -> None:
    # More of them in one request than one writev takes.
    store = Store(tmp_path)
    parts = [b"%0100d" % number for number in range(2000)]
    extents = [(store.chunk_id(part), 100) for part in parts]
    file = Entry(b"file", Kind.FILE, 0o644, 0, 0, 1, 1, 0, 3, 1, size=200_000)
    entry = msgspec.structs.replace(file, extents=pack_extents(extents))
    store.publish([entry], chunks=parts)
    with mounted(store.command, tmp_path / "mnt", "--adapter", adapter) as mount:
        assert (mount.path / "file").read_bytes() == b"".join(parts)


def test_a_hole_far_away_is_found_without_a_wait_for_each_page(tmp_path: Path) -> None:
    # That of a file of some hundred GiB took longer than the deadline, and answered all else late.
    store = Store(tmp_path)
    rng = random.Random(7)
    rows = [(rng.randbytes(32), 4096) for _ in range(40 * 4096)]
    rows[35 * 4096 + 7] = (HOLE, 4096)
    parts = [rows[at : at + 4096] for at in range(0, len(rows), 4096)]
    pages = [pack_extent_page(pack_extents(part), 0) for part in parts]
    extents = [(store.chunk_id(page), 4096 * 4096) for page in pages]
    file = Entry(b"file", Kind.FILE, 0o644, 0, 0, 1, 1, 0, 3, 1, size=4096 * len(rows))
    entry = msgspec.structs.replace(file, extents=pack_extents(extents), extent_level=1)
    store.publish([entry], chunks=pages)
    hole = 4096 * (35 * 4096 + 7)
    with mounted(store.command, tmp_path / "mnt") as mount:
        fd = os.open(mount.path / "file", os.O_RDONLY)
        try:
            before = mount.statistics()["waits"]
            assert os.lseek(fd, 5, os.SEEK_HOLE) == hole
            assert os.lseek(fd, hole + 5, os.SEEK_DATA) == hole + 4096
            assert os.lseek(fd, hole + 4096, os.SEEK_HOLE) == file.size
            assert mount.statistics()["waits"] - before < 5
        finally:
            os.close(fd)


def test_what_the_log_names_is_one_line(tmp_path: Path) -> None:
    store = Store(tmp_path)
    name = b"a\nrepo: all is well\x1b[2J"
    lost = pack_extents([(bytes([1]) * 32, 100)])
    store.publish([Entry(name, Kind.FILE, 0o644, 0, 0, 1, 1, 0, 3, 1, size=100, extents=lost)])
    with mounted(store.command, tmp_path / "mnt") as mount:
        with pytest.raises(OSError, match="Input/output error"):
            Path(mount.path, os.fsdecode(name)).read_bytes()
        for line in mount.log().splitlines():
            assert "\\nrepo: all is well\\x1b[2J" in line


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_repository_that_vanishes_gives_eio(tmp_path: Path, source: Path, adapter: str) -> None:
    repository = Repository.make(tmp_path / "repo")
    repository.run("ingest", source)
    with mounted(repository, tmp_path / "mnt", "--adapter", adapter) as mount:
        assert (mount.path / "4096").read_bytes() == (source / "4096").read_bytes()
        repository.path.rename(tmp_path / "gone")
        for path in sorted((tmp_path / "gone" / "segments").rglob("*")):
            if path.is_file():
                os.truncate(path, 0)
        with pytest.raises(OSError, match="Input/output error"):
            (mount.path / f"{SIZES[-1]}").read_bytes()
        assert (mount.path / "4096").read_bytes() == (source / "4096").read_bytes()


@pytest.mark.deep
def test_many_readers_for_a_minute_beside_an_ingest(
    tmp_path: Path, source: Path, repository: Repository, mount: Mount
) -> None:
    contents = {path: path.read_bytes() for path in source.rglob("*") if path.is_file()}
    wrong: list[str] = []
    end = time.monotonic() + 60

    def read(seed: int) -> None:
        rng = random.Random(seed)
        while time.monotonic() < end:
            path, content = rng.choice(list(contents.items()))
            start = rng.randrange(len(content))
            length = rng.choice((4096, MIB, 8 * MIB))
            shown = mount.path / path.relative_to(source)
            if _by_direct(shown, start, length) != content[start : start + length]:
                wrong.append(f"{path} {start} {length}")

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    other = tmp_path / "other"
    other.mkdir()
    while time.monotonic() < end:
        (other / f"{time.monotonic_ns()}").write_bytes(os.urandom(MIB))
        repository.run("ingest", other)
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_repository_that_does_not_answer_gives_eio(
    tmp_path: Path, source: Path, adapter: str
) -> None:
    repository = Repository.make(tmp_path / "repo")
    repository.run("ingest", source)
    options = ("--adapter", adapter, "--deadline", "0.5")
    with mounted(repository, tmp_path / "mnt", *options) as mount:
        assert (mount.path / "4096").read_bytes() == (source / "4096").read_bytes()
        for path in sorted((repository.path / "segments").rglob("*")):
            if path.is_file():
                # Whoever opens a fifo for reading waits for a writer that never comes.
                path.rename(tmp_path / path.name)
                os.mkfifo(path)
        # What was opened before stays readable: only a new process has to open the fifo.
        repository.run("umount", mount.path)
        for path in sorted((repository.path / "segments").rglob("*")):
            if path.is_fifo() and _is_meta(tmp_path / path.name):
                path.unlink()
                (tmp_path / path.name).rename(path)
        repository.run("mount", "latest", mount.path, *options)
        for _ in range(2):
            with pytest.raises(OSError, match="Input/output error"):
                (mount.path / "4096").read_bytes()
        assert (mount.path / "4096").stat().st_size == 4096


def _is_meta(path: Path) -> bool:
    return (
        SegmentHeader.parse(path.read_bytes()[:HEADER_BYTES], where="test").segment_class
        == SegmentClass.META
    )
