"""The inputs of the benchmark: made once, the same everywhere, and told when they cannot be had."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from repo.errors import JobFailed, UsageError
from repo.types import GIB, KIB, MIB
from tools.bench import inputs
from tools.bench.sizes import SizeType


def test_a_census_counts_and_finds_the_largest(source: Path) -> None:
    census = inputs.take_census(source)
    assert (census.files, census.directories, census.others) == (4, 2, 1)
    assert census.content_bytes == 6000 + 64 * MIB
    assert census.largest[0] == (source / "large", 64 * MIB)
    inputs.warm(source)


def test_an_input_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(JobFailed, match="cannot be read"):
        inputs.take_census(tmp_path / "missing")
    with pytest.raises(UsageError, match="not a directory"):
        inputs.given_source(tmp_path / "missing")


def test_the_large_input_is_made_once_and_is_the_same_everywhere(
    source: Path, tmp_path: Path
) -> None:
    said: list[str] = []

    def make(store: str) -> inputs.Source:
        return inputs.large_source(
            tmp_path / store,
            tar_bytes=2 * MIB + 1,
            random_bytes=MIB + 17,
            say=said.append,
            top=source,
        )

    one, again, other = make("a"), make("a"), make("b")
    assert one == again
    assert len(said) == 2
    assert sorted(path.name for path in one.path.iterdir()) == ["random.bin", "source.tar"]
    assert (one.path / "source.tar").stat().st_size == 2 * MIB + 1
    assert (one.path / "random.bin").stat().st_size == MIB + 17
    assert (one.path / "random.bin").read_bytes() == (other.path / "random.bin").read_bytes()
    assert one.name == "part of large"


def test_an_input_half_made_is_not_taken_for_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(target: Path, size: int) -> None:
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(inputs, "_write_random", fail)
    with pytest.raises(OSError, match="No space"):
        inputs.large_source(
            tmp_path / "store", tar_bytes=1, random_bytes=1, say=lambda _: None, top=Path("/usr")
        )
    assert list((tmp_path / "store").iterdir()) == []


def test_a_missing_package_is_told_with_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "LINUX_ARCHIVE", tmp_path / "missing.tar.xz")
    with pytest.raises(UsageError, match=r"apt-get install linux-source-6\.1"):
        inputs.linux_source(tmp_path, install=False, say=lambda _: None)


@pytest.mark.parametrize(
    ("text", "size"), [("17", 17), ("4K", 4 * KIB), ("1.5m", 3 * MIB // 2), ("2 GiB", 2 * GIB)]
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert SizeType().convert(text, None, None) == size


@pytest.mark.parametrize("text", ["", "G", "3q", "-1"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        SizeType().convert(text, None, None)
