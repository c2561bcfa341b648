"""`repo forget`: points leave the list, by rules or by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from repo.errors import Damaged, UsageError
from tools.cli import human
from tools.cli.group import RepoCommand
from tools.cli.invocation import Invocation, pass_invocation
from tools.cli.output import Column
from tools.cli.parameters import DURATION
from tools.cli.points import as_json
from tools.cli.progress import ProgressState, Wording

if TYPE_CHECKING:
    from repo.repository import Repository
    from repo.types import PointId
    from repo.upkeep.forget import Judged, Plan

WORDING: Final = Wording("Forgetting", noun="points", verb="")
COLUMNS: Final = (
    Column("point", style="yellow"),
    Column("time"),
    Column("source", style="cyan", folds=True),
    Column("tags", folds=True),
    Column("", style="bold"),
    Column("because", folds=True),
)
_PERIODS: Final = {
    "last": "Keep the last N points.",
    "hourly": "Keep the newest point of each of the last N hours that have one.",
    "daily": "The same by days.",
    "weekly": "The same by weeks, which begin on Monday.",
    "monthly": "The same by months.",
    "yearly": "The same by years.",
}


def _rules(command: Any) -> Any:
    """The options of the rules, in the order of the help."""
    within = click.option(
        "--keep-within",
        type=DURATION,
        default=0,
        metavar="TIME",
        help="Keep all points within TIME (7d, 8w, 1y6mo) of the newest.",
    )
    command = within(command)
    for period, line in reversed(_PERIODS.items()):
        command = click.option(
            f"--keep-{period}", type=click.IntRange(min=0), default=0, metavar="N", help=line
        )(command)
    return command


@click.command(cls=RepoCommand)
@click.argument("points", nargs=-1, metavar="[POINT]...")
@_rules
@click.option("--keep-tag", "keep_tags", multiple=True, metavar="TAG", help="Keep points with it.")
@click.option("--source", metavar="SOURCE", help="Look at the points of this source only.")
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="Only at points with this tag.")
@click.option(
    "--group-by",
    type=click.Choice(["source,tags", "source", "none"]),
    default="source,tags",
    show_default=True,
    help="What the rules count separately for.",
)
@click.option(
    "--min-age",
    type=DURATION,
    default=0,
    metavar="TIME",
    help="Keep points that the repository received less than TIME ago.",
)
@click.option("-n", "--dry-run", is_flag=True, help="Show what each rule keeps; change nothing.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask before most of a source is forgotten.")
@pass_invocation
def forget(run: Invocation, /, points: tuple[str, ...], **options: Any) -> int:
    """Forget points: those named, or those that no rule keeps.

    The rules count for each source and set of tags by itself, by the times at which the
    repository received the points. Pinned points stay. What is forgotten can come back by
    `repo undelete` until the next `repo gc`, which gives the space free. The id of an unfinished
    run (`repo points --unfinished`) drops what it has read, for good.
    """
    dry_run, yes = options.pop("dry_run"), options.pop("yes")
    damages: list[Damaged] = []
    with run.open() as repository:
        plan, unfinished = _plan(repository, points, options, damages)
        if dry_run or not points:
            _show(run, plan)
        gone: list[str] = []
        if not dry_run and plan.forgotten:
            _confirm(run, plan, yes=yes)
            gone = _forget(run, repository, plan)
        if not dry_run:
            _drop_unfinished(repository, unfinished)
    for damage in damages:
        run.notice(f"{damage}: left as it is")
    _tell(run, plan, gone, [point_id.hex() for point_id in unfinished], dry_run=dry_run)
    return Damaged.exit_status if damages else 0


def _plan(
    repository: Repository,
    points: tuple[str, ...],
    options: dict[str, Any],
    damages: list[Damaged],
) -> tuple[Plan, list[PointId]]:
    """What goes: points, and the unfinished runs that were named."""
    from repo.upkeep.forget import plan_by_name, plan_by_rules, unfinished_named
    from repo.upkeep.retention import Rules

    rules = Rules(
        **{period: options[f"keep_{period}"] for period in _PERIODS},
        within_ns=options["keep_within"],
        min_age_ns=options["min_age"],
    )
    if points:
        if rules.keep_something or options["keep_tags"] or options["source"] or options["tags"]:
            raise UsageError(
                "points and rules exclude each other", next_step="name points, or give rules"
            )
        named = [(spec, unfinished_named(repository, spec)) for spec in points]
        plan = plan_by_name(
            repository,
            [repository.point(spec, stored=True) for spec, run_id in named if run_id is None],
            min_age_ns=rules.min_age_ns,
        )
        return plan, [run_id for _, run_id in named if run_id is not None]
    if not rules.keep_something:
        raise UsageError(
            "no rule says what to keep, so everything would be forgotten",
            next_step="give --keep-last N or another rule, or name the points",
        )
    plan = plan_by_rules(
        repository,
        rules,
        source=options["source"],
        tags=options["tags"],
        keep_tags=options["keep_tags"],
        group_by=options["group_by"],
        on_damage=damages.append,
    )
    return plan, []


def _drop_unfinished(repository: Repository, point_ids: list[PointId]) -> None:
    from repo.upkeep.forget import drop_unfinished

    drop_unfinished(repository, point_ids)


def _confirm(run: Invocation, plan: Plan, *, yes: bool) -> None:
    """Nobody loses most of a source by a slip. Raises UsageError without --yes or an answer."""
    if yes or not plan.halved:
        return
    from tools.cli import credentials

    told = "; ".join(f"{gone} of {held} points of {name}" for name, gone, held in plan.halved)
    if credentials.can_ask() and not run.console.json:
        run.console.warn(f"This forgets more than half of a source: {told}.")
        if click.confirm("Forget them?", err=True):
            return
        raise UsageError("nothing was forgotten", where=told)
    raise UsageError(
        "this would forget more than half of a source",
        where=told,
        next_step="look with --dry-run, then give --yes",
    )


def _forget(run: Invocation, repository: Repository, plan: Plan) -> list[str]:
    from repo.upkeep.forget import forget as forget_points

    done = 0
    with run.console.reporter(WORDING) as reporter:

        def step() -> None:
            nonlocal done
            done += 1
            reporter.update(ProgressState(items=done, items_expected=len(plan.forgotten)))

        return [point.hex() for point in forget_points(repository, plan.forgotten, step)]


def _show(run: Invocation, plan: Plan) -> None:
    if run.console.json:
        for judged in plan.judged:
            run.console.emit(
                {
                    "event": "point",
                    **as_json(judged.point),
                    "kept": judged.kept,
                    "reasons": list(judged.reasons),
                }
            )
    elif not run.console.quiet:
        run.console.table(COLUMNS, [_row(judged) for judged in plan.judged])


def _row(judged: Judged) -> tuple[str, ...]:
    point = judged.point
    return (
        point.id.hex()[:8],
        human.local_time(point.received_ns),
        human.printable(point.source_id),
        human.printable(" ".join(point.tags)),
        "keep" if judged.kept else "forget",
        human.printable(", ".join(judged.reasons)) or "no rule keeps it",
    )


def _tell(
    run: Invocation, plan: Plan, gone: list[str], unfinished: list[str], *, dry_run: bool
) -> None:
    kept = len(plan.judged) - (len(plan.forgotten) if dry_run else len(gone))
    if run.console.json:
        run.console.event(
            "summary",
            dry_run=dry_run,
            forgotten=[point.id.hex() for point in plan.forgotten] if dry_run else gone,
            kept=kept,
            unfinished=unfinished,
        )
        return
    if unfinished:
        would = "Would drop" if dry_run else "Dropped"
        run.console.say(f"{would} {human.plural(len(unfinished), 'unfinished run')}.")
        if not plan.judged:
            return
    if dry_run:
        run.console.say(f"Would forget {human.plural(len(plan.forgotten), 'point')}, keep {kept}.")
        return
    run.console.say(f"Forgot {human.plural(len(gone), 'point')}.")
    if gone:
        run.console.hint("`repo undelete` takes them back until `repo gc` gives the space free.")
