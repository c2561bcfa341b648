"""`repo versions`: all versions of a path over time."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from repo.errors import UsageError
from repo.types import Kind
from tools.cli import human, jsonline
from tools.cli.find import chosen
from tools.cli.group import RepoCommand
from tools.cli.invocation import Invocation, pass_invocation
from tools.cli.output import Column

if TYPE_CHECKING:
    from repo.upkeep.versions import Version

COLUMNS = (
    Column("newest point", style="yellow"),
    Column("time"),
    Column("since"),
    Column("points", right=True),
    Column("kind"),
    Column("size", right=True),
    Column("modified"),
    Column("source", style="cyan", folds=True),
    Column("path", folds=True),
)


@click.command(cls=RepoCommand)
@click.argument("path")
@click.option("--source", metavar="SOURCE", help="Only in points of this source.")
@pass_invocation
def versions(run: Invocation, path: str, source: str | None) -> None:
    """Show all distinct versions of a path over time, the oldest first.

    PATH starts at the root of a source, or at that of the host when it lies in a source. A
    version is content and metadata; NEWEST POINT is the last one in a row of points that hold
    it, and SINCE the time of the first.
    """
    from repo.upkeep.versions import versions as versions_of

    with run.open() as repository, repository.lease("versions", reading=True):
        points = chosen(run, repository, source)
        found = versions_of(repository.tree, points, os.fsencode(path))
    if not found:
        raise UsageError(
            "no point holds this path", where=path, next_step="`repo find` looks for names"
        )
    if run.console.json:
        for version in found:
            run.console.emit(_as_json(version))
    else:
        run.console.table(COLUMNS, [_row(version) for version in found])


def _row(version: Version) -> tuple[str, ...]:
    entry, newest = version.entry, version.points[-1]
    size = entry.bytes_below if entry.kind == Kind.DIRECTORY else entry.size
    return (
        newest.id.hex()[:8],
        human.local_time(newest.received_ns),
        human.local_time(version.points[0].received_ns),
        human.count(len(version.points)),
        Kind(entry.kind).name.lower().replace("_", " "),
        human.size(size),
        human.local_time(entry.mtime_ns),
        human.printable(version.source_id),
        human.printable(version.path) or "/",
    )


def _as_json(version: Version) -> dict[str, Any]:
    entry = version.entry
    return {
        **jsonline.name("path", version.path),
        "source": version.source_id,
        "kind": Kind(entry.kind).name.lower(),
        "size": entry.size,
        "bytes_below": entry.bytes_below,
        "mode": f"{entry.mode:04o}",
        "uid": entry.uid,
        "gid": entry.gid,
        "mtime": human.utc_time(entry.mtime_ns),
        "points": [point.id.hex() for point in version.points],
        "first": human.utc_time(version.points[0].received_ns),
        "last": human.utc_time(version.points[-1].received_ns),
    }
