"""The place of a chunk: laws of its 16 bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repo.errors import Damaged
from repo.format.place import PLACE_BYTES, Place

U32 = st.integers(0, (1 << 32) - 1)


@given(st.builds(Place, U32, U32, U32, U32))
def test_parse_gives_back_what_pack_wrote(place: Place) -> None:
    assert Place.parse(place.pack()) == place


def test_the_bytes_are_four_little_endian_numbers() -> None:
    assert Place(1, 2, 0x0403, 0x08070605).pack().hex() == "01000000020000000304000005060708"


@given(st.binary(max_size=3 * PLACE_BYTES).filter(lambda data: len(data) != PLACE_BYTES))
def test_any_other_length_is_damage(data: bytes) -> None:
    with pytest.raises(Damaged, match="wrong length"):
        Place.parse(data)
