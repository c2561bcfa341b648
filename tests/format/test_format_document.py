"""FORMAT.md is the specification: its byte tables must be those of the code."""

from __future__ import annotations

import re
from pathlib import Path
from struct import Struct

import pytest

from repo.format import frame, header, keyslot, manifest, node, place, segment

_DOCUMENT = Path(frame.__file__).with_name("FORMAT.md")

# Section -> the Struct(s) that pack its bytes, one behind the other.
_TABLES: dict[str, tuple[Struct, ...]] = {
    "Header": (header.HEADER_FIELDS,),
    "Key slot": (keyslot.KEY_SLOT_FIELDS,),
    "Segment header": (segment._HEADER, segment._CHECKSUM),
    "Frame head": (frame._HEAD,),
    "Frame body": (frame.CHUNK_ROW,),
    "Footer table": (segment._FRAME, segment.CHUNK_ROW),
    "Segment trailer": (segment._TRAILER, segment._CHECKSUM),
    "Node": (node._NODE,),
    "Page": (node._PAGE,),
    "Extent row": (node.EXTENT_ROW,),
    "Extent page": (node._EXTENTS,),
    "Point head": (manifest._HEAD,),
    "Index value": (place._PLACE,),
    "Frame table row": (frame.TABLE_ROW,),
}

_ROW = re.compile(r"^\| (\d+) \| (\d+) \| ([^|]+) \|", re.MULTILINE)


def _section(title: str) -> str:
    text = _DOCUMENT.read_text(encoding="utf-8")
    match = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    assert match, f"FORMAT.md has no section {title}"
    return match.group(1)


def _widths(struct: Struct) -> list[int]:
    """The width of each field of a Struct, reserved bytes among them."""
    return [
        Struct(f"<{count or 1}{code}").size if code in "sx" else Struct(f"<{code}").size
        for count, code in re.findall(r"(\d*)([a-zA-Z])", struct.format)
    ]


@pytest.mark.parametrize("title", _TABLES)
def test_a_table_has_the_fields_of_the_code(title: str) -> None:
    rows = [(int(offset), int(width)) for offset, width, _ in _ROW.findall(_section(title))]
    expected: list[tuple[int, int]] = []
    joined = title != "Footer table"  # its two rows each begin at 0
    offset = 0
    for struct in _TABLES[title]:
        offset = offset if joined else 0
        for width in _widths(struct):
            expected.append((offset, width))
            offset += width
    assert rows == expected


def test_the_fields_of_an_entry_are_listed_in_order() -> None:
    listed = re.findall(
        r"^\| (\w+) \| (?:bytes|int|array|text) \|", _section("Entry"), re.MULTILINE
    )
    assert tuple(listed) == node.Entry.__struct_fields__


def test_the_fields_of_a_manifest_are_named() -> None:
    text = _section("Manifest")
    assert [f for f in manifest.Point.__struct_fields__ if f not in text] == []
