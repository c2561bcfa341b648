"""Trees that change while they are read, and files that cannot be read: at exactly chosen moments.

A tracer stops the command at its reading calls, and the test changes the source meanwhile.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ingest.session import IngestRequest, ingest
from repo.format.manifest import Problem
from repo.types import KIB, MIB
from tests.support import command, loopfs, readback, tracer
from tests.support.tracer import Call, Traced


def content(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def traced(
    made: command.Repository, source: Path, decide: tracer.Decide, *options: str
) -> tuple[Traced, list[Problem], readback.Content]:
    """Ingest a source under a tracer; how it went, and what the point holds."""
    result = tracer.run(
        command.words("ingest", source, *options),
        env=made.env,
        folder=made.home,
        under=[source],
        calls=tracer.READING,
        decide=decide,
    )
    assert result.status in (0, 3), result
    with readback.opened(made) as repository:
        point = repository.points()[-1]
        problems = readback.problems(repository, point)
        assert point.problems_total == len(problems)
        assert (result.status == 3) == bool(problems)
        return result, problems, readback.content(repository, point)


def append(path: str) -> None:
    with open(path, "ab") as file:
        file.write(b"more")


def shrink(path: str) -> None:
    os.truncate(path, os.path.getsize(path) // 2)


def overwrite(path: str) -> None:
    with open(path, "r+b") as file:
        file.write(os.urandom(8))


CHANGES = [append, shrink, overwrite]
LARGE = 66 * MIB
SIZES = [100, 300 * KIB, pytest.param(LARGE, id="ranges")]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("size", SIZES)
def test_a_file_that_changes_once_is_read_again(
    made: command.Repository, tmp_path: Path, change: Callable[[str], None], size: int
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "changing").write_bytes(content(size))
    (source / "other").write_bytes(b"as it was")
    seen: list[Call] = []

    def decide(call: Call) -> None:
        if call.path.endswith("/changing") and not seen:
            seen.append(call)
            change(call.path)

    _, problems, _ = traced(made, source, decide)
    assert seen
    assert problems == []
    with readback.opened(made) as repository:
        assert readback.differences(repository, repository.points()[-1], source) == []


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("size", SIZES)
def test_a_file_that_never_stops_changing_is_a_problem(
    made: command.Repository, tmp_path: Path, change: Callable[[str], None], size: int
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "changing").write_bytes(content(size))
    (source / "other").write_bytes(b"as it was")

    def decide(call: Call) -> None:
        if call.path.endswith("/changing"):
            change(call.path)

    _, problems, held = traced(made, source, decide)
    assert [(problem.path, problem.step) for problem in problems] == [(b"changing", "read")]
    assert "while it was read" in problems[0].detail
    assert set(held) == {b"", b"/changing", b"/other"}, "what could be read of it is there"


def test_what_vanishes_before_it_is_read_is_not_there_and_no_problem(
    made: command.Repository, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    for name in ("first", "second/below", "third"):
        (source / name).mkdir(parents=True)
        for number in range(3):
            (source / name / f"file{number}").write_bytes(content(200))
    (source / "large").write_bytes(content(LARGE))
    seen: list[Call] = []

    def decide(call: Call) -> None:
        if call.path.endswith("/large") and not seen:
            seen.append(call)
            shutil.rmtree(source / "second")
            (source / "third" / "file1").unlink()
        elif call.path.endswith("/file0"):
            (Path(call.path).parent / "file2").unlink(missing_ok=True)

    result, problems, held = traced(made, source, decide)
    assert seen, "the large file is read before its neighbours are gone"
    assert problems == []
    assert b"/first/file0" in held
    assert b"/first/file2" not in held
    assert result.status == 0


def test_a_large_file_that_vanishes_in_the_middle_is_gone(
    made: command.Repository, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "large").write_bytes(content(LARGE))
    (source / "other").touch()

    def decide(call: Call) -> None:
        (source / "large").unlink(missing_ok=True)

    _, _, held = traced(made, source, decide)
    assert b"/other" in held


@pytest.mark.parametrize("replacement", ["fifo", "directory", "symlink"])
def test_what_becomes_something_else_never_blocks(
    made: command.Repository, tmp_path: Path, replacement: str
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "1").write_bytes(content(100))
    (source / "2").write_bytes(content(100))

    def decide(call: Call) -> None:
        other = source / "2"
        if call.path.endswith("/1") and other.is_file() and not other.is_symlink():
            other.unlink()
            if replacement == "fifo":
                os.mkfifo(other)
            elif replacement == "directory":
                other.mkdir()
            else:
                other.symlink_to("1")

    _, _, held = traced(made, source, decide)
    assert b"/1" in held


def test_files_under_a_busy_writer(made: command.Repository, tmp_path: Path) -> None:
    """Not at chosen moments but all the time: whatever happens, the point can be read."""
    source = tmp_path / "source"
    source.mkdir()
    for name in ("grows", "shrinks", "changes", "moves"):
        (source / name).write_bytes(content(2 * MIB))
    (source / "quiet").write_bytes(content(MIB, 2))
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            with open(source / "grows", "ab") as file:
                file.write(b"x" * 1000)
            os.truncate(source / "shrinks", 2 * MIB - number % MIB)
            with open(source / "changes", "r+b") as file:
                file.seek(number * 4096 % MIB)
                file.write(b"%d" % number)
            os.rename(source / "moves", source / "moved")
            os.rename(source / "moved", source / "moves")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        results = [made.run("ingest", source, status=None) for _ in range(3)]
    finally:
        stop.set()
        writer.join()
    for result in results:
        assert result.status in (0, 3), result
    with readback.opened(made) as repository:
        for point, held in readback.whole(repository).items():
            assert b"/quiet" in held, point
    made.run("ingest", source)
    with readback.opened(made) as repository:
        assert readback.differences(repository, repository.points()[-1], source) == []


# -- files that cannot be read --------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_a_file_with_an_unreadable_block(
    made: command.Repository, tmp_path: Path, size: int
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "bad").write_bytes(content(size))
    (source / "good").write_bytes(content(size, 2))

    def decide(call: Call) -> int | None:
        return errno.EIO if call.path.endswith("/bad") else None

    result, problems, held = traced(made, source, decide)
    assert [(problem.path, problem.errno) for problem in problems] == [(b"bad", errno.EIO)]
    assert set(held) == {b"", b"/good"}
    assert "bad: " in result.err


def test_a_file_that_can_be_read_at_the_second_try(
    made: command.Repository, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_bytes(content(100))
    seen: list[Call] = []

    def decide(call: Call) -> int | None:
        seen.append(call)
        return errno.EIO if len(seen) == 1 and call.path.endswith("/file") else None

    _, problems, held = traced(made, source, decide)
    assert problems == []
    assert b"/file" in held


def test_files_of_a_directory_of_pages_that_can_be_read_at_the_second_try(
    made: command.Repository, tmp_path: Path
) -> None:
    """They come in one by one, beside the pages that the rest of the directory makes."""
    source = tmp_path / "source"
    source.mkdir()
    for number in range(4500):
        (source / f"{number:04}").write_bytes(b"%d" % number)
    failed: set[str] = set()

    def decide(call: Call) -> int | None:
        if call.path.endswith("00") and call.path not in failed:
            failed.add(call.path)
            return errno.EIO
        return None

    _, problems, _ = traced(made, source, decide)
    assert len(failed) == 45
    assert problems == []
    with readback.opened(made) as repository:
        point = repository.points()[-1]
        assert readback.differences(repository, point, source) == []
        node = repository.tree.node(point.root)
        assert node.joined.total == 45
        assert node.listed.total == 4455
        assert node.listed.pages


def test_a_directory_that_cannot_be_listed(made: command.Repository, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "bad").mkdir(parents=True)
    (source / "bad" / "file").touch()
    (source / "good").touch()

    def decide(call: Call) -> int | None:
        return errno.EIO if call.path.endswith("/bad") else None

    _, problems, held = traced(made, source, decide)
    assert [(problem.path, problem.errno) for problem in problems] == [(b"bad", errno.EIO)]
    assert set(held) == {b"", b"/good"}


def test_a_source_that_cannot_be_listed_at_all_makes_no_point(
    made: command.Repository, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    result = tracer.run(
        command.words("ingest", source),
        env=made.env,
        folder=made.home,
        under=[source],
        calls=tracer.READING,
        decide=lambda _call: errno.EIO,
    )
    assert result.status == 1
    assert "no source could be read" in result.err
    with readback.opened(made) as repository:
        assert repository.points() == []


def test_a_source_that_disappears_makes_no_point(made: command.Repository, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_bytes(content(100))

    def decide(call: Call) -> None:
        if call.path == str(source / "file"):
            source.rename(tmp_path / "elsewhere")

    result = tracer.run(
        command.words("ingest", source),
        env=made.env,
        folder=made.home,
        under=[source],
        calls=tracer.READING,
        decide=decide,
    )
    assert result.status == 7
    assert "the source disappeared" in result.err
    with readback.opened(made) as repository:
        assert repository.points() == []


@pytest.mark.parametrize("what", ["segments", "points", "index"])
def test_a_repository_that_disappears_is_told_of(
    made: command.Repository, tmp_path: Path, what: str
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_bytes(content(3 * MIB))

    def decide(call: Call) -> None:
        if call.path == str(source / "file") and (made.path / what).exists():
            (made.path / what).rename(tmp_path / "elsewhere")

    result = tracer.run(
        command.words("ingest", source),
        env=made.env,
        folder=made.home,
        under=[source],
        calls=tracer.READING,
        decide=decide,
    )
    assert result.status in (1, 12), result
    assert "internal error" not in result.err
    if (made.path / what).exists():
        shutil.rmtree(made.path / what)
    (tmp_path / "elsewhere").rename(made.path / what)
    made.run("ingest", source)
    with readback.opened(made) as repository:
        assert readback.differences(repository, repository.points()[-1], source) == []


def test_blocks_that_really_cannot_be_read(made: command.Repository, tmp_path: Path) -> None:
    """btrfs finds by its checksum that a block was altered on the device, and answers EIO."""
    data = content(400 * KIB)
    with loopfs.mounted("btrfs", tmp_path) as filesystem:
        (filesystem.path / "bad").write_bytes(data)
        (filesystem.path / "good").write_bytes(content(1000, 2))
        filesystem.unmount()
        assert filesystem.image is not None
        _alter(filesystem.image, data[256 * KIB : 256 * KIB + 64])
        filesystem.mount()
        with pytest.raises(OSError, match="Input/output error"):
            (filesystem.path / "bad").read_bytes()
        result = made.run("ingest", filesystem.path, status=3)
        assert "bad: " in result.err
        with readback.opened(made) as repository:
            held_names = readback.content(repository, repository.points()[-1]).keys()
            assert held_names - {b"/.repo-snapshots"} == {b"", b"/good"}
            request = IngestRequest(paths=[str(filesystem.path)], skip_bad_blocks=True)
            (point,) = ingest(repository, request).points
            (problem,) = readback.problems(repository, point)
            assert "holes in the point" in problem.detail
            entry = repository.tree.resolve(point.root, b"bad")
            held = b"".join(
                bytes(extent.length)
                if extent.is_hole
                else bytes(repository.reader.chunk(extent.id))
                for extent in repository.tree.extents(entry)
            )
            same = [
                held[at : at + 4096] == data[at : at + 4096] for at in range(0, 400 * KIB, 4096)
            ]
            assert same.count(False) == 1


def _alter(image: Path, pattern: bytes) -> None:
    """Flip a bit of a file's content where it lies in an image."""
    with open(image, "r+b") as file:
        position = 0
        while True:
            try:
                position = os.lseek(file.fileno(), position, os.SEEK_DATA)
            except OSError:
                raise AssertionError("the content is not in the image") from None
            found = os.pread(file.fileno(), MIB, position).find(pattern)
            if found >= 0:
                os.pwrite(file.fileno(), bytes([pattern[0] ^ 1]), position + found)
                return
            position += MIB // 2
