"""Versions: what a path was over time, each distinct content and metadata once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from repo.format.manifest import Point
from repo.format.node import Entry
from repo.tree import Tree
from repo.types import Kind
from repo.upkeep.find import same_version


@dataclass
class Version:
    """A version of a path: its entry, and the points in a row that hold it, the oldest first."""

    source_id: str
    path: bytes
    entry: Entry
    points: list[Point] = field(default_factory=list)


def versions(tree: Tree, points: Iterable[Point], path: bytes) -> list[Version]:
    """All versions of a path, by source, the oldest first. A version that came back counts again.

    The path starts at the root of a source, or is one of the host that lies in the source.
    Raises Damaged.
    """
    found: dict[tuple[str, bytes], list[Version]] = {}
    missed: set[tuple[str, bytes]] = set()
    looked_up = _LookUp(tree)
    for point in sorted(points, key=lambda one: (one.received_ns, one.id)):
        for names in candidates(path, point):
            key = point.source_id, b"/".join(names)
            entry = looked_up(point.root, names)
            if entry is None:
                missed.add(key)
                continue
            held = found.setdefault(key, [])
            if not held or key in missed or not same_version(held[-1].entry, entry):
                held.append(Version(point.source_id, key[1], entry))
            missed.discard(key)
            held[-1].points.append(point)
            break
    return [version for key in sorted(found) for version in found[key]]


def candidates(path: bytes, point: Point) -> list[list[bytes]]:
    """The names that a path may mean below the root of a point."""
    names = [name for name in path.split(b"/") if name not in (b"", b".")]
    above = point.source_path.encode("utf-8", "surrogateescape").split(b"/")
    above = [name for name in above if name]
    if path.startswith(b"/") and above and names[: len(above)] == above:
        return [names, names[len(above) :]]
    return [names]


class _LookUp:
    """Looks paths up; a directory that many points share is looked into once."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._known: dict[tuple[bytes, bytes], Entry | None] = {}

    def __call__(self, root: Entry, names: list[bytes]) -> Entry | None:
        entry: Entry | None = root
        for name in names:
            if entry is None or entry.kind != Kind.DIRECTORY:
                return None
            key = entry.node, name
            if key not in self._known:
                self._known[key] = self._tree.lookup(entry, name)
            entry = self._known[key]
        return entry
