"""`repo find`: names and globs across the backup points."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from repo.types import Kind
from tools.cli import human, jsonline
from tools.cli.group import RepoCommand
from tools.cli.invocation import Invocation, pass_invocation

if TYPE_CHECKING:
    from repo.format.manifest import Point
    from repo.repository import Repository
    from repo.upkeep.find import Match

_KINDS: Final = {"file": Kind.FILE, "directory": Kind.DIRECTORY, "symlink": Kind.SYMLINK}


@click.command(cls=RepoCommand)
@click.argument("pattern")
@click.option("--source", metavar="SOURCE", help="Only in points of this source.")
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="Only in points with this tag.")
@click.option("--point", "specs", multiple=True, metavar="POINT", help="Only in this point.")
@click.option("--type", "types", multiple=True, type=click.Choice(sorted(_KINDS)))
@click.option("-i", "--ignore-case", is_flag=True, help="Upper and lower case are the same.")
@pass_invocation
def find(
    run: Invocation,
    pattern: str,
    source: str | None,
    tags: tuple[str, ...],
    specs: tuple[str, ...],
    types: tuple[str, ...],
    ignore_case: bool,
) -> None:
    """Find names in the backup points.

    PATTERN without a slash is looked for among all names; a/b among the last names of paths;
    /a/b is a whole path, from the root of a source or from that of its host. *, ? and [...] stay
    within a name, ** stands for any number of directories, a slash at the end asks for
    directories. Each version of a path is listed once, with the newest point that holds it.
    """
    from repo.upkeep.find import find as find_in
    from repo.upkeep.pattern import Pattern

    wanted = Pattern(pattern, ignore_case=ignore_case)
    with run.open() as repository, repository.lease("find", reading=True):
        points = chosen(run, repository, source, tags, specs)
        for match in find_in(
            repository.tree, points, wanted, kinds=[_KINDS[name] for name in types]
        ):
            _tell(run, match)


def chosen(
    run: Invocation,
    repository: Repository,
    source: str | None,
    tags: tuple[str, ...] = (),
    specs: tuple[str, ...] = (),
) -> list[Point]:
    """The points that options name; all of them without any."""
    if specs:
        points = list({point.id: point for point in map(repository.point, specs)}.values())
    else:
        points = repository.points(on_damage=lambda damage: run.notice(str(damage)))
    return [
        repository.resolved(point)
        for point in points
        if (source is None or source in (point.source_id, point.source_path))
        and set(tags) <= set(point.tags)
    ]


def _tell(run: Invocation, match: Match) -> None:
    point, path, entry = match
    if run.console.json:
        run.console.emit(_as_json(match))
        return
    size = entry.bytes_below if entry.kind == Kind.DIRECTORY else entry.size
    shown = human.printable(path) + ("/" if entry.kind == Kind.DIRECTORY else "")
    run.console.result(
        f"{run.console.styled(point.id.hex()[:8], 'yellow')}  "
        f"{human.local_time(point.received_ns)}  {human.size(size):>8}  "
        f"{human.local_time(entry.mtime_ns)}  {shown}"
    )


def _as_json(match: Match) -> dict[str, Any]:
    point, path, entry = match
    return {
        "point": point.id.hex(),
        "source": point.source_id,
        "received": human.utc_time(point.received_ns),
        **jsonline.name("path", path),
        "kind": Kind(entry.kind).name.lower(),
        "size": entry.size,
        "mtime": human.utc_time(entry.mtime_ns),
    }
