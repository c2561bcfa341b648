"""Scanning, walking and recovering segments; index and segments brought together again."""

from __future__ import annotations

import errno
import itertools
import multiprocessing
import os
import random
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from repo import recovery
from repo.closing import block_checksums
from repo.errors import Damaged, RepositoryFailed
from repo.format.frame import HEAD_SEALED_BYTES, Record
from repo.format.segment import HEADER_BYTES, FooterFrame, pack_footer, pack_table
from repo.index.environment import IndexUnusable
from repo.reader import Reader
from repo.repository import Repository
from repo.scanner import Contents, read_header, scan, walk
from repo.sealer import Sealer, frame_bytes_max
from repo.storage.appender import BlockChecksums
from repo.storage.fetcher import Fetcher
from repo.storage.folder import Folder
from repo.types import ChunkId, SegmentId
from repo.upkeep.repair import repair
from repo.upkeep.verify import verify
from tests.repo import made


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    with made.make(tmp_path) as repository:
        yield repository


def stored(repository: Repository, contents: list[bytes], *, close: bool) -> list[ChunkId]:
    """Chunks committed by a job that ended well, or was killed behind its checkpoint."""
    writer = repository.writer()
    ids = made.store(repository, writer, contents)
    writer.commit(close=close)
    writer.abandon()
    return ids


def only_segment(repository: Repository) -> tuple[SegmentId, Path]:
    ((segment_id, is_open),) = repository.folder.segments()
    return segment_id, repository.folder.segment_path(segment_id, open=is_open)


def look(data: bytes, repository: Repository, segment_id: SegmentId, *, footer: bool) -> Contents:
    """Scan or walk the bytes of a segment."""

    def read(offset: int, length: int) -> bytes:
        return data[offset : offset + length]

    return (scan if footer else walk)(read, len(data), repository.keys, segment_id)


# Scanning and walking


def test_footer_and_frames_say_the_same(repository: Repository) -> None:
    stored(repository, made.contents(30), close=True)
    segment_id, path = only_segment(repository)
    data = path.read_bytes()
    by_footer = look(data, repository, segment_id, footer=True)
    by_walking = look(data, repository, segment_id, footer=False)
    assert by_footer.frames == by_walking.frames
    assert by_footer.end == by_walking.end
    assert by_walking.footer is None


def test_a_walk_gives_the_whole_frames_of_every_prefix(repository: Repository) -> None:
    stored(repository, made.contents(12), close=False)
    segment_id, path = only_segment(repository)
    data = path.read_bytes()
    whole = look(data, repository, segment_id, footer=False)
    assert len(whole.frames) == 4
    assert whole.end == len(data)
    ends = [frame.offset + frame.sealed_bytes for frame in whole.frames]
    for length in range(HEADER_BYTES, len(data)):
        found = look(data[:length], repository, segment_id, footer=False)
        assert found.frames == [
            f for f, end in zip(whole.frames, ends, strict=True) if end <= length
        ]
        assert found.end == max([HEADER_BYTES, *(end for end in ends if end <= length)])
    for length in range(HEADER_BYTES):
        with pytest.raises(Damaged):
            look(data[:length], repository, segment_id, footer=False)


def test_a_walk_ends_at_a_frame_that_was_there_before(repository: Repository) -> None:
    stored(repository, made.contents(6), close=False)
    segment_id, path = only_segment(repository)
    data = path.read_bytes()
    whole = look(data, repository, segment_id, footer=False)
    first = whole.frames[0]
    replayed = data + data[first.offset : first.offset + first.sealed_bytes]
    assert look(replayed, repository, segment_id, footer=False) == whole


def test_a_walk_ends_at_what_is_no_frame(repository: Repository) -> None:
    stored(repository, made.contents(6), close=False)
    segment_id, path = only_segment(repository)
    data = path.read_bytes()
    whole = look(data, repository, segment_id, footer=False)
    rng = random.Random(1)
    for tail in (bytes(5000), rng.randbytes(5000), b"\xff" * 4, data[HEADER_BYTES:][:100]):
        assert look(data + tail, repository, segment_id, footer=False) == whole


