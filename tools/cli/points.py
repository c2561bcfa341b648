"""`repo points`: the list of backup points."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from repo.errors import Damaged
from tools.cli import human
from tools.cli.group import RepoCommand
from tools.cli.invocation import Invocation, pass_invocation
from tools.cli.output import Column

if TYPE_CHECKING:
    from repo.format.manifest import Point

COLUMNS = (
    Column("point", style="yellow"),
    Column("time"),
    Column("source", style="cyan", folds=True),
    Column("files", right=True),
    Column("size", right=True),
    Column("new", right=True),
    Column("problems", right=True),
    Column("lost", right=True, style="red"),
    Column("tags", folds=True),
)


@click.command(cls=RepoCommand)
@click.option("--source", metavar="SOURCE", help="Only the points of this source.")
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="Only points with this tag.")
@click.option("--last", type=click.IntRange(min=1), metavar="N", help="Only the last N.")
@click.option("--unfinished", is_flag=True, help="What runs have read that did not end.")
@pass_invocation
def points(
    run: Invocation,
    source: str | None,
    tags: tuple[str, ...],
    last: int | None,
    unfinished: bool,
) -> int:
    """List the backup points, the oldest first.

    TIME is local, and SIZE is that of the source; NEW is what the repository did not have
    before, uncompressed.

    With --unfinished: the last checkpoints of runs that were killed, or are at work. They can
    be shown, browsed, mounted and restored by their ids like points, but a part of the source is
    missing. Backing up the same source again resumes there, and drops them when it is done.
    """
    damages: list[Damaged] = []
    with run.open() as repository:
        listed = repository.unfinished if unfinished else repository.points
        found = [
            point
            for point in listed(on_damage=damages.append)
            if (source is None or point.source_id == source) and set(tags) <= set(point.tags)
        ]
    if last is not None:
        found = found[-last:]
    if run.console.json:
        for point in found:
            run.console.emit(as_json(point))
    elif found:
        run.console.table(COLUMNS, [row(point) for point in found])
    elif unfinished:
        run.console.hint("No unfinished points.")
    else:
        run.console.hint("No points. `repo ingest PATH` makes one.")
    for damage in damages:
        run.notice(str(damage))
    return Damaged.exit_status if damages else 0


UNFINISHED: Final = (
    "unfinished: the last checkpoint of a run that has not ended, a part of the source is missing"
)


def row(point: Point) -> tuple[str, ...]:
    """A point as a row of the table."""
    done = point.statistics
    return (
        point.id.hex()[:8],
        human.local_time(point.received_ns),
        human.printable(point.source_id),
        human.count(done.files),
        human.size(done.bytes_source),
        human.size(done.bytes_new),
        human.count(point.problems_total) if point.problems_total else "-",
        lost(point) or "-",
        human.printable(" ".join(point.tags)),
    )


def lost(point: Point) -> str:
    """What is known to be lost of a point, in words; "" when it is whole."""
    loss = point.loss
    if not loss.noted_ns:
        return ""
    files = human.plural(loss.files, "file")
    if not loss.directories:
        return files
    directories = human.plural(loss.directories, "directory", "directories")
    return f"{files}, {directories}" if loss.files else directories


def as_json(point: Point) -> dict[str, Any]:
    """A point as `repo points --json` and `repo show --json` print it."""
    done = point.statistics
    return {
        "point": point.id.hex(),
        "source": point.source_id,
        "source_path": point.source_path,
        "host": point.host,
        "created": human.utc_time(point.created_ns),
        "received": human.utc_time(point.received_ns),
        "tags": list(point.tags),
        "files": done.files,
        "directories": done.directories,
        "files_reused": done.files_reused,
        "bytes_source": done.bytes_source,
        "bytes_read": done.bytes_read,
        "bytes_new": done.bytes_new,
        "bytes_stored": done.bytes_stored,
        "seconds": done.seconds,
        "problems": point.problems_total,
        "files_lost": point.loss.files,
        "directories_lost": point.loss.directories,
        "bytes_lost": point.loss.bytes_lost,
        "origin": _origin(point),
        "change_source": point.change_source,
        "verdict": point.verdict,
        "delta_of": point.base.hex() if point.delta else None,
        "made_from": [point_id.hex() for point_id in point.synthesis.points],
        "unfinished": point.unfinished,
        "snapshot": {
            "provider": point.snapshot.provider,
            "consistency": point.snapshot.consistency,
            "identity": point.snapshot.identity,
        },
    }


def _origin(point: Point) -> dict[str, str] | None:
    if not point.origin.point:
        return None
    return {"repository": point.origin.repository.hex(), "point": point.origin.point.hex()}


def warnings_of(point: Point) -> list[str]:
    """What whoever gets a point back must know first: that it is not whole."""
    name = point.id.hex()[:8]
    found: list[str] = []
    if point.unfinished:
        found.append(f"point {name} is {UNFINISHED}")
    if point.loss.noted_ns:
        found.append(
            f"point {name} is marked: {lost(point)} of it lost content "
            f"(`repo show {name} --problems` names them)"
        )
    return found
