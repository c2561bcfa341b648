"""`repo ingest`: back up one or more sources in one multiplexed job."""

from __future__ import annotations

import gc
import os
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import click

from tools.cli import human
from tools.cli.enqueue import TOOLS, check_options, enqueue, told_by
from tools.cli.group import RepoCommand
from tools.cli.invocation import Invocation, pass_invocation
from tools.cli.parameters import STREAMS, NumberOr
from tools.cli.progress import ProgressState, Reporter, StreamState, Wording
from tools.cli.show import PROBLEMS_SHOWN, problems_of
from tools.cli.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ingest import progress
    from ingest.queue.convention import Told
    from ingest.session import IngestRequest, IngestSummary
    from repo.repository import Repository
    from tools.cli.config import IngestSettings

PUBLISHED_WITH_PROBLEMS: Final = 3
LEVEL_MAX: Final = 19
"""zstd's levels above take much more memory, in restore as well."""

WHETHER = click.Choice(["auto", "never"])

WORDING = Wording("Backing up", verb="done")


@click.command(cls=RepoCommand)
@click.argument("paths", nargs=-1, metavar="PATH...", type=click.Path())
@click.option("--source-id", metavar="ID", help="Name the source; else it is HOST:PATH.")
@click.option("--exclude", multiple=True, metavar="PATTERN", help="Leave out (as in .gitignore).")
@click.option("--exclude-from", multiple=True, metavar="FILE", help="Read such patterns from FILE.")
@click.option("--exclude-caches", is_flag=True, help="Leave out folders with a CACHEDIR.TAG.")
@click.option("--one-file-system", is_flag=True, help="Do not enter other file systems.")
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="Mark the points.")
@click.option(
    "--streams",
    type=STREAMS,
    metavar="N|auto",
    help="At most so many parallel streams; auto: as many as processors.",
)
@click.option(
    "--base",
    default="auto",
    metavar="auto|none|POINT",
    help="Compare with the last point of the source, with none, or with POINT.",
)
@click.option(
    "--compression",
    type=NumberOr(1, LEVEL_MAX, "auto", "off"),
    metavar="auto|off|LEVEL",
    help="auto: a zstd level that keeps up with the reading.",
)
@click.option("--together", is_flag=True, help="Make the snapshots of all sources at one moment.")
@click.option(
    "--take",
    type=WHETHER,
    metavar="auto|never",
    help="auto: read a snapshot of what is live, where one can be made.",
)
@click.option(
    "--pin",
    type=WHETHER,
    metavar="auto|never",
    help="auto: clone a snapshot that is read, so that deleting it does no harm.",
)
@click.option(
    "--keep-snapshot",
    type=WHETHER,
    metavar="auto|never",
    help="auto: leave the last snapshot there, so that the next run can compare with it.",
)
@click.option(
    "--hooks",
    metavar="DIR|off",
    help="Run the hooks in DIR instead of hooks.d beside the configuration.",
)
@click.option(
    "--enqueue",
    "queued",
    is_flag=True,
    help="Pin it, write it down and return at once; `repo drain` does the work.",
)
@click.option(
    "--from",
    "tool",
    type=click.Choice(TOOLS),
    help="Take from this tool's call (words behind --, environment or stdin) what it has made.",
)
@click.option("--dry-run", is_flag=True, help="Read and count, but store and publish nothing.")
@click.option(
    "--delta", is_flag=True, help="Save only what lists of paths say, over the point --base."
)
@click.option("--files-from", metavar="FILE", help="With --delta: changed paths, each with a NUL.")
@click.option("--deleted-from", metavar="FILE", help="With --delta: deleted paths, the same way.")
@pass_invocation
def ingest(run: Invocation, /, paths: tuple[str, ...], **options: Any) -> int:
    """Back up one or more sources in one job.

    Each PATH is a source and becomes a backup point; PATH may be a snapshot. Patterns have
    the form of .gitignore, with the source as root, and the last one that matches decides.
    What does not change is stored once, wherever it is found.

    The exit status is 3 when points were published, but with problems of single files or hooks.
    With --enqueue no key is needed. `--from snapper -- "$@"` is what a plugin of snapper says.

    Interrupted once, it keeps what is done; interrupted twice, it stops at once.

    With --delta, PATH is not walked: the lists say which paths to read (with a slash at the end,
    a directory and all below it) and which are gone since the point --base. Such a point is
    shown as a full, its base and what changed.
    """
    from tools.cli import delta

    delta.check_options(options)
    check_options(options)
    if options["delta"]:
        problems = delta.save(run, paths, options).problems
        return PUBLISHED_WITH_PROBLEMS if problems else 0
    told = told_by(options["tool"], paths)
    if not told:
        run.console.hint(f"{options['tool']} made no snapshot: nothing to do.")
        return 0
    request = _request(told, options, run.configuration.settings.ingest)
    if options["queued"]:
        return enqueue(run, told, request, tool=options["tool"])
    from ingest import session

    gc.freeze()  # what was imported stays: no collection need look at it again
    with run.open() as repository, run.console.reporter(WORDING) as reporter:
        summary = session.ingest(
            repository,
            request,
            on_progress=lambda state: reporter.update(as_progress(state)),
            on_notice=reporter.notice,
        )
        reporter.close()
        if request.dry_run:
            # Its points are not in the repository, nor are the lists of their problems.
            summary = replace(summary, points=())
        _tell_problems(reporter, repository, summary, limit=not run.console.json)
        if run.console.json:
            run.console.event("summary", **as_json(summary))
        else:
            _tell(run, summary, dry_run=request.dry_run)
    troubled = summary.problems or summary.failed or summary.hooks_failed
    return PUBLISHED_WITH_PROBLEMS if troubled else 0