def test_a_head_without_its_body_is_no_frame(repository: Repository) -> None:
    stored(repository, made.contents(3), close=False)
    segment_id, path = only_segment(repository)
    data = path.read_bytes()
    whole = look(data, repository, segment_id, footer=False)
    header = whole.header
    key = repository.keys.container(header.salt, "segment", segment_id)
    out = memoryview(bytearray(frame_bytes_max(5, 0)))
    frame = Sealer(level=None).seal(key, 77, [(repository.keys.chunk_id(b"chunk"), b"chunk")], out)
    sealed = bytes(out[: frame.sealed_bytes])
    assert len(look(data + sealed, repository, segment_id, footer=False).frames) == 2
    torn = sealed[:-1] + bytes((sealed[-1] ^ 1,))
    assert look(data + torn, repository, segment_id, footer=False) == whole


def test_a_header_must_be_that_of_the_name(repository: Repository) -> None:
    stored(repository, made.contents(3), close=True)
    segment_id, path = only_segment(repository)
    data = path.read_bytes()

    def read(offset: int, length: int) -> bytes:
        return data[offset : offset + length]

    assert read_header(read, segment_id)[1] == data[:HEADER_BYTES]
    for footer in (True, False):
        with pytest.raises(Damaged, match="another's name"):
            look(data, repository, SegmentId(bytes(16)), footer=footer)


@pytest.mark.parametrize("offset", [(1 << 64) - 1, 1 << 63, 100_000])
def test_a_footer_that_names_a_frame_beyond_its_segment_is_damage(
    repository: Repository, offset: int
) -> None:
    # Only who has the keys can make one; pread would not even take such an offset.
    stored(repository, made.contents(9), close=True)
    segment_id, path = only_segment(repository)
    data = path.read_bytes()
    good = look(data, repository, segment_id, footer=True)
    lie = good.frames[-1]._replace(offset=offset)
    salt = bytes(32)
    key = repository.keys.container(salt, "footer", segment_id)
    sealed = key.seal(0, Record.FOOTER, pack_table([*good.frames[:-1], lie]))
    assert good.footer is not None
    footer = pack_footer(
        good.header_bytes, good.end, salt + key.commitment + sealed, good.footer.checksums
    )
    path.chmod(0o600)
    path.write_bytes(data[: good.end] + footer)
    with pytest.raises(Damaged, match="beyond"):
        look(path.read_bytes(), repository, segment_id, footer=True)
    repository.rebuild_index()
    assert {damage.what for damage in verify(repository, level="data").damages} == {
        "a footer names a frame beyond its segment"
    }


def test_a_segment_of_another_root_key_is_damage(repository: Repository, tmp_path: Path) -> None:
    stored(repository, made.contents(3), close=True)
    segment_id, path = only_segment(repository)
    data = path.read_bytes()

    def read(offset: int, length: int) -> bytes:
        return data[offset : offset + length]

    for look_at in (scan, walk):
        with pytest.raises(Damaged, match="commitment"):
            look_at(read, len(data), made.keys(), segment_id)


def test_checksums_of_recovery_are_those_of_the_appender() -> None:
    data = random.Random(1).randbytes(200_000)
    for end in (0, 1, 65_535, 65_536, 65_537, 200_000):
        checksums = BlockChecksums()
        checksums.feed(data[:end])
        assert block_checksums(lambda at, length: data[at : at + length], end) == checksums.all()


# Recovering


def test_a_killed_jobs_segment_is_closed_with_its_whole_frames(
    repository: Repository, tmp_path: Path
) -> None:
    contents = made.contents(12)
    ids = stored(repository, contents, close=False)
    segment_id, path = only_segment(repository)
    with path.open("ab") as file:
        file.write(b"the beginning of a frame that never came to its end")
    repository.close()
    with made.reopen(tmp_path) as again:
        assert again.recover() == 1
        assert again.recover() == 0
        assert list(again.folder.segments()) == [(segment_id, False)]
        data = again.folder.segment_path(segment_id).read_bytes()
        found = look(data, again, segment_id, footer=True)
        assert found == look(data, again, segment_id, footer=False)._replace(footer=found.footer)
        reader = again.new_reader()
        assert [bytes(reader.chunk(chunk_id)) for chunk_id in ids] == contents


def test_frames_behind_the_last_checkpoint_are_found_again(
    repository: Repository, tmp_path: Path
) -> None:
    contents = made.contents(12)
    writer = repository.writer()
    ids = made.store(repository, writer, contents)
    writer.abandon()
    repository.close()
    with made.reopen(tmp_path) as again:
        assert again.places.known(chunk_id[:16] for chunk_id in ids) == set()
        assert again.recover() == 1
        reader = again.new_reader()
        assert [bytes(reader.chunk(chunk_id)) for chunk_id in ids] == contents


