"""Inode numbers: packed and taken apart, shared by hard links, unique across points."""

from __future__ import annotations

import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mount import inodes
from mount.inodes import HardLinks, Identity, Slots
from repo.errors import Damaged

ranks = st.integers(0, (1 << inodes.LOW_BITS) - 2)
views = st.integers(0, 3)
slots = st.integers(0, inodes.SLOTS - 1)
identities = st.builds(Identity, st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1))


@given(views, slots, ranks)
def test_a_number_tells_what_it_was_made_of(view: int, slot: int, rank: int) -> None:
    base = inodes.base_of(view, slot)
    number = inodes.of_rank(base, rank)
    assert 0 < number < 1 << 63
    assert inodes.split(number) == (False, base, rank + 1)
    assert inodes.rank_of(inodes.split(number).low) == rank
    assert inodes.view_of(base) == view


def test_the_root_of_a_point_alone_is_1() -> None:
    assert inodes.of_rank(inodes.base_of(0, 0), 0) == inodes.ROOT


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(Damaged):
        inodes.of_rank(0, 1 << inodes.LOW_BITS)
    with pytest.raises(ValueError, match="slot"):
        inodes.base_of(0, inodes.SLOTS)


@given(st.lists(identities, unique=True, max_size=20), views, slots)
def test_files_keep_their_own_numbers(files: list[Identity], view: int, slot: int) -> None:
    links = HardLinks()
    base = inodes.base_of(view, slot)
    numbers = []
    for rank, identity in enumerate(files):
        number = links.number(base, identity)
        links.hold(number, identity, rank)
        numbers.append(number)
    assert len(set(numbers)) == len(files)
    assert [links.number(base, identity) for identity in files] == numbers
    assert [links.rank(number) for number in numbers] == list(range(len(files)))
    for number in numbers:
        assert inodes.split(number).is_link
        assert inodes.split(number).base == base


def test_a_clash_of_hashes_takes_the_next_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inodes, "xxh3_64_intdigest", lambda _text: (1 << 64) - 1)
    links = HardLinks()
    one, other = Identity(1, 1), Identity(2, 1)
    first = links.number(0, one)
    links.hold(first, one, 10)
    second = links.number(0, other)
    links.hold(second, other, 20)
    assert first != second
    assert (links.number(0, one), links.number(0, other)) == (first, second)
    assert inodes.split(second).is_link


def test_a_link_is_held_as_long_as_the_kernel_holds_it() -> None:
    links = HardLinks()
    identity = Identity(0, 7)
    number = links.number(0, identity)
    for rank in (3, 4, 5):
        links.hold(number, identity, rank)
    links.forget([(number, 2), (12, 1)])
    assert links.rank(number) == 3
    links.forget([(number, 1)])
    assert links.rank(number) is None
    assert len(links) == 0
    links.forget([(number, 1)])


def test_slots_stay_and_do_not_depend_on_the_order() -> None:
    points = [secrets.token_bytes(16) for _ in range(300)]
    one, other = Slots(), Slots()
    one.add(points)
    other.add(reversed(points))
    assert [one.slot(point) for point in points] == [other.slot(point) for point in points]
    before = {point: one.slot(point) for point in points}
    one.add([secrets.token_bytes(16) for _ in range(300)])
    assert {point: one.slot(point) for point in points} == before


def test_points_that_ask_for_one_slot_get_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inodes, "preferred_slot", lambda _point: inodes.SLOTS - 1)
    slots = Slots()
    slots.add([b"a", b"b", b"c"])
    found = [slots.slot(point) for point in (b"a", b"b", b"c")]
    assert found == [inodes.SLOTS - 1, 1, 2]
    for point, slot in zip((b"a", b"b", b"c"), found, strict=True):
        assert slot is not None
        assert slots.point(inodes.base_of(1, slot)) == point
    assert slots.point(inodes.base_of(1, 99)) is None
    assert slots.slot(b"d") is None
