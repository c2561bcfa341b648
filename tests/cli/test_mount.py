"""What the options of `repo mount` take."""

from __future__ import annotations

import click
import pytest

from repo.types import GIB, KIB, MIB
from tools.cli.mount import Octal, Size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("256MiB", 256 * MIB),
        ("1G", GIB),
        ("1 gb", GIB),
        ("8192K", 8192 * KIB),
        ("4194304", 4 * MIB),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert Size().convert(text, None, None) == size


@pytest.mark.parametrize("text", ["", "MiB", "-1M", "1.5G", "1X", "1M", "256 mebi"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(click.BadParameter):
        Size().convert(text, None, None)


@pytest.mark.parametrize(("text", "bits"), [("022", 0o22), ("77", 0o77), ("0777", 0o777)])
def test_octal_numbers(text: str, bits: int) -> None:
    assert Octal().convert(text, None, None) == bits


@pytest.mark.parametrize("text", ["8", "0o22", "-22", "1777", ""])
def test_what_is_no_octal_number(text: str) -> None:
    with pytest.raises(click.BadParameter):
        Octal().convert(text, None, None)
