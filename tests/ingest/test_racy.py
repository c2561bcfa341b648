"""Files that change once more within one tick of their clock: real ones, on real file systems.

Since Linux 6.13 a change behind a stat gets a time of its own on ext4, XFS, btrfs and tmpfs, as far
as the file system can store it: to the second where the inodes of ext4 have 128 bytes. On others,
such as ext2, the tick is the kernel's.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import ingest.base
import ingest.foundation
from ingest.outcome import Outcome
from ingest.saver import Saver
from repo.types import MIB
from tests.ingest import again
from tests.support import command, loopfs, readback

BEFORE, AFTER = b"before it was read", b"after it was read!"
TRIES = 50


def times(path: Path) -> tuple[int, ...]:
    """All that an entry is compared by."""
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def write(path: Path, data: bytes) -> tuple[int, ...]:
    """Write over what is there, in place; the times that it has now."""
    fd = os.open(path, os.O_WRONLY)
    try:
        os.pwrite(fd, data, 0)
    finally:
        os.close(fd)
    return times(path)


@pytest.fixture
def slow_clock(tmp_path: Path, made: command.Repository) -> Iterator[again.Runs]:
    """Runs over a tree whose clock ticks once a second; a file in it that was read and then
    changed within one tick.
    """
    making = ("-I", "128")
    with (
        loopfs.mounted("ext4", tmp_path, size_bytes=64 * MIB, making=making) as filesystem,
        again.runs(made, filesystem.path) as runs,
    ):
        file = filesystem.path / "file"
        file.write_bytes(BEFORE)
        for _ in range(TRIES):
            time.sleep(1.01 - time.time() % 1)
            first = write(file, BEFORE)
            runs.run()
            if write(file, AFTER) == first:
                break
        assert times(file) == first, "it was never within one tick"
        yield runs


def test_what_changes_within_a_second_of_the_base_is_read_again(slow_clock: again.Runs) -> None:
    assert slow_clock.right().bytes_read == len(AFTER)


def test_without_the_guard_it_would_be_missed(
    slow_clock: again.Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    again.without_racy_guard(monkeypatch)
    assert slow_clock.run().files_reused == 1
    assert missed(slow_clock), "the trap is none"


@pytest.fixture
def fast_clock(
    tmp_path: Path, made: command.Repository, monkeypatch: pytest.MonkeyPatch
) -> Iterator[again.Runs]:
    """The same with the kernel's tick: what is read is changed at once."""
    with (
        loopfs.mounted("ext2", tmp_path, size_bytes=64 * MIB) as filesystem,
        again.runs(made, filesystem.path) as runs,
    ):
        file = filesystem.path / "file"
        file.write_bytes(BEFORE)
        coincided: list[bool] = []
        real = Saver._file

        def saved(self: Saver, dirfd: int, name: bytes) -> Outcome:
            for _ in range(TRIES):
                first = write(file, BEFORE)
                outcome = real(self, dirfd, name)
                coincided.append(write(file, AFTER) == first)
                if coincided[-1]:
                    break
            return outcome

        with monkeypatch.context() as patches:
            patches.setattr(Saver, "_file", saved)
            runs.run()
        assert coincided[-1], "it was never within one tick"
        yield runs


def test_what_changes_within_a_tick_of_its_reading_is_read_again(fast_clock: again.Runs) -> None:
    assert fast_clock.right().bytes_read == len(AFTER)


def test_without_the_limit_it_would_be_missed(
    fast_clock: again.Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest.foundation, "limit_of", lambda *_: ingest.base._NO_LIMIT)
    assert fast_clock.run().files_reused == 1
    assert missed(fast_clock), "the trap is none"


def missed(runs: again.Runs) -> list[str]:
    """What the newest point has otherwise than the source."""
    return readback.differences(runs.repository, runs.newest, runs.source)
