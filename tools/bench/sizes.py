"""A size: bytes as people write them."""

from __future__ import annotations

import re

import click

from repo.types import GIB, KIB, MIB, TIB

_UNITS = {"": 1, "K": KIB, "M": MIB, "G": GIB, "T": TIB}
_PATTERN = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)


class SizeType(click.ParamType[int]):
    """A size on the command line: 512M, 2GiB, 1.5G (powers of 1024), or plain bytes."""

    name = "size"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Bytes; a usage error when the text is no size."""
        if isinstance(value, int):
            return value
        match = _PATTERN.fullmatch(str(value).strip())
        if match is None:
            self.fail(f"{value!r} is not a size; write for example 512M or 2GiB", param, ctx)
        return int(float(match[1]) * _UNITS[match[2].upper()])
