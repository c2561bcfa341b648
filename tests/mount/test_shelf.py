"""The shelf: answers from memory, says what is lacking, and tells the cache what is used."""

from __future__ import annotations

from typing import Any

import pytest

from mount.cache import FrameCache
from mount.shelf import Shelf
from mount.source import FramesMissing, WorkMissing
from repo.errors import Damaged
from repo.format.frame import FrameChunk
from repo.format.place import Place
from repo.sealer import Frame
from repo.types import ChunkId

ONE, TWO = ChunkId(b"1" * 32), ChunkId(b"2" * 32)


class Index:
    """Stands for a reader: knows where chunks lie."""

    def __init__(self) -> None:
        self.asked: list[ChunkId] = []

    def places_of(self, ids: list[ChunkId]) -> list[Place]:
        self.asked += ids
        return [Place(0, one[0], 0, 3) for one in ids]

    def segment(self, _place: Place) -> None:
        """It is asked for the rows of segments, so as to have them."""

    def describe(self, place: Place) -> str:
        return f"frame {place.frame}"


def _frame(chunk_id: ChunkId) -> Frame:
    return Frame(chunk_id[0], {chunk_id: FrameChunk(chunk_id, 0, 3)}, memoryview(b"abc"))


@pytest.fixture
def cache() -> FrameCache:
    return FrameCache(10_000)


@pytest.fixture
def index() -> Index:
    return Index()


@pytest.fixture
def shelf(index: Index, cache: FrameCache) -> Shelf:
    reader: Any = index
    return Shelf(reader, cache)


def test_all_that_is_lacking_is_named_at_once(shelf: Shelf, cache: FrameCache) -> None:
    wanted = [(one, shelf.places([one])[0]) for one in (ONE, TWO, ONE)]
    with pytest.raises(FramesMissing) as caught:
        shelf.chunks_at(wanted)
    assert caught.value.frames == ((0, ONE[0]), (0, TWO[0]))
    cache.put((0, TWO[0]), _frame(TWO))
    with pytest.raises(FramesMissing) as caught:
        shelf.chunks_at(wanted)
    assert caught.value.frames == ((0, ONE[0]),)


def test_frames_that_are_handed_over_need_no_room_in_the_cache(shelf: Shelf) -> None:
    with shelf.handed({(0, ONE[0]): _frame(ONE)}):
        assert bytes(shelf.chunk(ONE)) == b"abc"
    with pytest.raises(FramesMissing):
        shelf.chunk(ONE)


def test_what_was_fetched_ahead_counts_as_used_though_it_was_waited_for(
    shelf: Shelf, cache: FrameCache
) -> None:
    frame = _frame(ONE)
    cache.put((0, ONE[0]), frame, fetched_ahead=True)
    with shelf.handed({(0, ONE[0]): frame}):
        assert bytes(shelf.chunk(ONE)) == b"abc"
    assert cache.unused_ahead == 0
    assert cache.counts.ahead_used == 1


def test_places_are_looked_up_once(shelf: Shelf, index: Index) -> None:
    shelf.places([ONE, TWO])
    shelf.places([TWO])
    assert index.asked == [ONE, TWO]


def test_a_chunk_that_is_not_where_the_index_says_is_damage(
    shelf: Shelf, cache: FrameCache
) -> None:
    cache.put((0, ONE[0]), _frame(TWO))
    with pytest.raises(Damaged, match=f"frame {ONE[0]}"):
        shelf.chunk(ONE)


def test_work_is_left_to_a_thread(shelf: Shelf) -> None:
    with pytest.raises(WorkMissing) as caught:
        shelf.work(lambda: None)
    caught.value.work()
