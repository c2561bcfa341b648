"""`repo ls`: browse the files of a backup point."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from repo.types import Kind
from tools.cli import human, jsonline
from tools.cli.group import RepoCommand
from tools.cli.invocation import Invocation, pass_invocation
from tools.cli.points import warnings_of

if TYPE_CHECKING:
    from repo.format.manifest import Point
    from repo.format.node import Entry
    from repo.tree import Tree

_FORMATS = {
    Kind.FILE: stat.S_IFREG,
    Kind.DIRECTORY: stat.S_IFDIR,
    Kind.SYMLINK: stat.S_IFLNK,
    Kind.FIFO: stat.S_IFIFO,
    Kind.SOCKET: stat.S_IFSOCK,
    Kind.CHARACTER_DEVICE: stat.S_IFCHR,
    Kind.BLOCK_DEVICE: stat.S_IFBLK,
}
_MARKS = {Kind.DIRECTORY: "/", Kind.SYMLINK: "@", Kind.FIFO: "|", Kind.SOCKET: "="}
_STYLES = {Kind.DIRECTORY: "blue", Kind.SYMLINK: "cyan"}


@click.command(cls=RepoCommand)
@click.argument("point")
@click.argument("path", default="")
@click.option("-l", "--long", is_flag=True, help="Mode, links, owner, size and time as well.")
@click.option("-R", "--recursive", is_flag=True, help="Everything below, each with its path.")
@pass_invocation
def ls(run: Invocation, point: str, path: str, long: bool, recursive: bool) -> None:
    """Browse the files of a backup point.

    POINT is an id prefix, latest, latest:SOURCE, or SOURCE@TIME. PATH starts at the root of
    the source; a leading slash does not matter. Symbolic links are shown, not followed.
    """
    with run.open() as repository:
        found = repository.point(point, unfinished=True)
        for text in warnings_of(found):
            run.notice(text)
        tree = repository.tree
        start = b"/".join(part for part in os.fsencode(path).split(b"/") if part not in (b"", b"."))
        entry = tree.resolve(found.root, start)
        for full, listed in _listing(tree, entry, start, recursive=recursive):
            if run.console.json:
                run.console.emit(_as_json(listed, full, found))
                continue
            name = full if recursive or listed is entry else listed.name
            style = _STYLES.get(Kind(listed.kind), "")
            shown = run.console.styled(human.printable(name), style)
            mark = _MARKS.get(Kind(listed.kind), "")
            run.console.result(_long_line(listed, shown, found) if long else shown + mark)


def _listing(
    tree: Tree, entry: Entry, path: bytes, *, recursive: bool
) -> Iterator[tuple[bytes, Entry]]:
    """What to list, each with its path from the root of the point."""
    if entry.kind != Kind.DIRECTORY:
        yield path, entry
        return
    # One iterator per level: memory follows the depth, not the size of the tree.
    levels = [(path, tree.entries(entry))]
    while levels:
        folder, entries = levels[-1]
        child = next(entries, None)
        if child is None:
            levels.pop()
            continue
        full = folder + b"/" + child.name if folder else child.name
        yield full, child
        if recursive and child.kind == Kind.DIRECTORY:
            levels.append((full, tree.entries(child)))


def _long_line(entry: Entry, shown: str, point: Point) -> str:
    mode = stat.filemode(_FORMATS[Kind(entry.kind)] | entry.mode)
    owner = point.users.get(str(entry.uid), str(entry.uid))
    group = point.groups.get(str(entry.gid), str(entry.gid))
    line = (
        f"{mode} {entry.nlink:>3} {human.printable(owner):<8} {human.printable(group):<8} "
        f"{_size(entry):>9} {human.local_time(entry.mtime_ns)} {shown}"
    )
    if entry.kind == Kind.SYMLINK:
        line += f" -> {human.printable(entry.target)}"
    if entry.absent:
        line += f"  (content not in the point: {human.printable(entry.absent)})"
    return line


def _size(entry: Entry) -> str:
    if entry.kind in (Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE):
        return f"{os.major(entry.rdev)},{os.minor(entry.rdev)}"
    if entry.kind == Kind.DIRECTORY:
        return human.size(entry.bytes_below)
    return human.size(entry.size)


def _as_json(entry: Entry, name: bytes, point: Point) -> dict[str, Any]:
    record: dict[str, Any] = {
        **jsonline.name("path", name),
        "kind": Kind(entry.kind).name.lower(),
        "mode": f"{entry.mode:04o}",
        "uid": entry.uid,
        "gid": entry.gid,
        "user": point.users.get(str(entry.uid)),
        "group": point.groups.get(str(entry.gid)),
        "size": entry.size,
        "mtime": human.utc_time(entry.mtime_ns),
        "ctime": human.utc_time(entry.ctime_ns),
        "inode": entry.inode,
        "nlink": entry.nlink,
    }
    if entry.kind == Kind.SYMLINK:
        record |= jsonline.name("target", entry.target)
    if entry.kind == Kind.DIRECTORY:
        record |= {"entries_below": entry.entries_below, "bytes_below": entry.bytes_below}
    if entry.kind in (Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE):
        record |= {"device": [os.major(entry.rdev), os.minor(entry.rdev)]}
    if entry.xattrs:
        record["xattrs"] = [name.decode(errors="backslashreplace") for name, _ in entry.xattrs]
    if entry.absent:
        record["absent"] = entry.absent
    return record