def _request(
    told: Sequence[Told], options: dict[str, Any], settings: IngestSettings
) -> IngestRequest:
    """What is asked for: the command line, and the configuration where that is silent."""
    from ingest.request import LEVELS_AUTO, IngestRequest

    streams = options["streams"] or settings.streams or "auto"
    compression = options["compression"] or settings.compression or "auto"
    named = {"auto": LEVELS_AUTO, "off": ()}
    return IngestRequest(
        paths=tuple(snapshot.path for snapshot in told),
        source_ids=_source_ids(told, options["source_id"] or ""),
        # The last pattern that matches decides: the command line has the last word.
        exclude=(*settings.exclude, *options["exclude"]),
        exclude_from=(*settings.exclude_from, *options["exclude_from"]),
        exclude_caches=options["exclude_caches"] or bool(settings.exclude_caches),
        one_file_system=options["one_file_system"] or bool(settings.one_file_system),
        tags=(*settings.tags, *options["tags"]),
        streams=0 if streams == "auto" else int(streams),
        levels=named[compression] if compression in named else (int(compression),),
        base=options["base"],
        together=options["together"],
        take=(options["take"] or settings.take) != "never",
        pin=(options["pin"] or settings.pin) != "never",
        keep_snapshot=(options["keep_snapshot"] or settings.keep_snapshot) != "never",
        dry_run=options["dry_run"],
        hooks=hooks_folder(options["hooks"], settings.hooks),
        made_by=f"repo {VERSION}",
    )


def _source_ids(told: Sequence[Told], source_id: str) -> tuple[str, ...]:
    from ingest.source import SourceIdentity
    from repo.errors import UsageError

    if source_id and len(told) > 1:
        raise UsageError("--source-id goes with one source", where=source_id)
    if source_id:
        return (source_id,)
    # A snapshot that a tool has made is one of the source that the tool tells.
    return tuple(
        SourceIdentity.of(snapshot.live).id if snapshot.live != snapshot.path else ""
        for snapshot in told
    )


