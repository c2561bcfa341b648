"""Publishing over a garbage collection: what was condemned comes back, or nothing is published."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from repo.errors import JobFailed
from repo.format.manifest import Point
from repo.format.node import Entry
from repo.index.condemned import Condemned
from repo.repository import Repository
from repo.types import ChunkId
from repo.writer import Writer
from tests.repo import made


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    with made.make(tmp_path) as repository:
        yield repository


def written(repository: Repository, contents: list[bytes], *, close: bool = True) -> list[ChunkId]:
    """Chunks stored and committed by a job of their own."""
    writer = repository.writer()
    ids = made.store(repository, writer, contents)
    writer.commit(close=close)
    writer.abandon()
    return ids


def condemn(repository: Repository, keys: set[bytes]) -> int:
    """Take chunks out of the index as garbage collection does; all when there are no keys."""
    places = repository.places
    rows = [r for batch in places.row_batches() for r in batch if not keys or r[:16] in keys]
    return repository.environment.write(partial(Condemned(places).condemn, rows=rows))


def of_a_file(repository: Repository, writer: Writer, chunks: list[bytes]) -> Entry:
    """A tree with one file of these chunks in a folder: its root."""
    ids = made.store(repository, writer, chunks)
    rows = [(i, len(chunk)) for i, chunk in zip(ids, chunks, strict=True)]
    below = made.directory_entry(repository, writer, b"below", [made.file_entry(b"file", rows)])
    return made.directory_entry(repository, writer, b"", [below])


def test_what_was_condemned_meanwhile_is_revived_when_a_point_relies_on_it(
    repository: Repository,
) -> None:
    chunks = made.contents(9)
    writer = repository.writer()
    root = of_a_file(repository, writer, chunks)
    writer.commit(close=True)
    whole = dict(repository.places.rows())
    later = repository.writer()
    assert condemn(repository, set()) == len(whole)
    assert dict(repository.places.rows()) == {}
    assert bytes(repository.reader.chunk(ChunkId(root.node)))  # whoever reads still finds it
    assert repository.places.known(whole) == set()  # whoever writes does not
    later.publish(made.point_of(root))
    assert dict(repository.places.rows()) == whole
    assert repository.places.environment.epoch() == 1
    assert len(repository.points()) == 1


def test_what_is_gone_for_good_keeps_a_point_from_being_published(repository: Repository) -> None:
    chunks = made.contents(9)
    writer = repository.writer()
    root = of_a_file(repository, writer, chunks)
    writer.commit(close=True)
    key = repository.keys.chunk_id(chunks[0])[:16]
    assert condemn(repository, {key}) == 1
    repository.environment.write(
        lambda txn: txn.drop(repository.environment.table(b"condemned", sorted_rows=True), False)
    )
    with pytest.raises(JobFailed, match="1 chunks that this point relies on are gone"):
        writer.publish(made.point_of(root))
    assert repository.points() == []


def test_chunks_condemned_while_a_point_is_looked_at_are_looked_at_again(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks = made.contents(9)
    writer = repository.writer()
    root = of_a_file(repository, writer, chunks)
    writer.commit(close=True)
    keys = {repository.keys.chunk_id(chunk)[:16] for chunk in chunks}
    condemn(repository, keys)
    verify, again = writer._verify, [keys, keys]

    def slowly(point: Point) -> None:
        verify(point)
        if again:
            condemn(repository, again.pop())

    monkeypatch.setattr(writer, "_verify", slowly)
    writer.publish(made.point_of(root))
    assert again == []
    assert repository.places.known(keys) == keys


def test_nothing_is_looked_at_when_nothing_was_condemned(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = repository.writer()
    root = of_a_file(repository, writer, made.contents(3))
    writer.commit(close=True)
    repository.environment.write(repository.environment.advance_epoch)  # a segment was retired
    monkeypatch.setattr(writer, "_verify", lambda point: pytest.fail("looked at"))
    writer.publish(made.point_of(root))


def test_a_revived_chunk_takes_its_segment_back(repository: Repository) -> None:
    condemned = Condemned(repository.places)
    ids = written(repository, made.contents(9))
    keys = {chunk_id[:16] for chunk_id in ids}
    condemn(repository, keys)
    (row,) = repository.places.segments()
    write = repository.environment.write
    assert write(lambda txn: condemned.retire(txn, [row.number])) == 2
    assert condemned.retired() == {row.number: 2}
    assert write(lambda txn: condemned.revive(txn, [ids[0][:16], bytes(16)])) == {bytes(16)}
    assert condemned.retired() == {}
    assert write(lambda txn: condemned.drop_segment(txn, row.number, keys)) is False
    condemn(repository, keys)
    write(lambda txn: condemned.retire(txn, [row.number]))
    assert write(lambda txn: condemned.drop_segment(txn, row.number, keys)) is True
    assert list(repository.places.segments()) == []
    assert condemned.count() == 0
