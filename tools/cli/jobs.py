"""`repo jobs`: what is queued and what runs, and what to do about what failed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from repo.errors import TryLater, UsageError
from tools.cli import human
from tools.cli.enqueue import spool_of
from tools.cli.group import RepoCommand
from tools.cli.invocation import Invocation, pass_invocation
from tools.cli.output import Column

if TYPE_CHECKING:
    from ingest.queue.entry import Entry
    from ingest.queue.spool import Spool

COLUMNS = (
    Column("job", style="yellow"),
    Column("state"),
    Column("source", style="cyan", folds=True),
    Column("snapshot", folds=True),
    Column("since"),
    Column("tries", right=True),
    Column("error", folds=True),
)


@click.command(cls=RepoCommand)
@click.option("--retry", metavar="JOB|all", help="Try it again at the next `repo drain`.")
@click.option("--drop", metavar="JOB", help="Take it out of the queue, and let its snapshot go.")
@pass_invocation
def jobs(run: Invocation, retry: str | None, drop: str | None) -> int:
    """List what is queued (waiting, running, retry, failed) and what works on the repository.

    JOB is the beginning of its id. What failed five times waits for --retry or --drop.
    """
    spool = spool_of(run)
    if retry is not None or drop is not None:
        return _change(run, spool, retry, drop)
    at_work = (spool.running() or {}).get("entries", [])
    entries = list(spool.entries())
    leases = _leases(run)
    if run.console.json:
        for entry in entries:
            run.console.emit(as_json(entry, running=entry.key in at_work))
        for lease in leases:
            run.console.emit(lease)
        return 0
    rows = [row(entry, running=entry.key in at_work) for entry in entries]
    rows += [
        (str(x["pid"]), "running", f"repo {x['purpose']}", "", x["since"], "", "") for x in leases
    ]
    if rows:
        run.console.table(COLUMNS, rows)
    else:
        run.console.hint("Nothing is queued and nothing runs.")
    return 0


def _leases(run: Invocation) -> list[dict[str, Any]]:
    from datetime import datetime

    from repo.storage import lease
    from repo.storage.folder import Folder

    return [
        {
            "pid": info.pid,
            "state": "running",
            "purpose": info.purpose,
            "host": info.host,
            "since": human.local_time(int(datetime.fromisoformat(info.started).timestamp()) * 10**9)
            if not run.console.json
            else info.started,
        }
        for info in lease.live(Folder.open(run.location.path))
        if info.started
    ]


def _change(run: Invocation, spool: Spool, retry: str | None, drop: str | None) -> int:
    from ingest.queue import drain

    if retry is not None and drop is not None:
        raise UsageError("--retry and --drop do not go together", next_step="give one of them")
    if retry is not None:
        for entry in _chosen(spool, retry):
            spool.replace(entry.afresh())
            spool.wake(entry.key)
            _tell(run, "retry", entry, "is tried again by the next drain")
        return 0
    assert drop is not None
    (entry,) = _chosen(spool, drop)
    if entry.key in (spool.running() or {}).get("entries", []):
        raise TryLater("it is being backed up", where=drop, next_step="stop `repo drain` first")
    drain.drop(spool, entry)
    _tell(run, "dropped", entry, "is no longer queued")
    return 0


def _tell(run: Invocation, event: str, entry: Entry, text: str) -> None:
    if run.console.json:
        run.console.event(event, job=entry.key, source=entry.source_id, path=entry.shown)
    else:
        run.console.say(f"{human.printable(entry.shown)} {text}")


def _chosen(spool: Spool, name: str) -> list[Entry]:
    entries = list(spool.entries())
    if name == "all":
        return entries
    found = [entry for entry in entries if entry.key.startswith(name)]
    if len(found) != 1:
        raise UsageError(
            "more than one job begins so" if found else "there is no such job",
            where=name,
            next_step="`repo jobs` lists them",
        )
    return found


def state_of(entry: Entry, *, running: bool) -> str:
    """What becomes of an entry, in a word."""
    return "running" if running else str(entry.state)


def row(entry: Entry, *, running: bool) -> tuple[str, ...]:
    """An entry as a row of the table."""
    return (
        entry.key[:8],
        state_of(entry, running=running),
        human.printable(entry.source_id),
        human.printable(entry.shown),
        human.local_time(entry.queued_ns),
        str(entry.tries) if entry.tries else "-",
        human.printable(entry.error) or "-",
    )


def as_json(entry: Entry, *, running: bool) -> dict[str, Any]:
    """An entry as `repo jobs --json` prints it."""
    return {
        "job": entry.key,
        "state": state_of(entry, running=running),
        "source": entry.source_id,
        "path": entry.shown,
        "origin": entry.origin,
        "pinned": entry.pin is not None,
        "queued": human.utc_time(entry.queued_ns),
        "tries": entry.tries,
        "not_before": human.utc_time(entry.not_before_ns) if entry.not_before_ns else None,
        "error": entry.error,
    }
