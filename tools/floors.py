#!/usr/bin/env python3
"""The floors: which module may import which, and a check that all of them keep to it.

A module imports only from its own floor and from lower ones, never in a circle; groups of a
floor that are strangers never import each other; some libraries stay where they belong. The
check reads every module with `ast`: imports inside functions and under TYPE_CHECKING count, and
so does `import_module("a.b")` with a literal name. docs/decisions.md gives the reasons.

    python -m tools.floors [ROOT]
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple


@dataclass(frozen=True)
class Floor:
    """One floor: groups of modules or packages. A package stands for all that is in it."""

    name: str
    groups: tuple[tuple[str, ...], ...]
    strangers: bool = False
    """Whether its groups must not import each other."""


FLOORS: Final = (
    Floor("words", (("repo", "repo.errors", "repo.types"),)),
    Floor("bytes", (("repo.format",),)),
    Floor("transforms", (("repo.kernel", "repo.keys"),)),
    Floor(
        "I/O",
        (("repo.storage",), ("repo.index",), ("repo.fileflags",), ("repo.hardening",)),
        strangers=True,
    ),
    Floor(
        "paths",
        (
            (
                "repo.closing",
                "repo.directory",
                "repo.kept",
                "repo.keyfile",
                "repo.lineage",
                "repo.merge",
                "repo.multiplexer",
                "repo.pointname",
                "repo.points",
                "repo.reach",
                "repo.reader",
                "repo.recovery",
                "repo.scanner",
                "repo.sealer",
                "repo.tree",
                "repo.unlock",
                "repo.writer",
            ),
        ),
    ),
    Floor("the door", (("repo.repository",),)),
    Floor("upkeep", (("repo.upkeep",),)),
    Floor("ingest and mount", (("ingest",), ("mount",)), strangers=True),
    Floor("tools", (("setup", "tools"),)),
    Floor("tests", (("tests",),)),
)

EXACT: Final = frozenset({"repo"})
"""Packages whose modules are listed one by one; an entry elsewhere covers all below it."""

HOMES: Final = {
    "lmdb": ("repo.index",),
    "pyfuse3": ("mount.operations", "mount.session"),
}
"""Libraries that only these modules import. Tests are free."""

BANNED: Final = {
    "repo.format": ("os", "io", "trio"),
    "repo.kernel": ("trio",),
}
"""Libraries that these packages never import."""

BANNED_BELOW: Final = {
    "ingest.worker": ("trio",),
}
"""Libraries that neither these modules nor anything they import, however far down, imports."""

_SKIPPED_FOLDERS: Final = frozenset({"build", "dist"})


class Import(NamedTuple):
    """One import: the line it stands on, what is imported, and as what it may be an attribute.

    `from a import b` is target `a.b`, which may be a module or a name in the module `a`.
    """

    line: int
    target: str
    container: str | None


@dataclass(frozen=True)
class Module:
    """A module of the project: its dotted name, its file, its imports."""

    name: str
    path: Path
    imports: tuple[Import, ...]
    only_docstring: bool

    @property
    def is_package(self) -> bool:
        """Whether this is an `__init__` file."""
        return self.path.stem == "__init__"


class Edge(NamedTuple):
    """An import of one project module by another, on a line of the first."""

    importer: str
    line: int
    imported: str


def within(name: str, places: Iterable[str]) -> bool:
    """Whether a module is one of `places` or lies inside one of them."""
    return any(name == place or name.startswith(place + ".") for place in places)


def locate(name: str) -> tuple[int, int] | None:
    """The numbers of a module's floor and group, or None when the table does not know it."""
    for number, floor in enumerate(FLOORS):
        for group, places in enumerate(floor.groups):
            if name in places or within(name, (place for place in places if place not in EXACT)):
                return number, group
    return None


def read_modules(root: Path) -> dict[str, Module]:
    """Parse every Python file below `root`, hidden folders and build results left out."""
    modules = {}
    for path in sorted([*root.rglob("*.py"), *root.rglob("*.pyi")]):
        parts = path.relative_to(root).with_suffix("").parts
        if any(part.startswith(".") or part in _SKIPPED_FOLDERS for part in parts):
            continue
        names = parts[:-1] if parts[-1] == "__init__" else parts
        name = ".".join(names)
        tree = ast.parse(path.read_bytes(), filename=str(path))
        package = parts[:-1]
        modules[name] = Module(
            name, path.relative_to(root), tuple(_imports(tree, package)), _only_docstring(tree)
        )
    return modules


def _only_docstring(tree: ast.Module) -> bool:
    return len(tree.body) == 1 and ast.get_docstring(tree) is not None


