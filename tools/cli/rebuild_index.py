"""`repo rebuild-index`: the index made anew from the segments."""

from __future__ import annotations

import time

import click

from repo.errors import Damaged
from tools.cli import human
from tools.cli.group import RepoCommand
from tools.cli.invocation import Invocation, pass_invocation
from tools.cli.progress import ProgressState, Wording

WORDING = Wording("Rebuilding the index", noun="segments", verb="")


@click.command("rebuild-index", cls=RepoCommand)
@pass_invocation
def rebuild_index(run: Invocation) -> int:
    """Make the index anew from the segments.

    The index is derived: it can be deleted, and is built anew by itself when it is missing or
    unusable. This command does it on demand. Damaged segments are reported, and what is
    intact in them is kept; the exit status is then 4.
    """
    start = time.monotonic()
    with run.open() as repository:
        with run.console.reporter(WORDING) as reporter:
            damages = repository.rebuild_index(
                lambda done, of: reporter.update(ProgressState(items=done, items_expected=of))
            )
        chunks = repository.places.count()
        size = repository.places.size_bytes()
    seconds = time.monotonic() - start
    for damage in damages:
        run.notice(str(damage))
    if run.console.json:
        run.console.emit(
            {
                "event": "summary",
                "chunks": chunks,
                "bytes_index": size,
                "damages": len(damages),
                "seconds": round(seconds, 3),
            }
        )
    else:
        run.console.say(
            f"The index knows {human.plural(chunks, 'chunk')} and takes {human.size(size)}, "
            f"built in {human.duration(seconds)}."
        )
    return Damaged.exit_status if damages else 0
