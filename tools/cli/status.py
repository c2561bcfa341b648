"""`repo status`: how a repository and its queue are, at a glance and without a key."""

from __future__ import annotations

from collections import Counter
from typing import Any

import click

from tools.cli import human
from tools.cli.enqueue import spool_of
from tools.cli.group import RepoCommand
from tools.cli.invocation import Invocation, pass_invocation

QUEUE_FAILED = 3


@click.command(cls=RepoCommand)
@pass_invocation
def status(run: Invocation) -> int:
    """Say what runs, what is queued and how the last drain ended. Needs no key.

    The exit status is 3 when something in the queue has failed for good.
    """
    from repo.storage import lease
    from repo.storage.folder import Folder

    folder = Folder.open(run.location.path)
    spool = spool_of(run)
    states = Counter(str(entry.state) for entry in spool.entries())
    running, last = spool.running(), spool.last()
    leases = Counter(info.purpose for info in lease.live(folder))
    points = sum(1 for _ in folder.points())
    row: dict[str, Any] = {
        "repository": str(run.location.path),
        "points": points,
        "running": dict(leases),
        "queue": {"path": str(spool.path), **states},
        "draining": running,
        "last_drain": last,
    }
    if run.console.json:
        run.console.emit(row)
    else:
        run.console.fields(_fields(row))
    return QUEUE_FAILED if states["failed"] else 0


def _fields(row: dict[str, Any]) -> list[tuple[str, str]]:
    queue = {name: number for name, number in row["queue"].items() if name != "path"}
    draining, last = row["draining"], row["last_drain"]
    working = ""
    if draining is not None:
        working = human.plural(len(draining.get("entries", [])), "source")
        if draining.get("files"):
            working += f", {human.count(draining['files'])} files"
            working += f", {human.size(draining.get('bytes_source', 0))}"
    ended = "never"
    if last is not None and "time" in last:
        ended = f"{human.local_time(int(last['time'] * 1e9))}, status {last.get('status')}"
    return [
        ("Repository", human.printable(row["repository"])),
        ("Points", human.count(row["points"])),
        ("Running", _counts(row["running"]) or "nothing"),
        ("Queue", _counts(queue) or "empty"),
        ("Draining", working),
        ("Last drain", ended),
    ]


def _counts(numbers: dict[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in sorted(numbers.items()) if number)
