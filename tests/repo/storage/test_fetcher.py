"""The fetcher: exact bytes, neighbours joined, descriptors bounded, honest errors."""

from __future__ import annotations

import errno
import os
import random
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repo.errors import Damaged, RepositoryFailed
from repo.storage.appender import Appender
from repo.storage.fetcher import Fetcher, Request, join
from repo.storage.folder import Folder
from repo.types import SegmentId

A, B = SegmentId(b"a" * 16), SegmentId(b"b" * 16)
REQUESTS = st.lists(
    st.tuples(st.sampled_from([A, B]), st.integers(0, 500), st.integers(0, 100)), max_size=20
)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder.create(tmp_path / "repository")


def sealed(folder: Folder, segment_id: SegmentId, content: bytes) -> None:
    path = folder.segment_path(segment_id)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)


@pytest.fixture
def preads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The (length, offset) of every pread that is made."""
    seen: list[tuple[int, int]] = []
    real = os.pread

    def pread(fd: int, length: int, offset: int) -> bytes:
        seen.append((length, offset))
        return real(fd, length, offset)

    monkeypatch.setattr(os, "pread", pread)
    return seen


@given(REQUESTS, st.integers(0, 50), st.integers(1, 300))
def test_runs_cover_each_request_once_and_keep_the_bounds(
    requests: list[Request], gap: int, most: int
) -> None:
    runs = join(requests, gap=gap, most=most)
    assert sorted(at for run in runs for at in run.requests) == list(range(len(requests)))
    for run in runs:
        members = [requests[at] for at in run.requests]
        assert {segment_id for segment_id, _, _ in members} == {run.segment_id}
        assert run.offset == min(offset for _, offset, _ in members)
        assert run.offset + run.length == max(offset + length for _, offset, length in members)
        assert run.length <= max(most, *(length for _, _, length in members))
        members.sort(key=lambda member: member[1])
        end = run.offset
        for _, offset, length in members:
            assert offset - end <= gap
            end = max(end, offset + length)
    assert runs == sorted(runs, key=lambda run: (run.segment_id, run.offset))


def test_neighbours_come_with_one_read(folder: Folder, preads: list[tuple[int, int]]) -> None:
    content = bytes(range(256)) * 4
    sealed(folder, A, content)
    requests = [(A, 500, 20), (A, 0, 10), (A, 12, 8), (A, 530, 10)]
    answers = Fetcher(folder).read_many(requests, gap=16, most=1000)
    assert answers == [content[at : at + length] for _, at, length in requests]
    assert preads == [(20, 0), (40, 500)]


@given(REQUESTS)
def test_read_many_answers_in_the_order_asked(
    tmp_path_factory: pytest.TempPathFactory, requests: list[Request]
) -> None:
    folder = Folder(tmp_path_factory.getbasetemp() / "shared")
    contents = {A: bytes(range(256)) * 3, B: random.Random(1).randbytes(700)}
    if not folder.path.exists():
        Folder.create(folder.path)
        for segment_id, content in contents.items():
            sealed(folder, segment_id, content)
    fetcher = Fetcher(folder)
    answers = fetcher.read_many(requests, gap=10, most=200)
    assert answers == [contents[name][at : at + length] for name, at, length in requests]
    fetcher.close()


def test_reads_an_open_segment_and_goes_on_when_it_is_sealed(folder: Folder) -> None:
    appender = Appender(folder, A, b"header")
    fetcher = Fetcher(folder)
    assert fetcher.read(A, 0, 6) == b"header"
    appender.append([b"frame"])
    assert fetcher.read(A, 6, 5) == b"frame"
    assert fetcher.size(A) == 11
    appender.close(b"footer")
    assert fetcher.read(A, 11, 6) == b"footer"
    assert Fetcher(folder).read(A, 11, 6) == b"footer"


def test_a_missing_segment_is_damage(folder: Folder) -> None:
    with pytest.raises(Damaged, match="segment is missing") as caught:
        Fetcher(folder).read(A, 0, 1)
    assert A.hex() in caught.value.where
    assert "repo verify" in caught.value.next_step
    Fetcher(folder).prefetch([(A, 0, 1)])


def test_a_short_segment_is_damage_and_never_zeros(folder: Folder) -> None:
    sealed(folder, A, b"x" * 100)
    fetcher = Fetcher(folder)
    assert fetcher.read(A, 90, 10) == b"x" * 10
    for offset, length in ((90, 11), (100, 1), (1000, 5)):
        with pytest.raises(Damaged, match="shorter than its table") as caught:
            fetcher.read(A, offset, length)
        assert "at 100" in caught.value.where or "at 1000" in caught.value.where


@pytest.mark.parametrize(
    ("number", "step"), [(errno.EIO, "check the disk"), (errno.ESTALE, "mount it again")]
)
def test_what_the_system_cannot_read_is_a_failed_repository(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, number: int, step: str
) -> None:
    sealed(folder, A, b"x" * 100)

    def fail(*_: object) -> bytes:
        raise OSError(number, os.strerror(number))

    fetcher = Fetcher(folder)
    fetcher.read(A, 0, 1)
    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(RepositoryFailed) as caught:
        fetcher.read(A, 0, 1)
    assert step in caught.value.next_step


def test_short_reads_go_on(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    content = random.Random(2).randbytes(1000)
    sealed(folder, A, content)
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, length, at: real(fd, min(length, 7), at))
    assert Fetcher(folder).read(A, 3, 900) == content[3:903]


def test_descriptors_are_bounded_and_closed(folder: Folder) -> None:
    ids = [SegmentId(number.to_bytes(16, "big")) for number in range(20)]
    for segment_id in ids:
        sealed(folder, segment_id, segment_id)
    before = len(os.listdir("/proc/self/fd"))
    fetcher = Fetcher(folder, descriptors_max=4)
    for segment_id in ids * 2:
        assert fetcher.read(segment_id, 0, 16) == segment_id
        assert len(os.listdir("/proc/self/fd")) <= before + 4
    fetcher.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_removed_segment_is_gone_once_forgotten(folder: Folder) -> None:
    sealed(folder, A, b"content")
    fetcher = Fetcher(folder)
    fetcher.read(A, 0, 1)
    folder.set_segments_aside([A])
    folder.remove_segments_aside([A])
    assert fetcher.read(A, 0, 7) == b"content"
    fetcher.forget(A)
    with pytest.raises(Damaged, match="missing"):
        fetcher.read(A, 0, 7)


def test_threads_share_a_few_descriptors(folder: Folder) -> None:
    contents = {
        SegmentId(number.to_bytes(16, "big")): random.Random(number).randbytes(4096)
        for number in range(12)
    }
    for segment_id, content in contents.items():
        sealed(folder, segment_id, content)
    fetcher = Fetcher(folder, descriptors_max=2)
    wrong: list[object] = []

    def read_all(seed: int) -> None:
        rnd = random.Random(seed)
        try:
            for _ in range(400):
                segment_id = rnd.choice(list(contents))
                at = rnd.randrange(4000)
                if fetcher.read(segment_id, at, 96) != contents[segment_id][at : at + 96]:
                    wrong.append(segment_id)
        except BaseException as error:  # noqa: BLE001 (handed to the test)
            wrong.append(error)

    threads = [threading.Thread(target=read_all, args=(seed,)) for seed in range(8)]
    before = len(os.listdir("/proc/self/fd"))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    fetcher.close()
    assert len(os.listdir("/proc/self/fd")) == before