def test_an_open_segment_without_a_frame_is_removed(repository: Repository) -> None:
    for tail in (b"", b"torn"):
        writer = repository.writer()
        (ticket,) = writer.tickets(1)
        writer.abandon()
        with repository.folder.segment_path(ticket.segment_id, open=True).open("ab") as file:
            file.write(tail)
        assert repository.recover() == 1
        assert list(repository.folder.segments()) == []


def test_an_open_segment_whose_header_rotted_is_left_for_verify(repository: Repository) -> None:
    stored(repository, made.contents(3), close=False)
    _, path = only_segment(repository)
    data = path.read_bytes()
    path.write_bytes(data[:20] + b"?" + data[21:])
    assert repository.recover() == 0
    assert path.read_bytes()[21:] == data[21:]


def chunks(reader: Reader, ids: list[ChunkId]) -> list[bytes]:
    return [bytes(reader.chunk(chunk_id)) for chunk_id in ids]


def flip(path: Path, *offsets: int) -> None:
    """Turn a bit over at each of these places of a file."""
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    for offset in offsets:
        data[offset] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("part", [10, HEAD_SEALED_BYTES + 10], ids=["head", "body"])
def test_a_flipped_bit_in_a_killed_jobs_segment_costs_that_frame_only(
    repository: Repository, tmp_path: Path, part: int
) -> None:
    contents = made.contents(12)
    ids = stored(repository, contents, close=False)
    segment_id, path = only_segment(repository)
    second = look(path.read_bytes(), repository, segment_id, footer=False).frames[1]
    size = path.stat().st_size
    repository.close()
    flip(path, second.offset + part)
    notices: list[str] = []
    with made.reopen(tmp_path) as again:
        again._on_notice = notices.append
        assert again.recover() == 1
        assert "does not verify" in notices[0]
        closed = again.folder.segment_path(segment_id)
        assert closed.stat().st_size > size
        reader = again.new_reader()
        others = [
            *zip(ids[:3], contents[:3], strict=True),
            *zip(ids[6:], contents[6:], strict=True),
        ]
        assert [bytes(reader.chunk(chunk_id)) for chunk_id, _ in others] == [c for _, c in others]
        with pytest.raises(Damaged):
            reader.chunk(ids[3])
        (damage,) = verify(again, level="data").damages
        assert (damage.segment, damage.frame) == (segment_id.hex(), second.number)
        assert again.rebuild_index() == ()  # the footer names all that the index held
        (damage,) = verify(again, level="data").damages
        report = repair(again)
        assert (report.chunks_salvaged, report.chunks_lost) == (9, 3)
        assert verify(again, level="data").damages == []


def test_what_was_never_committed_behind_a_flipped_bit_is_cut_off(
    repository: Repository, tmp_path: Path
) -> None:
    writer = repository.writer()
    made.store(repository, writer, made.contents(12))
    writer.abandon()
    segment_id, path = only_segment(repository)
    second = look(path.read_bytes(), repository, segment_id, footer=False).frames[1]
    flip(path, second.offset + 100)
    assert repository.recover() == 1
    data = repository.folder.segment_path(segment_id).read_bytes()
    assert len(look(data, repository, segment_id, footer=True).frames) == 1


@pytest.mark.parametrize("left", [HEADER_BYTES, HEADER_BYTES + 1, -200])
def test_a_segment_that_the_index_relies_on_is_kept_though_it_was_cut_short(
    repository: Repository, tmp_path: Path, left: int
) -> None:
    contents = made.contents(12)
    ids = stored(repository, contents, close=False)
    segment_id, path = only_segment(repository)
    os.truncate(path, left if left > 0 else path.stat().st_size + left)
    good = len(look(path.read_bytes(), repository, segment_id, footer=False).frames)
    assert repository.recover() == 1
    assert list(repository.folder.segments()) == [(segment_id, False)]
    assert {d.segment for d in verify(repository, level="data").damages} == {segment_id.hex()}
    repair(repository)
    assert verify(repository, level="data").damages == []
    reader = repository.new_reader()
    kept = 3 * good
    assert [bytes(reader.chunk(chunk_id)) for chunk_id in ids[:kept]] == contents[:kept]
    assert repository.places.known(chunk_id[:16] for chunk_id in ids[kept:]) == set()


