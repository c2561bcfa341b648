"""Recovery of open segments: only those of the dead, and itself killed at any call (I6)."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from repo.errors import RepositoryFailed
from repo.storage.appender import Appender
from repo.storage.folder import Folder
from repo.types import SegmentId
from tests.repo import child
from tests.support import need

ID = SegmentId(bytes(range(16)))
VALID = b"header" + b"frame one" + b"frame two"
TORN = b"half a fra"
FOOTER = b"footer of all valid frames"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder.create(tmp_path / "repository")


def leave_open(folder: Folder) -> None:
    appender = Appender(folder, ID, VALID[:6])
    appender.append([VALID[6:], TORN])
    appender.abandon()


def recover(folder: Folder) -> int:
    """What recovery does: find the valid end, finish there."""
    count = 0
    for abandoned in folder.recoverable():
        with abandoned:
            content = abandoned.read(0, abandoned.size)
            assert content.startswith(VALID)
            abandoned.finish(len(VALID), FOOTER)
            count += 1
    return count


def test_a_dead_ones_segment_is_sealed_at_its_valid_end(folder: Folder) -> None:
    leave_open(folder)
    assert recover(folder) == 1
    assert folder.segment_path(ID).read_bytes() == VALID + FOOTER
    assert list(folder.segments()) == [(ID, False)]
    assert recover(folder) == 0


def test_the_segment_of_a_living_writer_is_left_alone(folder: Folder) -> None:
    appender = Appender(folder, ID, VALID[:6])
    assert list(folder.recoverable()) == []
    appender.append([VALID[6:]])
    appender.close(FOOTER)
    assert folder.segment_path(ID).read_bytes() == VALID + FOOTER


def test_two_recoveries_do_not_share_a_segment(folder: Folder) -> None:
    leave_open(folder)
    with next(folder.recoverable()):
        assert list(folder.recoverable()) == []
    assert recover(folder) == 1


def test_reads_are_exact_and_end_with_the_file(folder: Folder) -> None:
    leave_open(folder)
    with next(folder.recoverable()) as abandoned:
        assert abandoned.size == len(VALID + TORN)
        assert abandoned.read(6, 9) == b"frame one"
        assert abandoned.read(len(VALID), 1000) == TORN
        assert abandoned.read(1000, 10) == b""
        abandoned.truncate(1 << 20)
        assert abandoned.size == len(VALID + TORN)


def test_one_without_a_valid_header_is_removed(folder: Folder) -> None:
    leave_open(folder)
    with next(folder.recoverable()) as abandoned:
        abandoned.remove()
    assert list(folder.segments()) == []


def test_a_sealed_namesake_is_never_replaced(folder: Folder) -> None:
    leave_open(folder)
    with next(folder.recoverable()) as abandoned:
        shutil.copy(abandoned.path, folder.segment_path(ID))
        with pytest.raises(RepositoryFailed, match="both open and sealed"):
            abandoned.finish(len(VALID), FOOTER)
    assert list(folder.recoverable()) == []
    assert list(folder.segments()) == [(ID, False)]
    assert folder.segment_path(ID).read_bytes() == VALID + TORN


HOLD = """
import sys
from repo.storage.appender import Appender
from repo.storage.folder import Folder
from repo.types import SegmentId
appender = Appender(Folder(sys.argv[1]), SegmentId(bytes(range(16))), b"header")
appender.append([b"frame one", b"frame two", b"half a fra"])
print("ready", flush=True)
sys.stdin.readline()
"""


def test_a_killed_writers_segment_can_be_recovered_at_once(folder: Folder) -> None:
    with child.running(HOLD, folder.path) as writer:
        assert list(folder.recoverable()) == []
        writer.kill()
        writer.wait()
        assert recover(folder) == 1
    assert folder.segment_path(ID).read_bytes() == VALID + FOOTER


FINISH = """
import sys
from repo.storage.folder import Folder
for abandoned in Folder(sys.argv[1]).recoverable():
    assert abandoned.read(0, abandoned.size)
    abandoned.finish(int(sys.argv[2]), bytes.fromhex(sys.argv[3]))
"""


@pytest.mark.parametrize(
    "call", ["flock", "ftruncate", "write", "fdatasync", "?rename,renameat,renameat2", "fsync"]
)
@pytest.mark.parametrize("fault", ["signal=KILL", "error=EIO", "error=ENOSPC"])
def test_recovery_may_fail_or_be_killed_at_any_call(folder: Folder, call: str, fault: str) -> None:
    need.tool("strace")
    leave_open(folder)
    inject = f"inject={call}:{fault}:when=1"
    before = ("strace", "-qq", "-o", os.devnull, "-e", f"trace={call}", "-e", inject)
    status, _, _ = child.run(FINISH, folder.path, len(VALID), FOOTER.hex(), before=before)
    assert status != 0
    recover(folder)
    assert list(folder.segments()) == [(ID, False)]
    assert folder.segment_path(ID).read_bytes() == VALID + FOOTER
