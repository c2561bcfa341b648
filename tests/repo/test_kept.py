"""Kept nodes: found by id, by place and by frame like all others, and bounded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from repo import kept
from repo.errors import Damaged, JobFailed
from repo.kept import KEPT_SEGMENT, Kept
from repo.repository import Repository
from repo.types import ChunkId
from tests.repo import made


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    with made.make(tmp_path) as repository:
        yield repository


def test_a_kept_node_is_read_like_any_other(repository: Repository) -> None:
    writer = repository.writer()
    stored = made.put(repository, writer, b"in a segment")
    writer.commit(close=True)
    reader, other = repository.new_reader(), repository.new_reader()
    node = reader.keep(b"in no segment")
    assert reader.keep(b"in no segment") == node
    assert bytes(other.chunk(node)) == b"in no segment"
    places = other.places_of([stored, node])
    assert places[1].segment == KEPT_SEGMENT
    frames = other.open_frames([place[:2] for place in places])
    assert [bytes(f.chunk(i) or b"") for f, i in zip(frames, (stored, node), strict=True)] == [
        b"in a segment", b"in no segment",
    ]  # fmt: skip
    other.load([places[1][:2]])
    assert other.describe(places[1]) == "a directory of a delta point"
    assert repository.kept.nodes() == [b"in no segment"]


def test_there_is_an_end_to_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "KEPT_BYTES_MAX", 60)
    nodes = Kept()
    nodes.add(ChunkId(b"1" * 32), b"abc" * 1000)
    with pytest.raises(JobFailed, match="too many"):
        nodes.add(ChunkId(b"2" * 32), bytes(range(256)))
    assert nodes.place(b"2" * 32) is None
    assert bytes(nodes.frame(0).chunk(b"1" * 32) or b"") == b"abc" * 1000
    with pytest.raises(Damaged):
        nodes.frame(1)
    monkeypatch.setattr(kept, "HANDED_BYTES_MAX", 10)
    with pytest.raises(JobFailed, match="too many"):
        nodes.nodes()