def test_without_its_index_a_flipped_bit_costs_that_frame_only_as_well(
    repository: Repository, tmp_path: Path
) -> None:
    contents = made.contents(12)
    ids = stored(repository, contents, close=False)
    segment_id, path = only_segment(repository)
    second = look(path.read_bytes(), repository, segment_id, footer=False).frames[1]
    repository.close()
    shutil.rmtree(repository.index_path)
    flip(path, second.offset + 10, second.offset + 100)
    before = path.read_bytes()
    others = contents[:3] + contents[6:]
    for _ in range(2):
        with made.reopen(tmp_path) as again:
            again.recover()
            assert path.read_bytes() == before  # what lies between can be put into no footer
            reader = again.new_reader()
            assert chunks(reader, ids[:3] + ids[6:]) == others
            assert again.places.known(chunk_id[:16] for chunk_id in ids[3:6]) == set()
    with made.reopen(tmp_path) as again:
        report = repair(again)
        assert report.chunks_salvaged == 9
        assert not path.exists()
        reader = again.new_reader()
        assert chunks(reader, ids[:3] + ids[6:]) == others


def test_the_segment_of_a_living_writer_is_left_alone(repository: Repository) -> None:
    writer = repository.writer()
    contents = made.contents(6)
    ids = made.store(repository, writer, contents)
    writer.commit()
    assert repository.recover() == 0
    more = made.store(repository, writer, made.contents(3, seed=2))
    writer.commit(close=True)
    reader = repository.new_reader()
    assert [bytes(reader.chunk(chunk_id)) for chunk_id in ids] == contents
    assert len(reader.places_of(more)) == 3


# Index and segments


def test_a_closed_segment_that_the_index_lacks_is_added(
    repository: Repository, tmp_path: Path
) -> None:
    contents = made.contents(9)
    stored(repository, made.contents(9, seed=2), close=True)
    before = repository.index_path / "data.mdb"
    old_index = before.read_bytes()
    ids = stored(repository, contents, close=True)
    repository.close()
    before.write_bytes(old_index)  # a power cut took the last transaction
    with made.reopen(tmp_path) as again:
        reader = again.new_reader()
        assert [bytes(reader.chunk(chunk_id)) for chunk_id in ids] == contents


def test_an_index_that_relies_on_a_segment_that_is_gone_is_built_anew(
    repository: Repository, tmp_path: Path
) -> None:
    ids = stored(repository, made.contents(3), close=True)
    others = stored(repository, made.contents(3, seed=2), close=True)
    segment_id = repository.reader.segment(repository.reader.place(ids[0])).segment_id
    repository.folder.segment_path(segment_id).rename(tmp_path / "away")
    with pytest.raises(IndexUnusable, match="not there"):
        recovery.reconcile(repository.folder, repository.keys, repository.environment)
    repository.close()
    notices: list[str] = []
    with made.reopen(tmp_path) as again:
        again._on_notice = notices.append
        known = again.places.known(chunk_id[:16] for chunk_id in ids + others)
        assert known == {chunk_id[:16] for chunk_id in others}
    assert "building it anew" in notices[0]


