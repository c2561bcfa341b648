"""The limits: what they refuse, and that they fit each other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repo.errors import Damaged
from repo.format import limits


@given(st.integers(), st.integers(0, 100), st.integers(0, 100))
def test_a_value_is_given_back_or_refused(value: int, least: int, most: int) -> None:
    if least <= value <= most:
        assert limits.check("length", value, most, least=least, where="here") == value
        return
    with pytest.raises(Damaged) as caught:
        limits.check("length", value, most, least=least, where="here")
    assert caught.value.where == "here"
    assert str(value) in caught.value.what


def test_what_the_writer_makes_is_within_what_the_reader_takes() -> None:
    # A frame is closed by the chunk that reaches its target, which may be the longest there is.
    assert limits.FRAME_PLAIN_MAX >= limits.FRAME_BYTES_MAX + limits.CHUNK_BYTES_MAX
    assert limits.CHUNKER_BYTES_MAX <= limits.CHUNK_BYTES_MAX
    assert limits.NODE_BYTES_MAX <= limits.CHUNK_BYTES_MAX
    # A page is closed by the entry that reaches its target.
    assert limits.PAGE_BYTES_TARGET + limits.ENTRY_BYTES_MAX <= limits.NODE_BYTES_MAX
    assert limits.EXTENT_ROWS_INLINE <= limits.EXTENT_ROWS_MAX
