"""What a writer commits, a reader gives back; what it did not, the reader does not know."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from repo.errors import Damaged, RepositoryFailed
from repo.format.header import META_FRAME_BYTES_MAX
from repo.format.place import Place
from repo.index.environment import Transaction
from repo.keys import ContainerKey
from repo.repository import Repository
from repo.sealer import Frame, open_frame
from repo.types import KIB, MIB, ChunkId
from repo.writer import COMMIT_CHUNKS, Written
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


def test_chunks_come_back(repository: Repository) -> None:
    contents = made.contents(300)
    ids = written(repository, contents)
    reader = repository.new_reader(cache_bytes=8 * KIB)
    for chunk_id, data in zip(ids, contents, strict=True):
        assert bytes(reader.chunk(chunk_id)) == data
    assert len(reader.places_of(ids)) == len(ids)
    assert len(list(repository.folder.segments())) > 1


def test_chunks_of_open_segments_come_back_after_a_commit(repository: Repository) -> None:
    first, second = made.contents(20, seed=1), made.contents(20, seed=2)
    writer = repository.writer()
    reader = repository.new_reader()
    for contents in (first, second):
        ids = made.store(repository, writer, contents)
        with pytest.raises(Damaged, match="missing"):
            reader.chunk(ids[0])
        writer.commit()
        assert [bytes(reader.chunk(i)) for i in ids] == contents
    writer.abandon()


def test_nodes_come_back_and_are_stored_once(repository: Repository) -> None:
    nodes = made.contents(50)
    writer = repository.writer()
    ids = [made.put(repository, writer, data) for data in nodes + nodes]
    writer.commit()
    for data in nodes:
        made.put(repository, writer, data)
    writer.commit(close=True)
    assert writer.written.chunks == len(nodes)
    reader = repository.new_reader()
    assert [bytes(reader.chunk(i)) for i in ids] == nodes + nodes


def test_to_read_a_node_a_small_frame_is_opened(tmp_path: Path) -> None:
    header = replace(made.HEADER, frame_bytes=MIB, meta_segment_bytes=64 * MIB)
    with made.make(tmp_path, header) as repository:
        writer = repository.writer()
        nodes = [bytes([number]) * 10 * KIB for number in range(100)]
        ids = [made.put(repository, writer, data) for data in nodes]
        writer.commit(close=True)
        reader = repository.new_reader()
        frames = {place[:2] for place in reader.places_of(ids)}
        opened = reader.open_frames(sorted(frames))
        assert sum(len(frame.chunks) for frame in opened) == len(nodes)
        assert max(len(frame.content) for frame in opened) <= META_FRAME_BYTES_MAX + 10 * KIB


def test_a_chunk_that_is_there_keeps_its_place(repository: Repository) -> None:
    contents = made.contents(9)
    ids = written(repository, contents)
    before = repository.new_reader().places_of(ids)
    written(repository, contents)  # a job that did not ask
    assert repository.new_reader().places_of(ids) == before


def test_totals_are_those_of_what_was_appended(repository: Repository) -> None:
    contents = made.contents(30)
    writer = repository.writer()
    assert writer.written == Written(0, 0, 0)
    made.store(repository, writer, contents)
    assert writer.written.chunks == 30
    assert writer.written.plain_bytes == sum(map(len, contents))
    assert writer.written.stored_bytes > 0
    writer.abandon()


def test_a_checkpoint_is_due_by_chunks(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = repository.writer()
    assert not writer.commit_due()
    assert COMMIT_CHUNKS > 30
    monkeypatch.setattr("repo.writer.COMMIT_CHUNKS", 30)
    made.store(repository, writer, made.contents(29))
    assert not writer.commit_due()
    made.store(repository, writer, made.contents(1, seed=2))
    assert writer.commit_due()
    writer.commit(close=True)
    assert not writer.commit_due()


def test_a_point_is_published_once_under_its_name(repository: Repository) -> None:
    writer = repository.writer()
    root = made.directory_entry(repository, writer, b"", [])
    writer.commit(close=True)
    point = made.point_of(root)
    writer.publish(point)
    assert repository.points() == [point]
    with pytest.raises(RepositoryFailed):
        writer.publish(point)


def test_a_missing_chunk_is_an_error_never_zeros(repository: Repository) -> None:
    ids = written(repository, made.contents(3))
    reader = repository.new_reader()
    for look in (
        lambda: reader.chunk(ChunkId(bytes(32))),
        lambda: reader.place(ChunkId(bytes(32))),
        lambda: reader.places_of([ids[0], ChunkId(bytes(32))]),
    ):
        with pytest.raises(Damaged, match="missing"):
            look()


def test_the_full_id_is_compared(repository: Repository) -> None:
    (chunk_id,) = written(repository, [b"data"])
    impostor = ChunkId(chunk_id[:16] + bytes(16))
    with pytest.raises(Damaged, match="does not hold the chunk"):
        repository.new_reader().chunk(impostor)


def test_a_wrong_place_serves_nothing(repository: Repository) -> None:
    ids = written(repository, made.contents(30))
    reader = repository.new_reader()
    place = reader.place(ids[0])
    others = [
        reader.place(ids[20]),
        place._replace(frame=place.frame + 1000),
    ]
    for other in others:
        with pytest.raises(Damaged):
            reader.chunk_at(ids[0], other)
    # A segment that the index does not have may have been set aside: the index is asked again.
    nowhere = place._replace(segment=place.segment + 1000)
    assert reader.chunk_at(ids[0], nowhere) == reader.chunk_at(ids[0], place)
    with pytest.raises(Damaged, match="missing"):
        reader.chunk_at(ChunkId(bytes(32)), nowhere)
    # Offset and length of a place are hints: a chunk is found by its id in the frame.
    assert reader.chunk_at(ids[0], place._replace(offset=1, length=2)) is not None


def test_a_frame_table_that_asks_for_absurd_lengths_is_damage(repository: Repository) -> None:
    (chunk_id,) = written(repository, [b"data"])
    place = repository.new_reader().place(chunk_id)

    def enlarge(txn: Transaction) -> None:
        row = places.segment(place.segment)
        table = row.frames[:8] + b"\xff" * 8 + row.frames[16:]
        places.set_frames(txn, place.segment, table, closed=True)

    places = repository.places
    repository.environment.write(enlarge)
    with pytest.raises(Damaged, match="frame length"):
        repository.new_reader().chunk(chunk_id)


def test_threads_that_want_one_frame_open_it_once(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = made.contents(3)
    ids = written(repository, contents)
    reader = repository.new_reader()
    opened: list[int] = []
    both = threading.Barrier(4)

    def count(key: ContainerKey, number: int, sealed: bytes, *, where: str) -> Frame:
        opened.append(number)
        return open_frame(key, number, sealed, where=where)

    monkeypatch.setattr("repo.reader.open_frame", count)
    found: list[bytes] = []

    def read() -> None:
        both.wait()
        found.append(bytes(reader.chunk(ids[0])))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [contents[0]] * 4
    assert opened == [0]


def test_a_frame_that_failed_is_tried_again(repository: Repository) -> None:
    contents = made.contents(3)
    ids = written(repository, contents)
    reader = repository.new_reader()
    row = reader.segment(reader.place(ids[0]))
    path = repository.folder.segment_path(row.segment_id)
    good = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(good[:200] + bytes(100) + good[300:])
    with pytest.raises(Damaged):
        reader.chunk(ids[0])
    path.write_bytes(good)
    assert bytes(reader.chunk(ids[0])) == contents[0]


def test_loading_brings_frames_into_the_cache(repository: Repository) -> None:
    contents = made.contents(60)
    ids = written(repository, contents)
    reader = repository.new_reader()
    wanted = [(place.segment, place.frame) for place in map(reader.place, ids)]
    reader.load(wanted + wanted)
    assert all(reader.frame_cached(*key) is not None for key in wanted)


def test_the_cache_keeps_to_its_bytes(repository: Repository) -> None:
    contents = made.contents(90)
    ids = written(repository, contents)
    reader = repository.new_reader(cache_bytes=6000)
    places = [reader.place(chunk_id) for chunk_id in ids]
    reader.load((place.segment, place.frame) for place in places)
    held = {
        key: frame
        for key in {(place.segment, place.frame) for place in places}
        if (frame := reader.frame_cached(*key)) is not None
    }
    assert 1 <= len(held) < 30
    assert sum(len(frame.content) for frame in held.values()) <= 6000


def test_describing_a_place_names_segment_and_frame(repository: Repository) -> None:
    (chunk_id,) = written(repository, [b"data"])
    reader = repository.new_reader()
    place = reader.place(chunk_id)
    assert isinstance(place, Place)
    segment_id, _ = next(iter(repository.folder.segments()))
    assert reader.describe(place) == f"segment {segment_id.hex()}, frame {place.frame}"
