"""The content of a file: any range is exactly those bytes, however the extents are stored."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mount.content import Content, blocks_of
from repo.errors import Damaged
from repo.format.node import HOLE, pack_extents
from tests.mount import treemaking
from tests.mount.treemaking import Shelved, Store, patiently

contents = st.builds(
    b"".join, st.lists(st.one_of(st.binary(min_size=1, max_size=20), st.just(bytes(21))))
)


@given(contents, st.integers(0, 4), st.integers(1, 5), st.integers(0, 300), st.integers(0, 300))
def test_a_range_is_exactly_those_bytes(
    content: bytes, levels: int, fanout: int, start: int, length: int
) -> None:
    store = Store()
    entry = treemaking.large_entry(store, b"f", content, fanout=fanout, levels=levels)
    wanted = content[start : start + length]
    assert b"".join(Content(entry).read(start, length, store)) == wanted
    source = Shelved(store)
    one = Content(entry)
    got = patiently(source, lambda: b"".join(one.read(start, length, source)))
    assert got == wanted


@given(contents, st.integers(0, 3), st.integers(0, 100))
def test_data_and_holes_alternate(content: bytes, levels: int, start: int) -> None:
    store = Store()
    entry = treemaking.large_entry(store, b"f", content, fanout=2, levels=levels)
    if start >= len(content):
        return
    one = Content(entry)
    is_hole = [not any(content[at : at + 7]) for at in range(0, len(content), 7)]
    places = range(start, len(content))
    data = next((at for at in places if not is_hole[at // 7]), None)
    hole = next((at for at in places if is_hole[at // 7]), len(content))
    assert one.next_data(start, store) == data
    assert one.next_hole(start, store) == hole


def test_frames_are_told_once_and_in_order() -> None:
    store = Store()
    entry = treemaking.file_entry(store, b"f", b"1234567abcdefg1234567")
    frames = list(Content(entry).frames(0, 100, store))
    assert frames == [(0, 0), (0, 1), (0, 0)]
    assert list(Content(entry).frames(7, 1, store)) == [(0, 1)]


def test_blocks_count_what_is_no_hole() -> None:
    store = Store()
    for content, blocks in ((b"", 0), (bytes(700), 0), (b"x" * 700, 2), (b"x" * 7 + bytes(700), 1)):
        assert blocks_of(treemaking.file_entry(store, b"f", content)) == blocks


def test_extents_that_do_not_cover_the_size_are_damage() -> None:
    store = Store()
    entry = treemaking.file_entry(store, b"f", b"content")
    with pytest.raises(Damaged, match="length"):
        Content(msgspec.structs.replace(entry, size=8)).read(0, 8, store)
    entry = treemaking.file_entry(store, b"f", b"more content")
    with pytest.raises(Damaged, match="cover"):
        Content(msgspec.structs.replace(entry, size=8)).read(0, 8, store)


def test_a_chunk_of_another_length_is_damage() -> None:
    store = Store()
    rows = pack_extents([(store.put(b"abc"), 4), (HOLE, 3)])
    entry = msgspec.structs.replace(treemaking.file_entry(store, b"f", b"1234567"), extents=rows)
    with pytest.raises(Damaged, match="length"):
        Content(entry).read(0, 7, store)


def test_a_page_that_does_not_cover_its_row_is_damage() -> None:
    store = Store()
    entry = treemaking.large_entry(store, b"f", b"x" * 50, fanout=3, levels=1)
    rows = bytearray(entry.extents)
    rows[32] -= 1
    rows[40 + 32] += 1
    with pytest.raises(Damaged, match="cover"):
        Content(msgspec.structs.replace(entry, extents=bytes(rows))).read(0, 50, store)
