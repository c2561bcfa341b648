"""`repo drain`: run what is queued."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import click

from ingest.hooks import frozen
from tools.cli import human, notify
from tools.cli.enqueue import spool_of
from tools.cli.group import RepoCommand
from tools.cli.ingest import PUBLISHED_WITH_PROBLEMS, WORDING, as_progress, hooks_folder
from tools.cli.invocation import Invocation, pass_invocation
from tools.cli.parameters import STREAMS
from tools.cli.version import VERSION

if TYPE_CHECKING:
    from ingest.progress import ProgressState
    from ingest.queue.drain import Drained
    from ingest.queue.spool import Running, Spool
    from tools.cli.progress import Reporter


@click.command(cls=RepoCommand)
@click.option(
    "--streams",
    type=STREAMS,
    metavar="N|auto",
    help="At most so many parallel streams; auto: as many as processors.",
)
@click.option("--hooks", metavar="DIR|off", help="As for `repo ingest`.")
@click.option("--now", is_flag=True, help="Try those that failed before again, without waiting.")
@pass_invocation
def drain(run: Invocation, streams: str | None, hooks: str | None, now: bool) -> int:
    """Run what `repo ingest --enqueue` has queued for this repository, until nothing is left.

    Several sources share one job. An entry leaves the queue when its point is published; one
    that fails is tried again after 1, 5, 15 and 60 minutes, by the next drain (exit status
    3, or 1 when there is no point at all). `repo jobs` lists what is queued.
    """
    settings = run.configuration.settings.ingest
    chosen = streams or settings.streams or "auto"
    options = {
        "streams": 0 if chosen == "auto" else int(chosen),
        "hooks": hooks_folder(hooks, settings.hooks),
        "made_by": f"repo {VERSION}",
    }
    spool = spool_of(run)
    started = time.time()
    for text in frozen.thaw_leftovers(frozen.place(os.geteuid(), os.environ)):
        run.notice(text)
    with spool.exclusive() as running:
        spool.awake()
        if now:
            for entry in spool.entries():
                if entry.not_before_ns:
                    spool.replace(entry.at_once())
        try:
            drained = _drain(run, spool, running, options)
        except BaseException as error:
            spool.ended({"time": started, "status": getattr(error, "exit_status", 1)})
            raise
        status = _status(drained)
        spool.ended({"time": started, "status": status, "points": len(drained.points)})
    _tell(run, spool, drained)
    return status


def _drain(run: Invocation, spool: Spool, running: Running, options: dict[str, Any]) -> Drained:
    if not any(True for _ in spool.entries()):
        from ingest.queue.drain import Drained

        notify.ready("nothing is queued")
        return Drained()  # not worth asking for the key
    with run.open() as repository, run.console.reporter(WORDING) as reporter:
        from ingest.queue.drain import Drain

        notify.ready("running what is queued")
        work = Drain(
            spool,
            repository,
            running,
            on_progress=lambda state: _progress(reporter, state),
            on_notice=reporter.notice,
            **options,
        )
        work.run()
        reporter.close()
    return work.drained


def _progress(reporter: Reporter, state: ProgressState) -> None:
    reporter.update(as_progress(state))
    notify.status(f"{human.count(state.files)} files, {human.size(state.bytes_source)}")


def _status(drained: Drained) -> int:
    if drained.failed and not drained.points:
        return 1
    return PUBLISHED_WITH_PROBLEMS if drained.failed or drained.problems else 0


def _tell(run: Invocation, spool: Spool, drained: Drained) -> None:
    for entry, error in drained.failed:
        what = "failed for good" if entry.failed else f"failed, try {entry.tries}"
        run.notice(f"{entry.source_id} ({entry.shown}): {what}: {error}")
    left = list(spool.entries())
    if run.console.json:
        run.console.event(
            "summary",
            points=[{"point": p.id.hex(), "source": p.source_id} for p in drained.points],
            jobs=drained.jobs,
            problems=drained.problems,
            failed=[entry.key for entry, _ in drained.failed],
            left=len(left),
        )
        return
    for point in drained.points:
        name = run.console.styled(point.id.hex()[:8], "yellow")
        run.console.say(f"Point {name} of {human.printable(point.source_id)}")
    if left:
        later = [entry.not_before_ns for entry in left if not entry.failed]
        when = f", the next try at {human.local_time(min(later))}" if any(later) else ""
        run.console.say(f"{human.plural(len(left), 'entry', 'entries')} left in the queue{when}")
    elif not drained.points:
        run.console.say("Nothing is queued")
