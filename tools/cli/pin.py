"""`repo pin` and `repo unpin`: points that are kept whatever the rules say."""

from __future__ import annotations

import getpass
import socket
from contextlib import suppress

import click

from repo.errors import UsageError
from tools.cli import human
from tools.cli.group import RepoCommand
from tools.cli.invocation import Invocation, pass_invocation
from tools.cli.parameters import MOMENT


@click.command(cls=RepoCommand)
@click.argument("points", nargs=-1, required=True, metavar="POINT...")
@click.option("--reason", default="", metavar="TEXT", help="Why, for whoever reads it later.")
@click.option(
    "--until",
    "until_ns",
    type=MOMENT,
    default=0,
    metavar="TIME",
    help="Make it a hold: nobody can take it away before TIME, and then it ends by itself.",
)
@pass_invocation
def pin(run: Invocation, points: tuple[str, ...], reason: str, until_ns: int) -> None:
    """Keep points, whatever the rules of `repo forget` say.

    A pin stays until `repo unpin`. With --until it is a hold: nobody takes it away before that
    time, and it can only be made longer.
    """
    import time

    from repo.upkeep import forget

    if until_ns and until_ns <= time.time_ns():
        raise UsageError("a hold ends in the future", where="--until")
    with run.open() as repository:
        for spec in points:
            point = repository.point(spec, stored=True)
            made = forget.pin(
                repository, point, reason=reason, until_ns=until_ns, made_by=_myself()
            )
            name = point.id.hex()
            if run.console.json:
                until = human.utc_time(made.until_ns) if made.until_ns else None
                run.console.emit({"event": "pin", "point": name, "reason": reason, "until": until})
            elif made.until_ns:
                run.console.say(f"Holds {name[:8]} until {human.local_time(made.until_ns)}.")
            else:
                run.console.say(f"Pinned {name[:8]}.")


@click.command(cls=RepoCommand)
@click.argument("points", nargs=-1, required=True, metavar="POINT...")
@pass_invocation
def unpin(run: Invocation, points: tuple[str, ...]) -> None:
    """Let pinned points be forgotten again. A hold stays until its time."""
    from repo.upkeep import forget

    with run.open() as repository:
        for spec in points:
            point = repository.point(spec, stored=True)
            there = forget.unpin(repository, point)
            name = point.id.hex()
            if run.console.json:
                run.console.emit({"event": "unpin", "point": name, "was_pinned": there})
            else:
                run.console.say(f"Unpinned {name[:8]}." if there else f"{name[:8]} had no pin.")


def _myself() -> str:
    with suppress(OSError, KeyError):
        return f"{getpass.getuser()}@{socket.gethostname()}"
    return socket.gethostname()