def _imports(tree: ast.Module, package: tuple[str, ...]) -> Iterator[Import]:
    """Every import in a module that lies in `package`, wherever in the module it stands."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                for alias in names:
                    yield Import(node.lineno, alias.name, None)
            case ast.ImportFrom(module=module, names=names, level=level):
                base = package[: len(package) - level + 1] if level else ()
                container = ".".join([*base, *([module] if module else [])])
                for alias in names:
                    yield Import(node.lineno, f"{container}.{alias.name}", container)
            case ast.Call(func=called, args=[ast.Constant(value=str(name)), *_]):
                if _is_import_function(called):
                    yield Import(node.lineno, name, None)


def _is_import_function(called: ast.expr) -> bool:
    name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", None)
    return name in {"import_module", "__import__"}


def complaints(root: Path) -> list[str]:
    """All that is wrong below `root`, one line each: `file:line: what`."""
    modules = read_modules(root)
    own = {name.partition(".")[0] for name in modules}
    found = [
        f"{module.path}:1: {module.name} is not in the table of floors (tools/floors.py)"
        for module in modules.values()
        if locate(module.name) is None
    ]
    found += [
        f"{module.path}:1: a package's __init__.py holds a docstring and nothing else"
        for module in modules.values()
        if module.is_package and not module.only_docstring
    ]
    edges: list[Edge] = []
    foreign: list[Edge] = []
    for module in modules.values():
        for item in module.imports:
            if item.target.partition(".")[0] not in own:
                foreign.append(Edge(module.name, item.line, item.target))
                continue
            imported = _resolve(item, modules)
            if imported is None:
                found.append(f"{module.path}:{item.line}: {item.target} does not exist")
            else:
                edges.append(Edge(module.name, item.line, imported))

    def line_of(edge: Edge, what: str) -> str:
        return f"{modules[edge.importer].path}:{edge.line}: {what}"

    found += [line_of(edge, what) for edge in edges if (what := _wrong_floor(edge))]
    found += [line_of(edge, what) for edge in foreign if (what := _wrong_library(edge))]
    found += [line_of(edge, what) for edge, what in _wrong_below(edges, foreign)]
    found += [line_of(edge, what) for edge, what in _cycles(edges)]
    return found


def _resolve(item: Import, modules: Mapping[str, Module]) -> str | None:
    """The project module that an import reaches, or None when there is none."""
    if item.target in modules:
        return item.target
    if item.container is None or item.container not in modules:
        return None
    # A package holds a docstring only, so what is named in it can be nothing but a module.
    return None if modules[item.container].is_package else item.container


def _wrong_floor(edge: Edge) -> str | None:
    """Say what is wrong with the direction of an import between project modules."""
    importer, imported = locate(edge.importer), locate(edge.imported)
    if importer is None or imported is None:
        return None  # complained about already: not in the table
    upper, lower = FLOORS[importer[0]], FLOORS[imported[0]]
    if imported[0] > importer[0]:
        return (
            f"{edge.importer} (floor {importer[0]}, {upper.name}) imports {edge.imported} "
            f"from above (floor {imported[0]}, {lower.name})"
        )
    if importer[0] == imported[0] and importer[1] != imported[1] and upper.strangers:
        return f"{edge.importer} imports {edge.imported}, but they are strangers"
    return None


def _wrong_library(edge: Edge) -> str | None:
    """Say what is wrong with the import of a library by this very module."""
    library = edge.imported.partition(".")[0]
    if within(edge.importer, ("tests",)):
        return None
    homes = HOMES.get(library)
    if homes is not None and not within(edge.importer, homes):
        return f"{edge.importer} imports {library}, which belongs to {' and '.join(homes)} only"
    for place, libraries in BANNED.items():
        if library in libraries and within(edge.importer, (place,)):
            return f"{edge.importer} imports {library}, which {place} never does"
    return None


def _wrong_below(edges: Iterable[Edge], foreign: Sequence[Edge]) -> Iterator[tuple[Edge, str]]:
    """Find banned libraries in what the modules of BANNED_BELOW import, and say by which way."""
    below = _neighbours(edges)
    for top, libraries in BANNED_BELOW.items():
        chains: dict[str, tuple[str, ...]] = {top: (top,)}
        pending = [top]
        while pending:
            name = pending.pop()
            for next_name in below.get(name, ()):
                if next_name not in chains:
                    chains[next_name] = (*chains[name], next_name)
                    pending.append(next_name)
        for edge in foreign:
            library = edge.imported.partition(".")[0]
            if library in libraries and edge.importer in chains:
                way = " -> ".join([*chains[edge.importer], library])
                yield edge, f"{top} must stay free of {library}: {way}"


def _neighbours(edges: Iterable[Edge]) -> dict[str, dict[str, Edge]]:
    """For each module what it imports, with the first import of it."""
    below: dict[str, dict[str, Edge]] = {}
    for edge in edges:
        below.setdefault(edge.importer, {}).setdefault(edge.imported, edge)
    return below


def _cycles(edges: Iterable[Edge]) -> Iterator[tuple[Edge, str]]:
    """Find circles of imports, one for each import that closes one, by depth-first search."""
    below = _neighbours(edges)
    finished: set[str] = set()
    for top in below:
        if top in finished:
            continue
        path = [top]
        branches = [iter(below[top].values())]
        while branches:
            edge = next(branches[-1], None)
            if edge is None:
                finished.add(path.pop())
                branches.pop()
            elif edge.imported in path:
                circle = [*path[path.index(edge.imported) :], edge.imported]
                yield edge, f"a circle of imports: {' -> '.join(circle)}"
            elif edge.imported not in finished:
                path.append(edge.imported)
                branches.append(iter(below.get(edge.imported, {}).values()))


def main(arguments: list[str]) -> int:
    """Check the tree at the first argument, or the one this file lies in; 1 when it is wrong."""
    root = Path(arguments[0]) if arguments else Path(__file__).resolve().parent.parent
    found = complaints(root)
    for line in found:
        print(line)
    if found:
        print(f"floors: {len(found)} wrong")
        return 1
    print("floors: every import goes down")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
