"""`repo undelete`: forgotten points come back, until garbage collection has removed them."""

from __future__ import annotations

import click

from repo.errors import Damaged
from tools.cli.group import RepoCommand
from tools.cli.invocation import Invocation, pass_invocation
from tools.cli.points import COLUMNS, as_json, row


@click.command(cls=RepoCommand)
@click.argument("points", nargs=-1, metavar="[POINT]...")
@click.option("--all", "everything", is_flag=True, help="Take all forgotten points back.")
@pass_invocation
def undelete(run: Invocation, points: tuple[str, ...], everything: bool) -> int:
    """Take forgotten points back; without a POINT, list those that can come back.

    POINT is the beginning of an id. `repo gc` removes forgotten points for good.
    """
    from repo.upkeep import forget

    damages: list[Damaged] = []
    with run.open() as repository:
        if not points and not everything:
            found = forget.forgotten(repository, damages.append)
            if run.console.json:
                for point in found:
                    run.console.emit(as_json(point))
            elif found:
                run.console.table(COLUMNS, [row(point) for point in found])
            else:
                run.console.hint("No forgotten points.")
        else:
            names = [i.hex() for i in repository.folder.forgotten()] if everything else points
            back = [forget.undelete(repository, name).hex() for name in names]
            if run.console.json:
                run.console.event("summary", points=back)
            for name in back:
                run.console.say(f"Took {name[:8]} back.")
    for damage in damages:
        run.notice(str(damage))
    return Damaged.exit_status if damages else 0
