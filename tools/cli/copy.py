"""`repo copy`: points once more, in another repository."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from repo.format.layout import HEADER
from tools.cli import human
from tools.cli.group import RepoCommand
from tools.cli.invocation import Invocation, pass_invocation
from tools.cli.other import make_other, open_other, other_of, other_options
from tools.cli.parameters import MOMENT, STREAMS, NumberOr
from tools.cli.progress import ProgressState, Wording
from tools.cli.stopping import stop_signals

if TYPE_CHECKING:
    from repo.format.manifest import Point
    from repo.repository import Repository
    from repo.upkeep.copy import CopyProgress, CopyReport, CopyRequest
    from tools.cli.other import Other

WORDING: Final = Wording("Copying", noun="points", verb="covered")
COMPRESSION: Final = NumberOr(1, 19, "off")


@click.command(cls=RepoCommand)
@click.argument("points", nargs=-1, metavar="[POINT]...")
@click.option(
    "--to", "to", required=True, type=click.Path(file_okay=False), metavar="REPOSITORY",
    help="The repository to copy to.",
)  # fmt: skip
@click.option("--init", "make", is_flag=True, help="Make the target when it is not there.")
@click.option(
    "--source", "sources", multiple=True, metavar="SOURCE", help="Only points of this source."
)
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="Only points with this tag.")
@click.option(
    "--since", type=MOMENT, metavar="TIME", help="Only points received at this time or later."
)
@click.option("--until", type=MOMENT, metavar="TIME", help="Only points received before this time.")
@other_options("to")
@click.option(
    "--streams", type=STREAMS, metavar="N|auto", help="Threads; auto: as many as processors."
)
@click.option(
    "--compression", type=COMPRESSION, metavar="LEVEL|off", default=3, show_default=True,
    help="The level of zstd in the target.",
)  # fmt: skip
@click.option("--verify", is_flag=True, help="Read everything back before points are published.")
@click.option("--again", is_flag=True, help="Try points anew whose copies are marked by losses.")
@click.option("--dry-run", is_flag=True, help="Say which points would be copied.")
@pass_invocation
def copy(run: Invocation, /, points: tuple[str, ...], to: str, make: bool, **options: Any) -> int:
    """Copy points to another repository.

    Without a POINT and without a choice all are copied. What the target holds already is not
    copied again, and points that were copied once are recognised, so that running the same
    command again and again keeps the target up to date. The content is encrypted for the
    target's key. A copy keeps the time of its point; pins stay behind, as each repository has
    its own.

    The target is opened by --to-key-file and its like, by REPO_TO_PASSWORD_FILE and its like,
    else by what opens the origin. The exit status is 4 when the origin is damaged: the rest is
    copied, and points that lack content are marked in the target.
    """
    from repo.upkeep.copy import copy as copy_points
    from repo.upkeep.sides import ORIGIN, TARGET, side

    other = other_of("to", TARGET, to, options)
    with side(ORIGIN):
        origin = run.open()
    with origin:
        target = _target(run, other, origin, make=make and not options["dry_run"])
        with target, stop_signals() as stopped, run.console.reporter(WORDING) as reporter:
            report = copy_points(
                origin,
                target,
                _request(points, options),
                on_progress=lambda state: reporter.update(_progress(state)),
                on_notice=reporter.notice,
                stopped=stopped,
            )
            reporter.close()
    for damage in report.damages:
        run.notice(f"{ORIGIN}: {damage}")
    if run.console.json:
        run.console.event("summary", **as_json(report))
    else:
        _tell(run, report, other, dry_run=options["dry_run"])
    return report.exit_status


def _target(run: Invocation, other: Other, origin: Repository, *, make: bool) -> Repository:
    if make and not (other.path / HEADER).exists():
        return make_other(run, other, origin.header)
    return open_other(run, other)


def _request(points: tuple[str, ...], options: dict[str, Any]) -> CopyRequest:
    from repo.upkeep.copy import CopyRequest

    streams, compression = options["streams"], options["compression"]
    return CopyRequest(
        points=points,
        sources=options["sources"],
        tags=options["tags"],
        since_ns=options["since"],
        until_ns=options["until"],
        streams=streams if isinstance(streams, int) else 0,
        level=compression if isinstance(compression, int) else None,
        verify=options["verify"],
        again=options["again"],
        dry_run=options["dry_run"],
    )


def _progress(state: CopyProgress) -> ProgressState:
    return ProgressState(
        items=state.points,
        items_expected=state.points_expected,
        bytes_in=state.bytes_covered,
        bytes_expected=state.bytes_expected,
        bytes_new=state.bytes_new,
        problems=state.losses,
        doing=state.doing,
    )


def _tell(run: Invocation, report: CopyReport, other: Other, *, dry_run: bool) -> None:
    say = run.console.say
    for point, copied in report.copied:
        name = run.console.styled(point.id.hex()[:8], "yellow")
        of = f"{human.printable(point.source_id)}, {human.local_time(point.received_ns)}"
        if dry_run:
            say(f"Would copy {name} of {of}")
        else:
            say(f"Point {name} of {of}, is {copied.id.hex()[:8]} there{_loss(copied)}")
    done = "Would copy" if dry_run else "Copied"
    there = f"; {human.plural(report.there, 'point')} there already" if report.there else ""
    say(f"{done} {human.plural(len(report.copied), 'point')} to {other.path}{there}")
    if not dry_run and report.copied:
        say(
            f"{human.size(report.bytes_read)} read, {human.size(report.bytes_new)} new, "
            f"{human.size(report.bytes_stored)} written in {human.duration(report.seconds)}"
        )


def _loss(point: Point) -> str:
    if not point.loss.noted_ns:
        return ""
    return f", marked: {human.plural(point.loss.files, 'file')} damaged"


def as_json(report: CopyReport) -> dict[str, Any]:
    """The summary of `repo copy --json`."""
    return {
        "points": [
            {
                "point": point.id.hex(),
                "copy": copied.id.hex(),
                "source": point.source_id,
                "files_lost": copied.loss.files,
                "directories_lost": copied.loss.directories,
            }
            for point, copied in report.copied
        ],
        "points_there": report.there,
        "points_unreadable": len(report.damages),
        "bytes_read": report.bytes_read,
        "bytes_new": report.bytes_new,
        "bytes_stored": report.bytes_stored,
        "seconds": round(report.seconds, 3),
    }
