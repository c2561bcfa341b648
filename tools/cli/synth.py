"""`repo synth`: make a full backup point from others, without reading the source."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

import click

from repo.errors import UsageError
from tools.cli import human
from tools.cli.group import RepoCommand
from tools.cli.invocation import Invocation, pass_invocation
from tools.cli.parameters import STREAMS
from tools.cli.progress import ProgressState, Wording
from tools.cli.stopping import stop_signals
from tools.cli.version import VERSION

if TYPE_CHECKING:
    from repo.repository import Repository
    from repo.upkeep.layers import Take
    from repo.upkeep.relayout import RelayoutFigures
    from repo.upkeep.synth import SynthProgress, SynthRequest, SynthSummary

WORDING: Final = Wording("Making a synthetic full", noun="nodes", verb="made")


@click.command(cls=RepoCommand)
@click.argument("points", nargs=-1, metavar="[POINT...]")
@click.option("--prefer", multiple=True, metavar="POINT", help="This point wins where it can.")
@click.option(
    "--take",
    "takes",
    multiple=True,
    metavar="POINT:PATH=/AT",
    help="Put this part of a point at a place in the result, whatever else is there.",
)
@click.option(
    "--relayout",
    is_flag=True,
    help="Rewrite the chunks in restore order, so that it is read as fast as a first backup.",
)
@click.option(
    "--streams", type=STREAMS, metavar="N|auto", help="Threads; auto: as many as processors."
)
@click.option("--source-id", metavar="ID", help="The source of the new point.")
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="Mark the new point.")
@click.option("--dry-run", is_flag=True, help="Merge and count, but store and publish nothing.")
@pass_invocation
def synth(run: Invocation, /, points: tuple[str, ...], **options: Any) -> None:
    """Make a full backup point from others, without reading the source.

    Points of one source: the newest is its state, and what was deleted stays so; older ones give
    the files that it could not read. Points of several sources lie in one tree, at each path the
    newest of them. --prefer and --take (both repeatable) change that path by path. The new
    point stands at the time of the newest one, and keeps the source's name unless points of
    several sources, or rules, made something else of it.

    --relayout is for a repository of many generations, whose newest points lie in many places.
    What is rewritten is stored a second time until `repo gc` removes the first.
    """
    from repo.upkeep.synth import synthesize

    dry_run = options["dry_run"]
    with (
        run.open() as repository,
        stop_signals() as stopped,
        run.console.reporter(WORDING) as reporter,
    ):
        summary = synthesize(
            repository,
            _request(repository, points, options),
            on_progress=lambda state: reporter.update(_progress(state)),
            on_notice=reporter.notice,
            stopped=stopped,
        )
        reporter.close()
    layout = summary.layout
    if layout is not None and layout.chunks_lost:
        run.notice(
            f"{human.plural(layout.chunks_lost, 'chunk')} that marked points have lost: the others "
            "were laid out"
        )
    if run.console.json:
        run.console.event("summary", **_as_json(summary, dry_run=dry_run))
    else:
        _tell(run, summary, dry_run=dry_run)


def _request(
    repository: Repository, points: tuple[str, ...], options: dict[str, Any]
) -> SynthRequest:
    from repo.upkeep.synth import SynthRequest

    prefer, takes, streams = options["prefer"], options["takes"], options["streams"]
    return SynthRequest(
        points=[repository.point(spec) for spec in points],
        prefer=[repository.point(spec) for spec in prefer],
        takes=[_take(repository, text) for text in takes],
        rules=[*(f"--prefer {text}" for text in prefer), *(f"--take {text}" for text in takes)],
        source_id=options["source_id"] or "",
        tags=options["tags"],
        relayout=options["relayout"],
        streams=streams if isinstance(streams, int) else 0,
        dry_run=options["dry_run"],
        made_by=f"repo {VERSION}",
    )


def _take(repository: Repository, text: str) -> Take:
    """A part of a point. The names of points and paths may hold colons: the longest one counts."""
    from repo.upkeep.layers import Take

    part, equals, at = text.rpartition("=")
    if equals and at.startswith("/"):
        spec, colon, path = part.rpartition(":")
        while colon:
            try:
                point = repository.point(spec)
            except UsageError:
                spec, colon, more = spec.rpartition(":")
                path = f"{more}:{path}"
            else:
                return Take(point, os.fsencode(path), os.fsencode(at))
    raise UsageError("not a part of a point", where=text, next_step="write POINT:PATH=/AT")


def _progress(state: SynthProgress) -> ProgressState:
    return ProgressState(
        doing=state.doing,
        items=state.nodes,
        bytes_in=state.bytes_done,
        bytes_expected=state.bytes_expected or None,
    )


def _tell(run: Invocation, summary: SynthSummary, *, dry_run: bool) -> None:
    done = summary.point.statistics
    say = run.console.say
    say(
        f"{human.plural(done.files, 'file')} in "
        f"{human.plural(done.directories, 'directory', 'directories')}, "
        f"{human.size(done.bytes_source)}, of "
        f"{human.plural(len(summary.point.synthesis.points), 'point')} "
        f"in {human.duration(summary.seconds)}"
    )
    say(
        f"{human.plural(summary.nodes, 'node')} made, {human.size(summary.bytes_new)}, "
        f"{human.size(summary.bytes_stored)} written"
    )
    if summary.layout is not None:
        _tell_layout(run, summary.layout, dry_run=dry_run)
    if dry_run:
        say("Nothing was stored")
        return
    name = run.console.styled(summary.point.id.hex()[:8], "yellow")
    say(f"Point {name} of {human.printable(summary.point.source_id)}")


def _tell_layout(run: Invocation, layout: RelayoutFigures, *, dry_run: bool) -> None:
    share = human.percent(layout.bytes, layout.frames_bytes)
    run.console.say(
        f"Chunks of {human.size(layout.bytes)} lay in {human.plural(layout.frames, 'frame')} of "
        f"{human.size(layout.frames_bytes)} ({share} of them)"
    )
    if layout.chunks_rewritten:
        run.console.say(
            f"{human.plural(layout.chunks_rewritten, 'chunk')}, "
            f"{human.size(layout.bytes_rewritten)}, {'to rewrite' if dry_run else 'rewritten'}"
        )
    else:
        run.console.say("They lie well: nothing to rewrite")


def _as_json(summary: SynthSummary, *, dry_run: bool) -> dict[str, Any]:
    point = summary.point
    made = {"point": point.id.hex(), "source": point.source_id}
    layout = summary.layout
    figures = {} if layout is None else {"layout": layout._asdict()}
    return {
        "points": [] if dry_run else [made],
        "made_from": [point_id.hex() for point_id in point.synthesis.points],
        "files": point.statistics.files,
        "directories": point.statistics.directories,
        "bytes_source": point.statistics.bytes_source,
        "nodes": summary.nodes,
        "bytes_new": summary.bytes_new,
        "bytes_stored": summary.bytes_stored,
        "problems": point.problems_total,
        "seconds": round(summary.seconds, 3),
        **figures,
    }
