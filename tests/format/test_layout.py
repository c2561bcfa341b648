"""Names of files: every id has one, every name has at most one meaning."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repo.format import layout
from repo.types import PointId, SegmentId

IDS = st.binary(min_size=16, max_size=16)


@given(IDS, st.booleans())
def test_segment_name_means_the_segment(raw: bytes, is_open: bool) -> None:
    segment_id = SegmentId(raw)
    path = layout.segment_path(segment_id, is_open=is_open)
    top, shard, name = path.split("/")
    assert top == layout.SEGMENTS
    assert layout.is_shard(shard)
    assert name.startswith(shard)
    assert layout.parse_segment_name(name) == (segment_id, is_open)


@given(IDS)
def test_point_name_means_the_point(raw: bytes) -> None:
    top, name = layout.point_path(PointId(raw)).split("/")
    assert top == layout.POINTS
    assert layout.parse_id(name) == raw


@given(st.text(max_size=40))
def test_no_other_name_means_a_segment_or_point(name: str) -> None:
    hexadecimal = set(name.removesuffix(".open")) <= set("0123456789abcdef")
    if not hexadecimal or len(name.removesuffix(".open")) != 32:
        assert layout.parse_segment_name(name) is None
    if not hexadecimal or len(name) != 32:
        assert layout.parse_id(name) is None


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".new-1", "a/b", "a\0", "a\n", "x" * 65, "-x", "ü"]
)
def test_slot_name_refused(name: str) -> None:
    assert not layout.is_slot_name(name)


@pytest.mark.parametrize("name", ["password", "key-file", "alice@host.example", "0", "_", "x" * 64])
def test_slot_name_taken(name: str) -> None:
    assert layout.is_slot_name(name)


def test_temporary_names_mean_nothing_else() -> None:
    name = layout.TEMPORARY_PREFIX + "0123456789abcdef01234567"
    assert layout.is_temporary(name)
    assert layout.parse_segment_name(name) is None
    assert layout.parse_id(name) is None
    assert not layout.is_slot_name(name)
