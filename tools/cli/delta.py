"""`repo ingest --delta`: a backup point of what somebody else says has changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from repo.errors import UsageError
from tools.cli import human
from tools.cli.invocation import Invocation
from tools.cli.progress import ProgressState, Wording
from tools.cli.version import VERSION

if TYPE_CHECKING:
    from ingest.delta import DeltaProgress, DeltaSummary

WORDING: Final = Wording("Saving a delta", noun="paths", verb="read")
PROBLEMS_SHOWN: Final = 20
_FOREIGN: Final = (
    "exclude", "exclude_from", "exclude_caches", "one_file_system", "streams", "take", "pin",
    "keep_snapshot", "hooks", "dry_run", "tool", "queued",
)  # fmt: skip


def check_options(options: dict[str, Any]) -> None:
    """Raise UsageError for options that do not go together with or without --delta."""
    if not options["delta"]:
        for name in ("files_from", "deleted_from"):
            if options[name] is not None:
                raise UsageError(f"{_option(name)} goes with --delta", next_step="add --delta")
        return
    for name in _FOREIGN:
        if options.get(name):
            raise UsageError(
                f"{_option(name)} does not go with --delta",
                next_step="the lists alone say what is saved",
            )
    if options["files_from"] is None and options["deleted_from"] is None:
        raise UsageError(
            "a delta of nothing", where="--delta", next_step="give --files-from or --deleted-from"
        )
    if options["base"] in ("auto", "none"):
        raise UsageError(
            "a delta needs the name of its base", where="--delta", next_step="give --base POINT"
        )


def _option(name: str) -> str:
    return "--" + {"tool": "from", "queued": "enqueue"}.get(name, name.replace("_", "-"))


def save(run: Invocation, paths: tuple[str, ...], options: dict[str, Any]) -> DeltaSummary:
    """Save a delta and tell what came of it."""
    from ingest.delta import DeltaRequest, ingest_delta

    if len(paths) > 1:
        raise UsageError("a delta has one source", where=paths[1], next_step="name one path")
    settings = run.configuration.settings.ingest
    compression = options["compression"] or settings.compression or "auto"
    level = {"auto": 3, "off": None}.get(str(compression), compression)
    with run.open() as repository, run.console.reporter(WORDING) as reporter:
        summary = ingest_delta(
            repository,
            DeltaRequest(
                path=paths[0],
                base=options["base"],
                files_from=options["files_from"],
                deleted_from=options["deleted_from"],
                source_id=options["source_id"] or "",
                tags=(*settings.tags, *options["tags"]),
                level=None if level is None else int(level),
                made_by=f"repo {VERSION}",
            ),
            on_progress=lambda state: reporter.update(_progress(state)),
        )
        reporter.close()
        for problem in summary.problems[: None if run.console.json else PROBLEMS_SHOWN]:
            reporter.problem(problem.path, problem.step, problem.errno, problem.detail)
    if run.console.json:
        run.console.event("summary", **_as_json(summary))
    else:
        _tell(run, summary)
    return summary


def _progress(state: DeltaProgress) -> ProgressState:
    return ProgressState(
        items=state.paths, items_expected=state.paths_expected, bytes_in=state.bytes_read
    )


def _tell(run: Invocation, summary: DeltaSummary) -> None:
    point = summary.point
    done = point.statistics
    run.console.say(
        f"Saved {human.plural(done.files, 'file')} in "
        f"{human.plural(done.directories, 'directory', 'directories')}, "
        f"{human.plural(summary.removed, 'name')} gone, "
        f"{human.size(done.bytes_stored)} written, in {human.duration(done.seconds)}"
    )
    problems = f"  ({human.plural(point.problems_total, 'problem')})" * bool(point.problems_total)
    name = run.console.styled(point.id.hex()[:8], "yellow")
    run.console.say(
        f"Point {name} of {human.printable(point.source_id)}, over {point.base.hex()[:8]}{problems}"
    )


def _as_json(summary: DeltaSummary) -> dict[str, Any]:
    point = summary.point
    done = point.statistics
    return {
        "points": [{"point": point.id.hex(), "source": point.source_id}],
        "delta_of": point.base.hex(),
        "files": done.files,
        "directories": done.directories,
        "files_reused": 0,
        "removed": summary.removed,
        "bytes_source": done.bytes_source,
        "bytes_read": done.bytes_read,
        "bytes_new": done.bytes_new,
        "bytes_stored": done.bytes_stored,
        "problems": point.problems_total,
        "change_source": point.change_source,
        "verdict": point.verdict,
        "streams": 1,
        "seconds": round(done.seconds, 3),
    }
