"""The appender: bytes in order, checksums of blocks, what a failure leaves behind."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from repo.errors import RepositoryFailed
from repo.format.segment import BLOCK_BYTES
from repo.storage.appender import Appender, BlockChecksums
from repo.storage.folder import Folder
from repo.types import SegmentId
from tests.repo import child
from tests.support import loopfs, need

ID = SegmentId(bytes(range(16)))
HEADER = b"header" * 20


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder.create(tmp_path / "repository")


def blocks(data: bytes) -> list[int]:
    """The slow twin of the incremental checksums."""
    return [
        xxhash.xxh3_64_intdigest(data[at : at + BLOCK_BYTES])
        for at in range(0, len(data), BLOCK_BYTES)
    ]


def test_from_header_to_footer(folder: Folder) -> None:
    appender = Appender(folder, ID, HEADER)
    path = folder.segment_path(ID, open=True)
    assert path.read_bytes() == HEADER
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert (appender.size, appender.durable) == (len(HEADER), len(HEADER))
    assert appender.append([b"one", bytearray(b""), memoryview(b"two")]) == len(HEADER)
    assert appender.append([b"three"]) == len(HEADER) + 6
    appender.start_writeback()
    assert (appender.size, appender.durable) == (len(HEADER) + 11, len(HEADER))
    appender.sync()
    assert appender.durable == appender.size
    body = HEADER + b"onetwothree"
    assert appender.checksums() == blocks(body)
    appender.close(b"footer")
    assert list(folder.segments()) == [(ID, False)]
    assert folder.segment_path(ID).read_bytes() == body + b"footer"
    assert os.listdir(path.parent) == [ID.hex()]


def test_many_buffers_in_one_record(folder: Folder) -> None:
    appender = Appender(folder, ID, HEADER)
    parts = [number.to_bytes(2, "big") for number in range(3000)]  # more than one pwritev takes
    appender.append(parts)
    appender.abandon()
    assert folder.segment_path(ID, open=True).read_bytes() == HEADER + b"".join(parts)


@given(
    st.lists(
        st.integers(0, 3 * BLOCK_BYTES)
        | st.sampled_from([BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 0, 1]),
        max_size=8,
    )
)
def test_checksums_agree_with_their_slow_twin(lengths: list[int]) -> None:
    data = bytes(bytearray(range(256)) * (sum(lengths) // 256 + 1))[: sum(lengths)]
    checksums = BlockChecksums()
    at = 0
    for length in lengths:
        checksums.feed(memoryview(data)[at : at + length])
        at += length
        assert checksums.all() == blocks(data[:at])


def short_pwritev(steps: Sequence[int], patch: pytest.MonkeyPatch) -> None:
    """pwritev writes only so many bytes at each call, in turn."""
    real = os.pwrite
    calls = iter(range(1 << 30))

    def pwritev(fd: int, views: Sequence[memoryview], offset: int) -> int:
        step = steps[next(calls) % len(steps)]
        return real(fd, b"".join(views)[:step], offset)

    patch.setattr(os, "pwritev", pwritev)


@given(
    steps=st.lists(st.integers(1, 50), min_size=1, max_size=4),
    records=st.lists(st.lists(st.binary(max_size=40), max_size=5), max_size=6),
)
def test_short_writes_go_on(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int], records: list[list[bytes]]
) -> None:
    folder = Folder.create(tmp_path_factory.mktemp("short"))
    with pytest.MonkeyPatch.context() as patch:
        short_pwritev(steps, patch)
        appender = Appender(folder, ID, HEADER)
        expected = HEADER
        for record in records:
            assert appender.append(record) == len(expected)
            expected += b"".join(record)
        assert appender.checksums() == blocks(expected)
        appender.close(b"footer")
    assert folder.segment_path(ID).read_bytes() == expected + b"footer"


def test_an_id_is_used_once(folder: Folder) -> None:
    first = Appender(folder, ID, HEADER)
    with pytest.raises(RepositoryFailed, match="exists"):
        Appender(folder, ID, b"other")
    first.abandon()
    assert folder.segment_path(ID, open=True).read_bytes() == HEADER
    assert len(os.listdir(folder.segment_path(ID).parent)) == 1


@pytest.mark.parametrize("name", ["fdatasync", "rename", "pwritev"])
def test_a_failure_poisons_for_ever(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    appender = Appender(folder, ID, HEADER)
    appender.append([b"record"])

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, name, fail)
        with pytest.raises(RepositoryFailed, match="Input/output") as caught:
            appender.close(b"footer")
        assert "repo verify" in caught.value.next_step
    assert appender.durable == len(HEADER)
    for again in (
        lambda: appender.append([b"x"]),
        appender.sync,
        lambda: appender.close(b"footer"),
    ):
        with pytest.raises(RepositoryFailed, match="failed before"):
            again()
    appender.abandon()
    appender.abandon()
    assert list(folder.segments()) == [(ID, True)]


def test_an_abandoned_one_takes_nothing_more(folder: Folder) -> None:
    appender = Appender(folder, ID, HEADER)
    appender.abandon()
    appender.start_writeback()
    with pytest.raises(RepositoryFailed, match="closed"):
        appender.append([b"x"])


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_a_full_disk_keeps_what_was_durable(tmp_path: Path, kind: str) -> None:
    with loopfs.mounted(kind, tmp_path, size_bytes=(1 if kind == "tmpfs" else 4) << 20) as disk:
        folder = Folder.create(disk.path / "repository")
        appender = Appender(folder, ID, HEADER)
        frame = os.urandom(200_000)
        good = 0

        def fill() -> None:
            nonlocal good
            while True:
                appender.append([frame])
                appender.sync()
                good += 1

        with pytest.raises(RepositoryFailed, match="No space left") as caught:
            fill()
        assert caught.value.exit_status == 12
        assert "everything durable is kept" in caught.value.next_step
        assert appender.durable == len(HEADER) + good * len(frame)
        durable = appender.durable
        appender.abandon()
        with next(folder.recoverable()) as abandoned:
            assert abandoned.read(0, durable) == HEADER + frame * good
            abandoned.finish(durable, b"footer")
        assert list(folder.segments()) == [(ID, False)]
        assert folder.segment_path(ID).stat().st_size == durable + len(b"footer")


APPEND = """
import sys
from repo.storage.appender import Appender
from repo.storage.folder import Folder
from repo.types import SegmentId
appender = Appender(Folder(sys.argv[1]), SegmentId(bytes(range(16))), b"header")
appender.append([b"frame"])
appender.sync()
appender.close(b"footer")
"""


def test_the_order_of_calls_is_that_of_the_durability_page(folder: Folder, tmp_path: Path) -> None:
    need.tool("strace")
    log = tmp_path / "log"
    traced = "trace=write,pwritev,pwritev2,fsync,fdatasync,?link,linkat,?unlink,unlinkat,?rename"
    subprocess.run(
        ["strace", "-qq", "-y", "-o", log, "-e", traced, *child.words(APPEND, folder.path)],
        cwd=child.PROJECT,
        check=True,
    )
    ours = [line for line in log.read_text().splitlines() if str(folder.path) in line]
    calls = [line.split("(")[0].removesuffix("at").removesuffix("2") for line in ours]
    assert calls == [
        "fsync",  # segments/, for the new <xx>
        "write",  # header
        "fsync",
        "link",
        "unlink",
        "fsync",  # <xx>, for <id>.open
        "pwritev",  # frame
        "fdatasync",
        "pwritev",  # footer
        "fdatasync",
        "rename",
        "fsync",  # <xx>, for <id>
    ]


# The calls of the writer above and how often it makes each.
CALLS = {
    "fsync": 4,
    "?link,linkat": 1,
    "?unlink,unlinkat": 1,
    "pwritev,pwritev2": 2,
    "fdatasync": 2,
    "?rename,renameat,renameat2": 1,
}


@pytest.mark.parametrize(
    ("call", "when"), [(call, when + 1) for call, count in CALLS.items() for when in range(count)]
)
@pytest.mark.parametrize("fault", ["signal=KILL", "error=EIO", "error=ENOSPC"])
def test_a_writer_may_fail_or_be_killed_at_any_call(
    folder: Folder, call: str, when: int, fault: str
) -> None:
    need.tool("strace")
    inject = f"inject={call}:{fault}:when={when}"
    before = ("strace", "-qq", "-o", os.devnull, "-e", f"trace={call}", "-e", inject)
    status, _, errors = child.run(APPEND, folder.path, before=before)
    assert status != 0
    assert "RepositoryFailed" in errors or fault == "signal=KILL"
    content = b"headerframe"
    for abandoned in folder.recoverable():
        with abandoned:
            found = abandoned.read(0, abandoned.size)
            assert b"headerframefooter".startswith(found)
            assert len(found) >= len(b"header")  # it is never seen without a durable header
            content = found[:11]
            abandoned.finish(len(content), b"footer")
    folder.sweep()
    for segment_id, is_open in folder.segments():
        assert not is_open
        assert folder.segment_path(segment_id).read_bytes() == content + b"footer"
        assert os.listdir(folder.segment_path(segment_id).parent) == [segment_id.hex()]


def test_a_segment_that_came_to_nothing_is_discarded(folder: Folder) -> None:
    appender = Appender(folder, ID, b"header")
    appender.discard()
    assert list(folder.segments()) == []
    with pytest.raises(RepositoryFailed, match="closed"):
        appender.append([b"frame"])
    appender.abandon()
