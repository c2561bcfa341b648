"""`repo show`: everything that a backup point says of itself."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

import click

from repo.errors import Damaged
from tools.cli import human, jsonline
from tools.cli.group import RepoCommand
from tools.cli.invocation import Invocation, pass_invocation
from tools.cli.points import UNFINISHED, as_json, lost
from tools.cli.progress import problem_line

if TYPE_CHECKING:
    from repo.format.manifest import Point, Problem
    from repo.format.pin import Pin
    from repo.repository import Repository

PROBLEMS_SHOWN = 20
MADE_FROM_SHOWN = 8


@click.command(cls=RepoCommand)
@click.argument("point")
@click.option("--problems", "all_problems", is_flag=True, help="Show all problems, not the first.")
@pass_invocation
def show(run: Invocation, point: str, all_problems: bool) -> None:
    """Explain one backup point.

    POINT is an id prefix, latest, latest:SOURCE, or SOURCE@TIME. With --json the object of
    `repo points --json` comes first, then one object per problem.
    """
    from repo.points import read_pin
    from repo.types import PointId

    with run.open() as repository:
        found = repository.point(point, unfinished=True, stored=True)
        pin = read_pin(repository.folder, repository.keys, PointId(found.id))
        problems = problems_of(repository, found)
        if run.console.json:
            run.console.emit(
                {**as_json(found), "root": found.root.node.hex(), "pin": _pin_as_json(pin)}
            )
            for problem in problems:
                run.console.emit(_problem_as_json(problem))
            return
        run.console.fields([*_fields(found), ("Pinned", _pin(pin))])
        shown = problems if all_problems else islice(problems, PROBLEMS_SHOWN)
        for problem in shown:
            run.console.result(f"  {problem_line(*_parts(problem))}")
        if not all_problems and found.problems_total > PROBLEMS_SHOWN:
            left = human.count(found.problems_total - PROBLEMS_SHOWN)
            run.console.hint(f"  and {left} more: repo show {found.id.hex()[:8]} --problems")


def problems_of(repository: Repository, point: Point) -> Iterator[Problem]:
    """The problems of a point, read list by list."""
    from repo.format.manifest import Problem, parse_problems
    from repo.types import ChunkId

    for chunk_id in point.problems:
        try:
            data = bytes(repository.reader.chunk(ChunkId(chunk_id)))
        except Damaged as damage:
            yield Problem(b"", "lost", 0, f"a list of problems cannot be read: {damage.what}")
            continue
        yield from parse_problems(data, where=f"problems of point {point.id.hex()[:8]}")


def _parts(problem: Problem) -> tuple[bytes, str, int, str]:
    return problem.path, problem.step, problem.errno, problem.detail


def _problem_as_json(problem: Problem) -> dict[str, object]:
    return {
        "event": "problem",
        **jsonline.name("path", problem.path),
        "step": problem.step,
        "errno": problem.errno,
        "message": problem.detail,
    }


def _fields(point: Point) -> Iterator[tuple[str, str]]:
    done = point.statistics
    yield "Point", point.id.hex()
    if point.unfinished:
        yield "State", UNFINISHED
    yield "Source", human.printable(point.source_id)
    yield "Path", human.printable(point.source_path)
    yield "Host", human.printable(point.host)
    yield "Begun", human.local_time_and_zone(point.created_ns)
    yield "Received", human.local_time_and_zone(point.received_ns)
    yield "Tags", human.printable(" ".join(point.tags))
    yield "Snapshot", _snapshot(point)
    yield "Changes", _changes(point)
    yield "Made from", _synthesis(point)
    yield "Delta of", point.base.hex() if point.delta else ""
    content = [
        human.plural(done.files, "file"),
        human.plural(done.directories, "directory", "directories"),
        human.size(done.bytes_source),
    ]
    yield "Content", ", ".join(content)
    if done.files_reused:
        share = human.percent(done.files_reused, done.files)
        yield "Unchanged", f"{human.plural(done.files_reused, 'file')} ({share}), not read again"
    stored = [
        f"{human.size(done.bytes_read)} read",
        f"{human.size(done.bytes_new)} new",
        f"{human.size(done.bytes_stored)} written in {human.duration(done.seconds)}",
    ]
    yield "Stored", ", ".join(stored)
    yield "Root", point.root.node.hex()
    if point.origin.point:
        origin = point.origin
        yield "Copy of", f"{origin.point.hex()} in the repository {origin.repository.hex()[:8]}"
    if lost(point):
        when = human.local_time_and_zone(point.loss.noted_ns)
        yield "Lost", f"{lost(point)}, {human.size(point.loss.bytes_lost)}; found {when}"
    yield "Problems", human.count(point.problems_total) if point.problems_total else "none"


def _pin(pin: Pin | None) -> str:
    if pin is None:
        return ""
    until = f"held until {human.local_time(pin.until_ns)}" if pin.until_ns else "until unpinned"
    why = f", {human.printable(pin.reason)}" if pin.reason else ""
    return f"{until}{why} (by {human.printable(pin.made_by) or 'somebody'})"


def _pin_as_json(pin: Pin | None) -> dict[str, object] | None:
    if pin is None:
        return None
    return {
        "reason": pin.reason,
        "since": human.utc_time(pin.pinned_ns),
        "until": human.utc_time(pin.until_ns) if pin.until_ns else None,
        "by": pin.made_by,
    }


def _synthesis(point: Point) -> str:
    """What a synthetic point was made from; empty for others."""
    made = point.synthesis
    if not made.made_ns:
        return ""
    shown = " ".join(point_id.hex()[:8] for point_id in made.points[:MADE_FROM_SHOWN])
    if len(made.points) > MADE_FROM_SHOWN:
        shown += f" and {len(made.points) - MADE_FROM_SHOWN} more"
    lines = [f"{shown}, on {human.local_time(made.made_ns)}"]
    return "\n".join([*lines, *(human.printable(rule) for rule in made.rules)])


def _changes(point: Point) -> str:
    source = human.printable(point.change_source)
    words = {
        "FULL": "every file was looked at and read",
        "HINT": f"unchanged files were taken over by their times and sizes (from: {source})",
        "EXACT": f"an exact list of changes was followed (from: {source})",
    }.get(point.verdict, f"from: {source}")
    return f"{human.printable(point.verdict)}: {words}"


def _snapshot(point: Point) -> str:
    snapshot = point.snapshot
    consistency = {
        "none": "a live tree, read while it may have changed",
        "crash": "consistent as after a power cut",
        "fs": "consistent for the file system",
        "app": "consistent for the applications",
    }.get(snapshot.consistency, snapshot.consistency)
    lines = [f"{human.printable(snapshot.provider)}: {human.printable(consistency)}"]
    lines += [
        f"{human.printable(name)} = {human.printable(value)}"
        for name, value in sorted(snapshot.identity.items())
    ]
    return "\n".join(lines)
