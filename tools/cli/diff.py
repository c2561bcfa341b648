"""`repo diff`: in what two backup points differ."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

import click

from repo.types import Kind
from tools.cli import human, jsonline
from tools.cli.group import RepoCommand
from tools.cli.invocation import Invocation, pass_invocation

if TYPE_CHECKING:
    from repo.format.node import Entry
    from repo.upkeep.diff import Difference

_SIGNS: Final = {
    "added": ("+", "green"),
    "removed": ("-", "red"),
    "changed": ("M", "yellow"),
    "metadata": ("m", ""),
    "moved": (">", "cyan"),
}


@click.command(cls=RepoCommand)
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
@click.argument("path", default="")
@click.option(
    "-R", "--recursive", is_flag=True, help="List what is in added and removed directories, too."
)
@pass_invocation
def diff(run: Invocation, before: str, after: str, path: str, recursive: bool) -> None:
    """Show in what backup point B differs from A, below PATH if one is given.

    Each line is one path: + added, - removed, M changed content, m changed metadata only, >
    moved. An added, removed or moved directory stands for all that is in it. Entries are equal
    when a restore would make the same of them. Nothing is printed when both points are equal.
    """
    from repo.upkeep.diff import diff as difference_of
    from repo.upkeep.diff import everything_below

    start = b"/".join(part for part in os.fsencode(path).split(b"/") if part not in (b"", b"."))
    counts = dict.fromkeys(_SIGNS, 0)
    with run.open() as repository, repository.lease("diff", reading=True):
        old, new = repository.point(before), repository.point(after)
        tree = repository.tree
        differences = difference_of(
            tree,
            tree.resolve(old.root, start),
            tree.resolve(new.root, start),
            path=start,
            same_source=old.source_id == new.source_id,
            on_notice=run.notice,
        )
        for one in differences:
            counts[one.change] += 1
            _tell(run, one)
            whole = one.after or one.before
            if recursive and one.change in ("added", "removed") and whole is not None:
                for below, entry in everything_below(tree, one.path, whole):
                    sides = (None, entry) if one.change == "added" else (entry, None)
                    _tell(run, one._replace(path=below, before=sides[0], after=sides[1]))
    if not any(counts.values()):
        return
    if run.console.json:
        run.console.event("summary", **counts)
    else:
        run.console.hint(", ".join(f"{n:,} {name}" for name, n in counts.items() if n))


def _tell(run: Invocation, one: Difference) -> None:
    if run.console.json:
        run.console.emit(_as_json(one))
        return
    sign, style = _SIGNS[one.change]
    path = human.printable(one.path) or "/"
    if one.change == "moved":
        path = f"{human.printable(one.old_path)} -> {path}"
    entry = one.after or one.before
    if entry is not None and entry.kind == Kind.DIRECTORY and path != "/":
        path += "/"
    run.console.result(f"{run.console.styled(sign, style)} {path}{_remark(one, entry)}")


def _remark(one: Difference, entry: Entry | None) -> str:
    """What is worth knowing beside the path."""
    if one.change in ("added", "removed"):
        if entry is not None and entry.entries_below:
            within = human.plural(entry.entries_below, "entry", "entries")
            return f"  ({within}, {human.size(entry.bytes_below)})"
        return ""
    told = [aspect for aspect in one.aspects if aspect not in ("content", "mtime")]
    if one.change in ("metadata", "moved"):
        told = list(one.aspects)
    if one.before is not None and one.after is not None and one.before.kind != one.after.kind:
        kinds = [_kind(one.before), _kind(one.after)]
        told[told.index("kind")] = " -> ".join(kinds)
    return f"  ({', '.join(told)})" if told else ""


def _as_json(one: Difference) -> dict[str, Any]:
    entry = one.after or one.before
    if entry is None:
        raise AssertionError("a difference of nothing")
    record: dict[str, Any] = {
        "change": str(one.change),
        **jsonline.name("path", one.path),
        "kind": Kind(entry.kind).name.lower(),
    }
    if one.change == "moved":
        record |= jsonline.name("old_path", one.old_path)
    if one.aspects:
        record["aspects"] = list(one.aspects)
    for side, of in (("before", one.before), ("after", one.after)):
        if of is not None:
            record[side] = _side(of)
    return record


def _side(entry: Entry) -> dict[str, Any]:
    record: dict[str, Any] = {
        "kind": Kind(entry.kind).name.lower(),
        "mode": f"{entry.mode:04o}",
        "uid": entry.uid,
        "gid": entry.gid,
        "size": entry.size,
        "mtime": human.utc_time(entry.mtime_ns),
    }
    if entry.kind == Kind.DIRECTORY:
        record |= {"entries_below": entry.entries_below, "bytes_below": entry.bytes_below}
    return record


def _kind(entry: Entry) -> str:
    return Kind(entry.kind).name.lower().replace("_", " ")