def test_segments_that_others_begin_meanwhile_are_not_taken_for_lost(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = Folder.segments
    numbers = itertools.count(1)

    def outdated(folder: Folder) -> Iterator[tuple[SegmentId, bool]]:
        found = list(listing(folder))
        stored(repository, made.contents(3, seed=next(numbers)), close=True)
        return iter(found)

    environment = repository.environment
    monkeypatch.setattr(Folder, "segments", outdated)
    recovery.reconcile(repository.folder, repository.keys, environment)
    assert next(numbers) > 1


def test_of_two_that_find_no_index_one_builds_it(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = stored(repository, made.contents(3), close=True)
    repository.close()
    shutil.rmtree(repository.index_path)
    processes = multiprocessing.get_context("fork")
    both_looked = processes.Barrier(2)
    lock = recovery.rebuilding

    def together(path: Path) -> AbstractContextManager[None]:
        both_looked.wait(timeout=30)
        return lock(path)

    def start() -> None:
        with made.reopen(tmp_path) as again, (tmp_path / "rebuilds").open("a") as log:
            again._on_notice = lambda text: print(text, file=log)
            known = again.places.known(chunk_id[:16] for chunk_id in ids)
            assert known == {chunk_id[:16] for chunk_id in ids}

    monkeypatch.setattr(recovery, "rebuilding", together)
    children = [processes.Process(target=start) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(timeout=60)
    assert [child.exitcode for child in children] == [0, 0]
    (notice,) = (tmp_path / "rebuilds").read_text().splitlines()
    assert "building it anew" in notice


def test_a_rebuilt_index_has_the_same_places(repository: Repository, tmp_path: Path) -> None:
    ids = stored(repository, made.contents(200), close=True)
    ids += stored(repository, made.contents(30, seed=2), close=True)

    def places() -> dict[bytes, tuple[bytes, int, int, int]]:
        rows = {row.number: row.segment_id for row in repository.places.segments()}
        return {key: (rows[place.segment], *place[1:]) for key, place in repository.places.rows()}

    before = places()
    steps: list[tuple[int, int]] = []
    assert repository.rebuild_index(lambda done, of: steps.append((done, of))) == ()
    assert places() == before
    assert len(before) == len(ids)
    count = len(list(repository.folder.segments()))
    assert steps == [(done, count) for done in range(1, count + 1)]
    assert os.listdir(repository.index_path.parent) == [repository.index_path.name]


def test_a_rebuild_tells_damage_and_keeps_what_verifies(repository: Repository) -> None:
    contents = made.contents(12)
    ids = stored(repository, contents, close=True)
    segment_id, path = only_segment(repository)
    data = path.read_bytes()
    third: FooterFrame = look(data, repository, segment_id, footer=True).frames[2]
    path.chmod(0o600)
    for where in (len(data) - 1, third.offset + 100):
        damaged = bytearray(path.read_bytes())
        damaged[where] ^= 1
        path.write_bytes(damaged)
    (damage,) = repository.rebuild_index()
    assert segment_id.hex() in damage.where
    reader = repository.new_reader()
    others = [i for i in range(12) if i not in (6, 7, 8)]
    assert [bytes(reader.chunk(ids[i])) for i in others] == [contents[i] for i in others]
    assert repository.places.known(chunk_id[:16] for chunk_id in ids[6:9]) == set()


def test_a_segment_that_cannot_be_read_does_not_keep_the_others_back(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = stored(repository, made.contents(3), close=True)
    others = stored(repository, made.contents(3, seed=2), close=True)
    reader = repository.reader
    sick = reader.segment(reader.place(ids[0])).segment_id
    read = Fetcher.read

    def fail(self: Fetcher, segment_id: SegmentId, offset: int, length: int) -> bytes:
        if segment_id == sick:
            raise RepositoryFailed("cannot read a segment: " + os.strerror(errno.EIO))
        return read(self, segment_id, offset, length)

    with monkeypatch.context() as patch:
        patch.setattr(Fetcher, "read", fail)
        damages = repository.rebuild_index()
    assert [damage.where for damage in damages] == [f"segment {sick.hex()}"]
    everything = {chunk_id[:16] for chunk_id in ids + others}
    repository.close()
    assert repository.places.known(everything) == everything  # read again, and well


def test_a_rebuild_that_failed_leaves_the_old_index_and_nothing_else(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = stored(repository, made.contents(3), close=True)

    def fail(*_: object) -> None:
        raise RepositoryFailed("no space")

    monkeypatch.setattr(recovery, "place_rows", fail)
    with pytest.raises(RepositoryFailed):
        repository.rebuild_index()
    assert os.listdir(repository.index_path.parent) == [repository.index_path.name]
    assert len(repository.places.known(chunk_id[:16] for chunk_id in ids)) == 3


def test_leftovers_of_a_killed_rebuild_are_removed_by_the_next(repository: Repository) -> None:
    stored(repository, made.contents(3), close=True)
    parent, name = repository.index_path.parent, repository.index_path.name
    for leftover in (f"{name}.new-00000000", f"{name}.old-00000000"):
        (parent / leftover).mkdir()
        (parent / leftover / "data.mdb").write_bytes(b"half")
    repository.rebuild_index()
    assert os.listdir(parent) == [name]


def test_a_rebuild_under_way_is_no_leftover(repository: Repository) -> None:
    stored(repository, made.contents(3), close=True)
    fresh, lock = recovery._make_fresh(repository.index_path)
    try:
        repository.rebuild_index()
        assert fresh.is_dir()
    finally:
        os.close(lock)


def test_records_of_one_kind_do_not_open_as_another(repository: Repository) -> None:
    key = repository.keys.container(bytes(32), "segment", bytes(16))
    sealed = {kind: key.seal(kind, kind, b"plain") for kind in Record}
    key.check_commitment(key.commitment)
    for kind in Record:
        for other in Record:
            if other is not kind:
                with pytest.raises(Damaged):
                    key.open(kind, other, sealed[kind])
