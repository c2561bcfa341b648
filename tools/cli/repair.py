"""`repo repair`: after damage: keep what verifies, find what is lost, and say what is not found."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from repo.format.layout import HEADER
from tools.cli import human, jsonline
from tools.cli.group import RepoCommand
from tools.cli.invocation import Invocation, pass_invocation
from tools.cli.other import open_other, other_of, other_options
from tools.cli.parameters import STREAMS
from tools.cli.points import lost
from tools.cli.progress import ProgressState, Wording
from tools.cli.stopping import stop_signals

if TYPE_CHECKING:
    from collections.abc import Sequence

    from repo.repository import Repository
    from repo.upkeep.healing import Healer, Store
    from repo.upkeep.repair import PointLoss, RepairProgress, RepairReport

WORDING: Final = Wording("Repairing", noun="objects", verb="read")
PATHS_SHOWN: Final = 10


@click.command(cls=RepoCommand)
@click.option(
    "--from", "places", multiple=True, type=click.Path(file_okay=False, exists=True),
    metavar="DIR|REPOSITORY",
    help="Look for lost content there: a source as it is now, or a second copy.",
)  # fmt: skip
@other_options("from")
@click.option("--dry-run", is_flag=True, help="Say what is damaged and would be lost.")
@click.option("--yes", is_flag=True, help="Remove the damaged files that were set aside.")
@click.option(
    "--streams", type=STREAMS, metavar="N|auto", help="Threads; auto: as many as processors."
)
@pass_invocation
def repair(run: Invocation, /, places: tuple[str, ...], **options: Any) -> int:
    """Repair the repository after damage.

    Everything is read. What verifies of damaged segments moves into new ones, and the damaged
    files are set aside. Lost content is taken from the places of --from when it is the very
    same. Points that still lack content are marked: `repo points` and `repo show` tell, and
    reading what is lost fails. What is found later, by another repair or by backing up the
    same content again, makes them whole again.

    The exit status is 4 when something is lost.
    """
    from repo.upkeep.repair import repair as repair_repository

    with ExitStack() as stack:
        repository = stack.enter_context(run.open())
        sources, others = _places(run, places, options, stack)

        def healers(store: Store) -> Sequence[Healer]:
            return _healers(repository, sources, others, store)

        stopped = stack.enter_context(stop_signals())
        with run.console.reporter(WORDING) as reporter:
            report = repair_repository(
                repository,
                healers=healers,
                dry_run=options["dry_run"],
                streams=options["streams"] if isinstance(options["streams"], int) else 0,
                on_progress=lambda state: reporter.update(_progress(state)),
                on_notice=reporter.notice,
                stopped=stopped,
            )
            reporter.close()
        removed = 0
        if options["yes"] and not options["dry_run"]:
            removed = repository.folder.remove_aside()
        aside = len(repository.folder.aside())
    if run.console.json:
        for loss in report.losses:
            run.console.event("loss", **_loss_as_json(loss))
        run.console.event("summary", **as_json(report, aside=aside, removed=removed))
    else:
        _tell(run, report, dry_run=options["dry_run"])
        if removed:
            run.console.say(f"Removed {human.plural(removed, 'file')} that were set aside")
        elif aside:
            run.console.say(
                f"{human.plural(aside, 'damaged file')} set aside; `repo repair --yes` removes them"
            )
    return report.exit_status


def _places(
    run: Invocation, places: tuple[str, ...], options: dict[str, Any], stack: ExitStack
) -> tuple[list[Path], list[Repository]]:
    sources: list[Path] = []
    others: list[Repository] = []
    for place in places:
        if (Path(place) / HEADER).is_file():
            other = other_of("from", "the second copy", place, options)
            repository = stack.enter_context(open_other(run, other))
            stack.enter_context(repository.lease("repair of another", reading=True))
            others.append(repository)
        else:
            sources.append(Path(place).absolute())
    return sources, others


def _healers(
    repository: Repository, sources: list[Path], others: list[Repository], store: Store
) -> list[Healer]:
    from repo.upkeep.healing import RepositoryHealer, SourceHealer

    found: list[Healer] = [RepositoryHealer(other, repository, store) for other in others]
    return found + [SourceHealer(source, repository.keys, store) for source in sources]


def _progress(state: RepairProgress) -> ProgressState:
    return ProgressState(
        doing=state.doing,
        items=state.items,
        items_expected=state.items_expected,
        bytes_in=state.bytes_read,
        problems=state.losses,
    )


def _tell(run: Invocation, report: RepairReport, *, dry_run: bool) -> None:
    result, say = run.console.result, run.console.say
    found = report.diagnosis
    _tell_damage(run, report)
    if found.segments:
        verb = "can be salvaged" if dry_run else "salvaged"
        say(
            f"{human.plural(len(found.segments), 'segment')} damaged: "
            f"{human.plural(report.chunks_salvaged, 'chunk')} {verb}"
        )
    if report.chunks_healed:
        say(f"{human.plural(report.chunks_healed, 'lost chunk')} found elsewhere")
    for point_id in report.points_brought_back:
        result(f"brought back: point {point_id.hex()}")
    for point_id in report.points_lost:
        result(f"lost: point {point_id.hex()}")
    for loss in report.losses:
        _tell_loss(run, loss)
    if report.whole:
        say(f"{human.plural(report.whole, 'point')} whole again")
    if report.exit_status:
        result("Something would be lost" if dry_run else "What is lost is marked")
    elif report.damaged:
        say("Nothing would be lost" if dry_run else "Nothing is lost")
    elif not report.chunks_healed:
        say(f"No damage found in {human.size(found.bytes_read)}")


def _tell_damage(run: Invocation, report: RepairReport) -> None:
    found = report.diagnosis
    lines = [f"segment {segment_id.hex()}: {what}" for segment_id, what in found.segments.items()]
    lines += [f"point {point_id.hex()}: {what}" for point_id, what in found.points.items()]
    lines += [f"{s.where}: {s.what}; next: {s.next_step}" for s in report.key_slots]
    lines += [found.index] if found.index else []
    for line in lines:
        run.console.result(human.one_line(f"damaged: {line}"))


def _tell_loss(run: Invocation, loss: PointLoss) -> None:
    marked = loss.point.id.hex()[:8]
    run.console.result(
        f"lost of point {marked}, {human.printable(loss.point.source_id)}: {_words(loss)}"
    )
    for path in loss.paths[:PATHS_SHOWN]:
        run.console.result(f"  {human.printable(path)}")
    if loss.loss.problems > PATHS_SHOWN:
        left = human.count(loss.loss.problems - PATHS_SHOWN)
        run.console.hint(f"  and {left} more: repo show {marked} --problems")


def _words(loss: PointLoss) -> str:
    import msgspec

    words = lost(msgspec.structs.replace(loss.point, loss=loss.loss))
    return f"{words}, {human.size(loss.loss.bytes_lost)}"


def _loss_as_json(loss: PointLoss) -> dict[str, Any]:
    return {
        "point": loss.point.id.hex(),
        "source": loss.point.source_id,
        "files": loss.loss.files,
        "directories": loss.loss.directories,
        "bytes": loss.loss.bytes_lost,
        "paths": [jsonline.name("path", path) for path in loss.paths],
    }


def as_json(report: RepairReport, *, aside: int, removed: int) -> dict[str, Any]:
    """The summary of `repo repair --json`."""
    return {
        "segments_damaged": len(report.diagnosis.segments),
        "chunks_salvaged": report.chunks_salvaged,
        "chunks_healed": report.chunks_healed,
        "points_brought_back": [i.hex() for i in report.points_brought_back],
        "points_lost": [i.hex() for i in report.points_lost],
        "points_marked": len(report.losses),
        "points_whole_again": report.whole,
        "key_slots_damaged": len(report.key_slots),
        "files_aside": aside,
        "files_removed": removed,
        "bytes_read": report.diagnosis.bytes_read,
        "seconds": round(report.seconds, 3),
    }
