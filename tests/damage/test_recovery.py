"""A killed job's repository: cut anywhere, and its recovery killed anywhere, it comes back (I6)."""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from repo.format.segment import HEADER_BYTES
from repo.repository import Repository
from repo.types import ChunkId
from repo.upkeep.verify import verify
from tests.damage.small import Contents, Small, read_back
from tests.repo import child, made
from tests.support import command, tracer

CUTS, KILLS = 20, 6
"""Tried by default; --deep tries every one."""
LATE = made.contents(30, seed=77)
"""What the killed job had written: the first half behind a checkpoint, the rest not yet."""


def killed_job(small: Small) -> list[ChunkId]:
    """A job that was killed in the middle: an open segment, half of it in the index."""
    with small.open() as repository:
        writer = repository.writer()
        ids = made.store(repository, writer, LATE[:15])
        writer.commit()
        ids += made.store(repository, writer, LATE[15:])
        writer.abandon()
    return ids


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Small, list[ChunkId], Contents]:
    """A repository with such a job; never used itself, only copies of it."""
    small = Small.make(tmp_path_factory.mktemp("killed"))
    with small.open() as repository:
        truth = read_back(repository)
    return small, killed_job(small), truth


def copy_of(small: Small, folder: Path) -> Small:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(small.home, folder, symlinks=True)
    return Small(folder)


def sound(small: Small, truth: Contents, ids: list[ChunkId], whole: int) -> None:
    """Recover it and look: the points as ever, and of the killed job so many chunks."""
    with small.open() as repository:
        repository.recover()
        reader = repository.new_reader()
        assert [bytes(reader.chunk(i)) for i in ids[:whole]] == LATE[:whole]
        assert repository.places.known(i[:16] for i in ids[whole:]) == set()
        assert read_back(repository) == truth
        report = verify(repository, level="data", streams=1)
        assert report.damages == []
        assert report.open_segments == 0
    leftovers = [path for path in small.home.rglob("*") if ".new-" in path.name]
    assert leftovers == []


def open_segment(small: Small) -> Path:
    (path,) = small.path.glob("segments/*/*.open")
    return path


def test_an_open_segment_cut_anywhere_is_recovered_to_its_whole_frames(
    killed: tuple[Small, list[ChunkId], Contents], tmp_path: Path
) -> None:
    original, ids, truth = killed
    size = open_segment(original).stat().st_size
    with original.open() as repository:
        ends = frame_ends(repository, ids)
    durable = ends[4]  # what the checkpoint covered: five frames of three chunks
    rng = random.Random(5)
    lengths = [durable, durable + 1, size - 1, *(rng.randrange(durable, size) for _ in range(CUTS))]
    for length in lengths:
        small = copy_of(original, tmp_path / "copy")
        os.truncate(open_segment(small), length)
        sound(small, truth, ids, 3 * sum(end <= length for end in ends))


def test_garbage_behind_an_open_segment_is_cut_off(
    killed: tuple[Small, list[ChunkId], Contents], tmp_path: Path
) -> None:
    original, ids, truth = killed
    for tail in (bytes(70_000), random.Random(1).randbytes(3000), b"\xff"):
        small = copy_of(original, tmp_path / "copy")
        with open_segment(small).open("ab") as file:
            file.write(tail)
        sound(small, truth, ids, len(ids))


def test_an_open_segment_cut_below_its_checkpoint_is_damage_not_loss(
    killed: tuple[Small, list[ChunkId], Contents], tmp_path: Path
) -> None:
    # No crash does that: what a checkpoint covers was synced before.
    original, _, truth = killed
    for length in (HEADER_BYTES, HEADER_BYTES + 1, HEADER_BYTES + 5000):
        small = copy_of(original, tmp_path / "copy")
        path = open_segment(small)
        os.truncate(path, length)
        with small.open() as repository:
            (damage,) = verify(repository, level="structure").damages
            assert "cut short" in damage.what
            repository.recover()
            assert list(small.path.glob("segments/*/*.open")) == []
            assert read_back(repository) == truth
            lost = verify(repository, level="data", streams=1).damages
            assert {damage.segment for damage in lost} == {path.name.removesuffix(".open")}


def frame_ends(repository: Repository, ids: list[ChunkId]) -> list[int]:
    """Where each frame of the open segment ends."""
    from repo.scanner import reader_of, walk

    (segment_id,) = (i for i, is_open in repository.folder.segments() if is_open)
    frames = walk(*reader_of(repository.fetcher, segment_id), repository.keys, segment_id).frames
    assert len(frames) == len(ids) // 3
    return [frame.offset + frame.sealed_bytes for frame in frames]


# Killed at every step

STEPS = """
import sys
from pathlib import Path
from tests.damage.small import Small
from tests.damage.test_recovery import STEPS_OF
STEPS_OF[sys.argv[2]](Small(Path(sys.argv[1])))
"""


def recover(small: Small) -> None:
    """What every job begins with."""
    with small.open() as repository:
        repository.recover()
        _ = repository.environment


def recover_without_index(small: Small) -> None:
    """The same, where the index is gone too."""
    shutil.rmtree(small.index_dir, ignore_errors=True)
    recover(small)


def rebuild(small: Small) -> None:
    """`repo rebuild-index`."""
    with small.open() as repository:
        repository.rebuild_index()


STEPS_OF: dict[str, Callable[[Small], None]] = {
    "recover": recover,
    "recover without index": recover_without_index,
    "rebuild": rebuild,
}


def traced(small: Small, steps: str, kill_at: int = 0) -> tracer.Traced:
    """The steps as a process, killed before its call of that number that changes a file."""
    return tracer.run(
        child.words(STEPS, small.home, steps),
        env=command.environment(small.home),
        folder=small.home.parent,
        under=[small.home],
        decide=lambda call: tracer.KILL if call.number == kill_at else None,
    )


@pytest.mark.parametrize("steps", STEPS_OF)
def test_killed_at_any_call_it_is_recovered_by_the_next(
    killed: tuple[Small, list[ChunkId], Contents],
    tmp_path: Path,
    steps: str,
    request: pytest.FixtureRequest,
) -> None:
    original, ids, truth = killed
    undisturbed = traced(copy_of(original, tmp_path / "copy"), steps)
    assert undisturbed.status == 0, undisturbed.err
    count = len(undisturbed.calls)
    assert count > 10
    every = 1 if request.config.getoption("--deep") else -(-count // KILLS)
    for at in range(1, count + 1, every):
        small = copy_of(original, tmp_path / "copy")
        result = traced(small, steps, at)
        assert result.status == -signal.SIGKILL, result.err
        sound(small, truth, ids, len(ids))
