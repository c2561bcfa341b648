"""`repo verify`: check the repository for damage, and name what suffers from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from repo.errors import UsageError
from tools.cli import human
from tools.cli.group import RepoCommand
from tools.cli.invocation import Invocation, pass_invocation
from tools.cli.parameters import STREAMS
from tools.cli.progress import ProgressState, Reporter, Wording

if TYPE_CHECKING:
    from repo.upkeep.damage import Damage
    from repo.upkeep.report import Level, VerifyProgress, VerifyReport

WORDING: Final = Wording("Verifying", noun="objects", verb="read")
PATHS_SHOWN: Final = 10
_WHAT: Final = {
    "structure": "the structure: everything but the content of files",
    "data": "everything, the content of files included",
    "keyless": "the checksums, without a key",
}


@click.command(cls=RepoCommand)
@click.option("--data", is_flag=True, help="Read, open and hash the content of files as well.")
@click.option("--keyless", is_flag=True, help="Check what checksums tell; takes no password.")
@click.option(
    "--streams", type=STREAMS, metavar="N|auto", help="Threads; auto: as many as processors."
)
@pass_invocation
def verify(run: Invocation, data: bool, keyless: bool, streams: int | str | None) -> int:
    """Check the repository for damage.

    Without an option, everything but the content of files is read and checked: header, key
    slots, points, trees, index, and that each file's chunks are there. The exit status is 4
    when damage is found; the points and files that suffer are named.
    """
    if data and keyless:
        raise UsageError("--data and --keyless exclude each other", next_step="give one")
    level: Level = "data" if data else "keyless" if keyless else "structure"
    with run.console.reporter(WORDING) as reporter:
        report = _verify(run, level, streams if isinstance(streams, int) else 0, reporter)
        reporter.close()
    for damage in report.damages:
        if run.console.json:
            run.console.event("damage", **_as_json(damage))
        else:
            _tell_damage(run, damage)
    if run.console.json:
        run.console.event("summary", **_summary(report))
    else:
        _tell(run, report)
    return report.exit_status


def _verify(run: Invocation, level: Level, streams: int, reporter: Reporter) -> VerifyReport:
    if level == "keyless":
        from repo.upkeep.keyless import verify_keyless

        return verify_keyless(
            run.location.path,
            streams=streams,
            on_progress=lambda state: reporter.update(_progress(state)),
            on_notice=reporter.notice,
        )
    from repo.upkeep.verify import verify as verify_repository

    with run.open() as repository:
        return verify_repository(
            repository,
            level=level,
            streams=streams,
            on_progress=lambda state: reporter.update(_progress(state)),
            on_notice=reporter.notice,
        )


def _progress(state: VerifyProgress) -> ProgressState:
    return ProgressState(
        doing=state.doing,
        items=state.items,
        items_expected=state.items_expected,
        bytes_in=state.bytes_read,
        bytes_expected=state.bytes_expected,
        problems=state.damages,
    )


def _tell_damage(run: Invocation, damage: Damage) -> None:
    place = damage.where if damage.offset is None else f"{damage.where} at {damage.offset}"
    result = run.console.result
    result(run.console.styled("damage", "red") + human.one_line(f": {damage.what} ({place})"))
    if damage.points_total:
        points = ", ".join(point[:8] for point in damage.points[:PATHS_SHOWN])
        more = _more(damage.points_total, min(len(damage.points), PATHS_SHOWN))
        result(f"  points: {human.one_line(points)}{more}")
    if damage.unfinished:
        runs = ", ".join(point[:8] for point in damage.unfinished[:PATHS_SHOWN])
        more = _more(len(damage.unfinished), PATHS_SHOWN)
        result(f"  unfinished runs: {human.one_line(runs)}{more} (`repo forget` drops them)")
    for path in damage.paths[:PATHS_SHOWN]:
        result(f"  file: {human.printable(path)}")
    more = _more(damage.paths_total, min(len(damage.paths), PATHS_SHOWN))
    if damage.paths and more:
        result(f"  files: {human.count(damage.paths_total)} in all points (--json names more)")
    if damage.next_step:
        result(human.one_line(f"  next: {damage.next_step}"))


def _more(total: int, shown: int) -> str:
    return f" and {human.count(total - shown)} more" if total > shown else ""


def _tell(run: Invocation, report: VerifyReport) -> None:
    checked = [human.plural(report.points, "point"), human.plural(report.segments, "segment")]
    if report.points_unfinished:
        checked.append(human.plural(report.points_unfinished, "unfinished run"))
    if report.chunks:
        checked.append(human.plural(report.chunks, "chunk"))
    if report.bytes_read:
        checked.append(f"{human.size(report.bytes_read)} read")
    run.console.say(
        f"Checked {_WHAT[report.level]}: {', '.join(checked)} in {human.duration(report.seconds)}"
    )
    if report.open_segments:
        run.console.say(f"{human.plural(report.open_segments, 'segment')} still being written")
    if report.points_marked:
        lost = human.plural(report.losses_known, "loss", "losses")
        run.console.result(
            f"{human.plural(report.points_marked, 'point')} marked, with {lost} known since a "
            "repair or copy (`repo points` shows them)"
        )
    if report.damages:
        run.console.result(f"Damage found in {human.plural(len(report.damages), 'place')}")
    elif report.level == "structure":
        run.console.say("No damage found (--data reads the content of files as well)")
    else:
        run.console.say("No damage found")


def _as_json(damage: Damage) -> dict[str, Any]:
    return {
        "what": damage.what,
        "where": damage.where,
        "next_step": damage.next_step,
        "segment": damage.segment,
        "frame": damage.frame,
        "offset": damage.offset,
        "points": damage.points,
        "points_total": damage.points_total,
        "unfinished": damage.unfinished,
        "paths": damage.paths,
        "paths_total": damage.paths_total,
    }


def _summary(report: VerifyReport) -> dict[str, Any]:
    return {
        "level": report.level,
        "damages": len(report.damages),
        "points": report.points,
        "points_unfinished": report.points_unfinished,
        "points_marked": report.points_marked,
        "losses_known": report.losses_known,
        "segments": report.segments,
        "segments_open": report.open_segments,
        "frames": report.frames,
        "chunks": report.chunks,
        "bytes_read": report.bytes_read,
        "seconds": round(report.seconds, 3),
    }