def hooks_folder(option: str | None, setting: str | None) -> str:
    """The folder of the hooks: the option's, the configuration's or the usual; "" for none."""
    from ingest.hooks.script import default_folder
    from repo.errors import UsageError

    chosen = option or setting
    if chosen is None:
        return str(default_folder(os.geteuid(), os.environ))
    if chosen == "off":
        return ""
    if not os.path.isdir(chosen):
        raise UsageError(
            "there is no such folder of hooks",
            where=chosen,
            next_step="make it, with folders like freeze.d and thaw.d in it, or say --hooks off",
        )
    return chosen


def as_progress(state: progress.ProgressState) -> ProgressState:
    """The engine's figures as a reporter takes them."""
    return ProgressState(
        items=state.files,
        # Of a large file the bytes read come long before it counts as done.
        bytes_in=max(state.bytes_source, state.bytes_read),
        bytes_expected=state.bytes_expected or None,
        bytes_new=state.bytes_new,
        problems=state.problems,
        streams=[StreamState(s.number, s.path.encode()) for s in state.streams],
    )


def _tell_problems(
    reporter: Reporter, repository: Repository, summary: IngestSummary, *, limit: bool
) -> None:
    for text in summary.failed:
        reporter.notice(f"not backed up: {text}")
    for point in summary.points:
        problems = problems_of(repository, point)
        for problem in islice(problems, PROBLEMS_SHOWN) if limit else problems:
            reporter.problem(problem.path, problem.step, problem.errno, problem.detail)
        if limit and point.problems_total > PROBLEMS_SHOWN:
            left = human.count(point.problems_total - PROBLEMS_SHOWN)
            reporter.notice(f"and {left} more: repo show {point.id.hex()[:8]} --problems")


def _tell(run: Invocation, summary: IngestSummary, *, dry_run: bool) -> None:
    say = run.console.say
    speed = summary.bytes_source / summary.seconds if summary.seconds else 0
    say(
        f"{'Would save' if dry_run else 'Saved'} {human.plural(summary.files, 'file')} in "
        f"{human.plural(summary.directories, 'directory', 'directories')}, "
        f"{human.size(summary.bytes_source)}, "
        f"in {human.duration(summary.seconds)} ({human.size(speed)}/s)"
    )
    figures = [
        f"{human.count(summary.files_reused)} unchanged" if summary.files_reused else "",
        f"{human.count(summary.files_audited)} of them audited" if summary.files_audited else "",
        f"{human.size(summary.bytes_read)} read",
        f"{human.size(summary.bytes_new)} new",
        f"{human.size(summary.bytes_stored)} {'to write' if dry_run else 'written'}",
        human.plural(summary.streams, "stream"),
    ]
    say(", ".join(filter(None, figures)))
    if dry_run:
        problems = f", {human.plural(summary.problems, 'problem')}" if summary.problems else ""
        say(f"Nothing was stored{problems}")
    for point in summary.points:
        problems = ""
        if point.problems_total:
            problems = f"  ({human.plural(point.problems_total, 'problem')})"
        name = run.console.styled(point.id.hex()[:8], "yellow")
        say(f"Point {name} of {human.printable(point.source_id)}{problems}")


def as_json(summary: IngestSummary) -> dict[str, Any]:
    """The summary, with the keys that every release keeps."""
    return {
        "points": [
            {"point": point.id.hex(), "source": point.source_id} for point in summary.points
        ],
        "files": summary.files,
        "directories": summary.directories,
        "files_reused": summary.files_reused,
        "bytes_source": summary.bytes_source,
        "bytes_read": summary.bytes_read,
        "bytes_new": summary.bytes_new,
        "bytes_stored": summary.bytes_stored,
        "problems": summary.problems,
        "change_source": summary.change_source,
        "verdict": summary.verdict,
        "streams": summary.streams,
        "seconds": round(summary.seconds, 3),
        "plan_seconds": round(summary.plan_seconds, 4),
        "files_audited": summary.files_audited,
    }
