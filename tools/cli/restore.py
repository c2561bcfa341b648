"""`repo restore`: bring a backup point, or parts of it, back to a folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from repo.errors import Damaged
from tools.cli import human, jsonline
from tools.cli.group import RepoCommand
from tools.cli.invocation import Invocation, pass_invocation
from tools.cli.parameters import STREAMS
from tools.cli.points import warnings_of
from tools.cli.progress import ProgressState, Reporter, StreamState, Wording, problem_line

if TYPE_CHECKING:
    from mount.restore import Problem, RestoreProgress, RestoreSummary

DONE_WITH_PROBLEMS: Final = 3
PROBLEMS_SHOWN: Final = 20
WORDING: Final = Wording("Restoring", noun="entries", verb="done")


@click.command(cls=RepoCommand)
@click.argument("point")
@click.argument("paths", nargs=-1, metavar="[PATH...]")
@click.option(
    "--to",
    required=True,
    metavar="DIR",
    type=click.Path(file_okay=False),
    help="Where the root of the point goes; made when missing.",
)
@click.option(
    "--streams",
    type=STREAMS,
    metavar="N|auto",
    help="At most so many parallel streams; auto: as many as processors.",
)
@pass_invocation
def restore(
    run: Invocation, point: str, paths: tuple[str, ...], to: str, streams: int | str | None
) -> int:
    """Restore a backup point, or parts of it.

    POINT is an id prefix, latest, latest:SOURCE, or SOURCE@TIME. The root of the point is
    restored as DIR itself, and a PATH, from the root of the point, at its place below DIR.

    In a folder that is there already only what differs is written; files that the point does
    not have are left alone. The exit status is 3 when something could not be restored as it
    was, 4 when the repository is damaged.
    """
    from mount.restore import restore as restore_point

    with run.open() as repository, run.console.reporter(WORDING) as reporter:
        found = repository.point(point, unfinished=True)
        for text in warnings_of(found):
            reporter.notice(text)
        summary = restore_point(
            repository,
            found,
            paths=[os.fsencode(path) for path in paths],
            to=Path(to),
            streams=streams if isinstance(streams, int) else 0,
            on_progress=lambda state: reporter.update(_progress(state)),
            on_notice=reporter.notice,
        )
        reporter.close()
    if run.console.json:
        for problem in summary.problems:
            run.console.event("problem", **_problem_as_json(problem))
        run.console.event("summary", point=found.id.hex(), to=to, **as_json(summary))
    else:
        _tell_problems(reporter, summary)
        _tell(run, summary, found.id.hex(), to)
    if summary.damaged:
        return Damaged.exit_status
    return DONE_WITH_PROBLEMS if summary.problems_total else 0


def _progress(state: RestoreProgress) -> ProgressState:
    return ProgressState(
        items=state.files + state.directories,
        items_expected=state.entries_expected or None,
        bytes_in=state.bytes,
        bytes_expected=state.bytes_expected or None,
        problems=state.problems,
        streams=[StreamState(stream.number, stream.path) for stream in state.streams],
    )


def _tell_problems(reporter: Reporter, summary: RestoreSummary) -> None:
    for problem in summary.problems[:PROBLEMS_SHOWN]:
        line = problem_line(problem.path, problem.step, problem.errno, problem.detail)
        more = f" (and {human.count(problem.count - 1)} more alike)" if problem.count > 1 else ""
        reporter.notice(line + more)
    left = summary.problems_total - sum(p.count for p in summary.problems[:PROBLEMS_SHOWN])
    if left > 0:
        reporter.notice(f"and {human.plural(left, 'problem')} more: --json names them")


def _tell(run: Invocation, summary: RestoreSummary, point: str, to: str) -> None:
    say = run.console.say
    speed = summary.bytes / summary.seconds if summary.seconds else 0
    say(
        f"Restored {human.plural(summary.files, 'file')} in "
        f"{human.plural(summary.directories, 'directory', 'directories')}, "
        f"{human.size(summary.bytes)}, "
        f"in {human.duration(summary.seconds)} ({human.size(speed)}/s)"
    )
    if summary.files_unchanged:
        say(
            f"{human.plural(summary.files_unchanged, 'file')} had their content already: "
            f"{human.size(summary.bytes_written)} written"
        )
    name = run.console.styled(point[:8], "yellow")
    problems = ""
    if summary.problems_total:
        problems = f"  ({human.plural(summary.problems_total, 'problem')})"
    say(f"Point {name} is in {human.printable(to)}{problems}")


def _problem_as_json(problem: Problem) -> dict[str, Any]:
    return {
        **jsonline.name("path", problem.path),
        "step": problem.step,
        "errno": problem.errno,
        "message": problem.detail,
        "count": problem.count,
        "damaged": problem.damaged,
    }


def as_json(summary: RestoreSummary) -> dict[str, Any]:
    """The figures of a restore."""
    return {
        "files": summary.files,
        "directories": summary.directories,
        "bytes": summary.bytes,
        "bytes_written": summary.bytes_written,
        "files_unchanged": summary.files_unchanged,
        "problems": summary.problems_total,
        "damaged": summary.damaged,
        "streams": summary.streams,
        "seconds": round(summary.seconds, 3),
    }
