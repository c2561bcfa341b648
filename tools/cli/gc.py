"""`repo gc`: the space of what no point relies on is given free."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import click

from repo.errors import Damaged
from tools.cli import human
from tools.cli.group import RepoCommand
from tools.cli.invocation import Invocation, pass_invocation
from tools.cli.parameters import STREAMS
from tools.cli.progress import ProgressState, Wording

if TYPE_CHECKING:
    from repo.upkeep.gcreport import GcReport

WORDING: Final = Wording("Collecting garbage", noun="steps", verb="")
REPACK_PERCENT: Final = 70


class Percent(click.ParamType[int]):
    """A whole number of per cent; the sign may stand behind it."""

    name = "percent"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Check what was typed. Fails as a usage error."""
        try:
            number = int(str(value).removesuffix("%"))
        except ValueError:
            number = -1
        if not 0 <= number <= 100:
            self.fail(f"{value!r} is not 0% to 100%", param, ctx)
        return number


@click.command(cls=RepoCommand)
@click.option("-n", "--dry-run", is_flag=True, help="Show what would be done; change nothing.")
@click.option(
    "--repack-below",
    type=Percent(),
    default=REPACK_PERCENT,
    metavar="SHARE",
    help=f"Rewrite segments of which less than this is alive ({REPACK_PERCENT}%).",
)
@click.option(
    "--streams", type=STREAMS, metavar="N|auto", help="Threads; auto: as many as processors."
)
@pass_invocation
def gc(run: Invocation, dry_run: bool, repack_below: int, streams: int | str | None) -> int:
    """Give the space of what no point relies on free.

    Forgotten points are gone for good then. Runs beside everything else; what a running command
    may still read goes with the next run. Segments that are mostly dead are rewritten, and
    others too as long as more than a tenth of all is dead; --repack-below 0% rewrites none.
    """
    from repo.upkeep.sweep import collect

    with run.open() as repository, run.console.reporter(WORDING) as reporter:
        report = collect(
            repository,
            dry_run=dry_run,
            repack_below=repack_below / 100,
            streams=streams if isinstance(streams, int) else 0,
            on_progress=lambda state: reporter.update(
                ProgressState(
                    doing=state.doing, items=state.items, items_expected=state.items_expected
                )
            ),
            on_notice=reporter.notice,
        )
        reporter.close()
    for damage in report.damages:
        run.notice(f"{damage}: that segment is left as it is")
    if report.chunks_lost:
        run.notice(
            f"{human.plural(report.chunks_lost, 'chunk')} that points rely on are missing: "
            "run `repo repair`, which marks the points that suffer"
        )
    if report.points_marked:
        run.notice(
            f"{human.plural(report.points_marked, 'point')} marked: what they have lost is known "
            "(`repo points` shows them)"
        )
    if report.segments_left:
        run.notice(
            f"no room to rewrite {human.plural(report.segments_left, 'segment')}: run it again "
            f"with {human.size(report.bytes_short)} more of free space"
        )
    if run.console.json:
        run.console.event("summary", **asdict(report))
    else:
        _tell(run, report)
    return Damaged.exit_status if report.damages or report.chunks_lost else 0


def _tell(run: Invocation, report: GcReport) -> None:
    say = run.console.say
    would = "Would remove" if report.dry_run else "Removed"
    say(
        f"{human.plural(report.points, 'point')}, {human.plural(report.chunks_alive, 'chunk')} "
        f"alive, {human.count(report.chunks_dead)} dead: about {human.size(report.bytes_dead)} of "
        f"{human.size(report.bytes_total)} in {human.plural(report.segments, 'segment')}"
    )
    if report.points_removed:
        say(f"{would} {human.plural(report.points_removed, 'forgotten point')} for good")
    if report.dry_run:
        say(
            f"Would give free about {human.size(report.bytes_freed)}: {_figures(report)}; needs up "
            f"to {human.size(report.reserve_bytes)} of free space"
        )
        return
    gave = "Gave free" if report.bytes_freed >= 0 else "Took, until the next run,"
    say(
        f"{gave} {human.size(abs(report.bytes_freed))}: {_figures(report)}, "
        f"in {human.duration(report.seconds)}; about {human.size(report.bytes_dead_left)} dead left"
    )
    if report.bytes_held_back:
        holders = human.one_line(", ".join(report.holders)) or "leases that have just ended"
        say(f"{human.size(report.bytes_held_back)} go with the next run, held back by {holders}")


def _figures(report: GcReport) -> str:
    """What the bytes that are free came from; the same words for what would be and what was."""
    return (
        f"{human.size(report.bytes_removed)} of segments removed ("
        f"{human.plural(report.segments_dead, 'dead one')}, "
        f"{human.plural(report.segments_repacked, 'rewritten one')}), "
        f"{human.size(report.bytes_written)} of them written anew"
    )
