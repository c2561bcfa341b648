"""Whole files that are gone, swapped, copied or of somebody else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from repo.errors import Damaged
from repo.scanner import read_header
from repo.types import SegmentClass
from repo.upkeep.damage import Damage
from repo.upkeep.keyless import verify_keyless
from repo.upkeep.verify import verify
from tests.damage.small import (
    Contents,
    Small,
    lost_paths,
    moved,
    read_back,
    segment_of,
    wrongly_served,
)


def damages_of(small: Small, truth: Contents) -> list[Damage]:
    """What verify says, with everything that is lost named and nothing wrong served."""
    with small.open() as repository:
        report = verify(repository, level="data", streams=1)
    # Only now: to open it for reading brings the index up to the files that there are.
    with small.open() as repository:
        found = read_back(repository)
    assert wrongly_served(found, truth) == []
    damages = list(report.damages)
    lost = lost_paths(found)
    assert {name for damage in damages for name in damage.paths} == {name for _, name in lost}
    return damages


def segments_of(small: Small, segment_class: SegmentClass) -> list[Path]:
    """The files of a class."""
    found: list[Path] = []
    for path in small.segments():
        data = path.read_bytes()

        def read(at: int, length: int, data: bytes = data) -> bytes:
            return data[at : at + length]

        header, _ = read_header(read, segment_of(path))
        if header.segment_class is segment_class:
            found.append(path)
    return found


@pytest.mark.parametrize("segment_class", [SegmentClass.DATA, SegmentClass.META])
def test_a_missing_segment_is_named_with_all_that_it_held(
    small: Small, truth: Contents, segment_class: SegmentClass
) -> None:
    for path in segments_of(small, segment_class):
        with moved((path, small.home / "away")):
            (damage,) = damages_of(small, truth)
            assert damage.segment == path.name
            assert "missing" in damage.what
            assert damage.paths
            # By now the index was built anew: which segment it was is forgotten, the files not.
            (again,) = damages_of(small, truth)
            assert again.segment == ""
            assert (again.paths, again.points) == (damage.paths, damage.points)
        # It is back: the next one who opens the repository finds it.
        assert damages_of(small, truth) == []


def test_all_segments_missing(small: Small, truth: Contents) -> None:
    paths = small.segments()
    with moved(*((path, small.home / path.name) for path in paths)):
        damages = damages_of(small, truth)
        assert {damage.segment for damage in damages} == {path.name for path in paths}
        assert set().union(*(damage.points for damage in damages)) == set(truth)
        assert set().union(*(damage.paths for damage in damages)) == {"."}
    assert damages_of(small, truth) == []


def test_two_segments_swapped(small: Small, truth: Contents) -> None:
    for segment_class in (SegmentClass.DATA, SegmentClass.META):
        one, two, *_ = segments_of(small, segment_class)
        with moved((one, two), (two, one)):
            damages = damages_of(small, truth)
            assert {damage.segment for damage in damages} == {one.name, two.name}
            assert all("another's name" in damage.what for damage in damages)
            blind = verify_keyless(small.path).damages
            assert {damage.segment for damage in blind} == {one.name, two.name}


def test_a_segment_under_a_second_name(small: Small, truth: Contents) -> None:
    path = small.segments()[0]
    copy = path.with_name(path.name[:2] + "f" * 30)
    shutil.copy(path, copy)
    try:
        (damage,) = damages_of(small, truth)
        assert damage.segment == copy.name
        assert damage.points == []  # nobody relies on it
    finally:
        copy.unlink()


def test_a_segment_of_another_repository(small: Small, truth: Contents, own: Small) -> None:
    original = own.segments()[0]
    stranger = small.path / original.relative_to(own.path)
    stranger.parent.mkdir(exist_ok=True)
    shutil.copy(original, stranger)
    try:
        (damage,) = damages_of(small, truth)
        assert damage.segment == stranger.name
        assert "commitment" in damage.what
    finally:
        stranger.unlink()


def test_a_segment_in_the_wrong_folder_is_missing(small: Small, truth: Contents) -> None:
    path = small.segments()[0]
    stray = path.parent.parent / "ff" / path.name
    stray.parent.mkdir(exist_ok=True)
    with moved((path, stray)):
        (damage,) = damages_of(small, truth)
        assert damage.segment == path.name
        assert "missing" in damage.what


def test_points_under_each_others_names(small: Small, truth: Contents) -> None:
    one, two = sorted((small.path / "points").iterdir())
    with moved((one, two), (two, one)):
        blind = verify_keyless(small.path).damages
        with small.open() as repository:
            damages = verify(repository, level="structure").damages
            with pytest.raises(Damaged, match="another's name"):
                repository.points()
            assert read_back(repository) == {}
        for found in (blind, damages):
            assert {damage.where for damage in found} == {f"points/{p.name}" for p in (one, two)}
            assert {damage.what for damage in found} == {"a point lies under another's name"}


def test_a_point_of_another_repository(small: Small, truth: Contents, own: Small) -> None:
    (stranger, *_) = (own.path / "points").iterdir()
    copy = Path(shutil.copy(stranger, small.path / "points"))
    try:
        with small.open() as repository:
            (damage,) = verify(repository, level="structure").damages
            assert damage.where == f"points/{copy.name}"
            assert read_back(repository) == truth
    finally:
        copy.unlink()


def test_a_point_that_is_gone_is_forgotten_not_damaged(small: Small, truth: Contents) -> None:
    path, _ = sorted((small.path / "points").iterdir())
    with moved((path, small.home / "away")):
        assert damages_of(small, truth) == []
        assert verify_keyless(small.path).damages == []


def test_files_with_other_names_mean_nothing(small: Small, truth: Contents) -> None:
    strays = [
        small.path / "segments" / "notes.txt",
        small.segments()[0].with_name("notes.txt"),
        small.path / "points" / "notes.txt",
        small.path / "points" / ".new-0123",
    ]
    for stray in strays:
        stray.write_bytes(b"not ours")
    try:
        assert damages_of(small, truth) == []
        assert verify_keyless(small.path).damages == []
    finally:
        for stray in strays:
            stray.unlink()


def test_a_key_slot_under_anothers_name(own: Small) -> None:
    (path,) = (own.path / "keys").iterdir()
    path.rename(path.with_name("renamed"))
    (blind,) = verify_keyless(own.path).damages
    assert blind.where == "keys/renamed"
    with own.open() as repository:
        (damage,) = verify(repository, level="structure").damages
    assert damage.where == "keys/renamed"
