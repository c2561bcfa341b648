"""What a point holds, as plain data that can be compared with what was written down once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from repo.format.manifest import Point
from repo.format.node import Entry
from repo.repository import Repository
from repo.types import Kind


def contents(repository: Repository, point: Point) -> dict[str, Any]:
    """Every entry of a point by path, with the SHA-256 of its content."""
    return dict(_walk(repository, point.root, b""))


def write_contents(path: Path, found: dict[str, Any]) -> None:
    """Write it down, an entry a line."""
    lines = [f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in found.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def _walk(repository: Repository, directory: Entry, path: bytes) -> Iterator[tuple[str, Any]]:
    for entry in repository.tree.entries(directory):
        below = path + b"/" + entry.name
        yield below.decode("utf-8", "backslashreplace"), _described(repository, entry)
        if entry.kind == Kind.DIRECTORY:
            yield from _walk(repository, entry, below)


def _described(repository: Repository, entry: Entry) -> list[Any]:
    digest = hashlib.sha256()
    holes = 0
    if entry.kind == Kind.FILE:
        for extent in repository.tree.extents(entry):
            if extent.is_hole:
                holes += extent.length
            else:
                digest.update(repository.reader.chunk(extent.id))
    return [
        entry.kind, entry.mode, entry.uid, entry.gid, entry.mtime_ns, entry.nlink, entry.size,
        entry.target.decode(), entry.rdev, [(n.decode(), v.hex()) for n, v in entry.xattrs],
        holes, digest.hexdigest() if entry.size else "",
    ]  # fmt: skip
