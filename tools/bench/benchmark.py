"""A benchmark: the input, the contenders and the cases of one call, played and reported."""

from __future__ import annotations

import os
import shlex
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from repo.errors import Interrupted, JobFailed, UsageError
from tools.bench.case import Case
from tools.bench.cases import find_cases
from tools.bench.contender import Contender
from tools.bench.inputs import Say, Source, given_source, large_source, linux_source, warm
from tools.bench.machine import this_machine, versions
from tools.bench.ours import Ours, own_program
from tools.bench.peers import find_peers
from tools.bench.report import Report, print_report, write_json
from tools.bench.rounds import Result, play
from tools.bench.workshop import workshop
from tools.cli import human


@dataclass(frozen=True)
class Choices:
    """What was asked for on the command line; the names are those of the options."""

    cases: tuple[str, ...]
    input_name: str
    source: Path | None
    work: Path
    install: bool
    large_size: int | None
    random_size: int
    peers: str
    ours_command: str | None
    ours_args: str
    against: str | None
    against_args: str | None
    runs: int
    chunks: int
    files: int
    pss: bool
    keep: bool
    json_file: Path | None


def run_benchmark(choices: Choices, console: Console, say: Say) -> int:
    """Make the input, play the cases, report. The exit status: 0, or 1 when somebody failed.

    Raises RepoError when it cannot begin.
    """
    work = choices.work.resolve()
    _check_json(choices.json_file)
    with workshop(work, keep=choices.keep, say=say) as area:
        contenders = _contenders(choices, area, say)
        source = _source(choices, work, say)
        cases = find_cases(
            choices.cases, source, chunks=choices.chunks, files=choices.files, say=say
        )
        _check_space(source, work, contenders, say)
        report = Report(
            machine=this_machine(work),
            source=source,
            runs=choices.runs,
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            versions=versions(contenders),
        )
        try:
            for case in cases:
                _play_one(case, contenders, report, choices, area, say)
            report.complete = True
        except KeyboardInterrupt:
            say("interrupted: stopping and cleaning up")
        print_report(report, console)
        if choices.json_file is not None:
            write_json(report, choices.json_file)
            say(f"written: {choices.json_file}")
    if not report.complete:
        return Interrupted.exit_status
    return JobFailed.exit_status if report.failed() else 0


def _play_one(
    case: Case,
    contenders: list[Contender],
    report: Report,
    choices: Choices,
    area: Path,
    say: Say,
) -> None:
    """Play one case into the report."""
    result = Result(case.name, [])
    report.results.append(result)
    if case.reads_source:
        say(f"{case.name}: reading the source into the page cache")
        warm(report.source.path)
    play(
        case,
        contenders,
        result,
        runs=choices.runs,
        memory=choices.pss,
        folder=area,
        say=say,
    )


def _contenders(choices: Choices, area: Path, say: Say) -> list[Contender]:
    """Ours first, which the others are compared with; then another build of ours, then peers."""
    program = tuple(shlex.split(choices.ours_command or "")) or own_program()
    arguments = shlex.split(choices.ours_args)
    found: list[Contender] = [Ours("repo", program, area / "repo", arguments)]
    if choices.against is not None or choices.against_args is not None:
        other = tuple(shlex.split(choices.against or "")) or program
        other_arguments = (
            arguments if choices.against_args is None else shlex.split(choices.against_args)
        )
        found.append(Ours("against", other, area / "against", other_arguments))
    for contender in found:
        _check_program(contender)
    names = [name for name in choices.peers.split(",") if name and name != "none"]
    found.extend(find_peers(names, area, say=say))
    return found


def _check_program(contender: Contender) -> None:
    """Say at once that a command is not there, not after half an hour."""
    if shutil.which(contender.program[0]) is None:
        raise UsageError(
            "the command cannot be run",
            where=contender.program[0],
            next_step="see --ours-command and --against",
        )


def _source(choices: Choices, work: Path, say: Say) -> Source:
    """The input that was asked for."""
    if choices.source is not None:
        return given_source(choices.source)
    store = work / "inputs"
    if choices.input_name == "linux":
        return linux_source(store, install=choices.install, say=say)
    return large_source(
        store, tar_bytes=choices.large_size, random_bytes=choices.random_size, say=say
    )


def _check_json(target: Path | None) -> None:
    """Say at once that the report cannot be written, not after half an hour."""
    if target is not None and not os.access(target.resolve().parent, os.W_OK):
        raise UsageError(
            "the JSON report cannot be written",
            where=str(target),
            next_step="name a file in a folder that you may write to",
        )


def _check_space(source: Source, work: Path, contenders: list[Contender], say: Say) -> None:
    """Warn when the repositories and one restored tree may not fit."""
    needed = source.census.content_bytes * (len(contenders) + 1)
    free = shutil.disk_usage(work).free
    if free < needed:
        say(f"{work} has {human.size(free)} free; up to {human.size(needed)} may be needed")
