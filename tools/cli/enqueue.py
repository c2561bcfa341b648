"""`repo ingest --enqueue` and `--from`: what snapshot tools call."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from repo.errors import UsageError
from tools.cli import human

if TYPE_CHECKING:
    from ingest.queue.convention import Told
    from ingest.queue.spool import Spool
    from ingest.session import IngestRequest
    from tools.cli.invocation import Invocation

TOOLS = ("snapper", "sanoid", "btrbk", "zfs-autobackup")


NOT_QUEUED: Final = {
    "dry_run": (False, "it would do nothing later"),
    "delta": (False, "a delta is saved at once"),
    "base": ("auto", "the drain finds the base"),
    "streams": (None, "`repo drain` has --streams"),
    "hooks": (None, "`repo drain` has --hooks"),
}
"""Options that an entry cannot take along: what they are when nobody gave them, and why not."""


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse what would be forgotten in the queue. Raises UsageError."""
    if not options["queued"]:
        return
    for name, (unset, why) in NOT_QUEUED.items():
        if options[name] != unset:
            option = "--" + name.replace("_", "-")
            raise UsageError("an option does not go with --enqueue", where=option, next_step=why)


def told_by(tool: str | None, words: Sequence[str]) -> list[Told]:
    """The snapshots that the command line means. Raises UsageError."""
    from ingest.queue.convention import CONVENTIONS, Call, Told

    if tool is not None:
        return CONVENTIONS[tool](Call(words, os.environ, _lines))
    if not words:
        raise UsageError("no PATH was given", next_step="name what is to be backed up")
    return [Told(path, path) for path in words]


def _lines() -> Iterator[str]:
    return (os.fsdecode(line) for line in sys.stdin.buffer)


def spool_of(run: Invocation) -> Spool:
    """The queue of this run: REPO_QUEUE, the configuration's, or the usual one."""
    from ingest.queue.spool import Spool, default_folder

    setting = run.configuration.settings.queue
    if setting and not os.environ.get("REPO_QUEUE"):
        return Spool(Path(setting))
    return Spool(default_folder(os.geteuid(), os.environ))


def enqueue(
    run: Invocation, told: Sequence[Told], request: IngestRequest, *, tool: str | None
) -> int:
    """Queue snapshots and say so."""
    from ingest.queue.enqueue import enqueue as put
    from repo.storage.folder import Folder

    # No key is asked for, but what nobody can ever drain is not queued.
    Folder.open(run.location.path)
    queued = put(
        spool_of(run),
        run.location.path,
        told,
        request,
        origin=tool or "",
        on_notice=run.notice,
    )
    for entry, is_new, pinned in queued:
        if run.console.json:
            run.console.event(
                "queued",
                job=entry.key,
                source=entry.source_id,
                path=entry.shown,
                new=is_new,
                pinned=pinned,
            )
        elif is_new:
            how = ", pinned" if pinned else ""
            run.console.say(f"Queued {human.printable(entry.shown)}{how}")
        else:
            run.console.say(f"{human.printable(entry.shown)} is in the queue, or was backed up")
    return 0
