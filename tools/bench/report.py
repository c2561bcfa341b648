"""A report: everything a benchmark found, as a table for people and as JSON for programs."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

from tools.bench import targets
from tools.bench.compare import Ratio, compare, summarise
from tools.bench.inputs import Source
from tools.bench.machine import Machine
from tools.bench.rounds import Entry, Result
from tools.cli import human

_FORMAT = 1
_FIGURES = (
    "seconds",
    "spread",
    "faster",
    "CPU s",
    "less CPU",
    "peak PSS",
    "stored",
    "share",
    "MB/s",
)
_FIGURES_SPARED = frozenset({"spread", "less CPU"})
_WIDE = 100
_CASE_WIDTH = 16


@dataclass
class Report:
    """What is known so far; complete only when every case was played to its end.

    versions: by contender, the first of which is the one that the others are compared with.
    """

    machine: Machine
    source: Source
    runs: int
    started: str
    versions: dict[str, str]
    results: list[Result] = field(default_factory=list)
    complete: bool = False

    def failed(self) -> list[str]:
        """What went wrong: contenders that dropped out of a case, and why."""
        return [
            f"{result.case}: {entry.contender} dropped out: {entry.failure}"
            for result in self.results
            for entry in result.entries
            if entry.failure
        ]

    def remarks(self) -> list[str]:
        """Work that was called a success but is not what was asked for, each once."""
        found = (
            f"{result.case}: {entry.contender}: {run.remark}"
            for result in self.results
            for entry in result.entries
            for run in entry.runs
            if run.remark
        )
        return list(dict.fromkeys(found))

    def words(self) -> list[str]:
        """What there is to say of the last run of each."""
        return [
            f"{result.case}: {entry.contender}: {entry.runs[-1].words}"
            for result in self.results
            for entry in result.entries
            if entry.runs and entry.runs[-1].words
        ]

    def ratios(self, result: Result) -> dict[str, Ratio]:
        """The first contender beside each other one, by its name."""
        reference, *others = result.entries or [Entry("")]
        compared = {entry.contender: compare(reference, entry) for entry in others}
        return {name: ratio for name, ratio in compared.items() if ratio is not None}


def write_json(report: Report, target: Path) -> None:
    """Write the report as JSON, whole or not at all. Raises OSError."""
    text = msgspec.json.format(msgspec.json.encode(_document(report)), indent=2)
    descriptor, part = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text + b"\n")
        os.replace(part, target)
    except BaseException:
        os.unlink(part)
        raise


def _document(report: Report) -> dict[str, object]:
    """The JSON object: seconds, bytes and UTC throughout; null where a figure is missing."""
    source = report.source
    census = source.census
    return {
        "format": _FORMAT,
        "complete": report.complete,
        "started": report.started,
        "machine": report.machine,
        "input": {
            "name": source.name,
            "path": str(source.path),
            "files": census.files,
            "directories": census.directories,
            "others": census.others,
            "bytes": census.content_bytes,
        },
        "runs": report.runs,
        "versions": report.versions,
        "results": [
            {
                "case": result.case,
                "contenders": [_entry_document(entry) for entry in result.entries],
                "ratios": list(report.ratios(result).values()),
            }
            for result in report.results
        ],
    }


def _entry_document(entry: Entry) -> dict[str, object]:
    return {
        "name": entry.contender,
        "failure": entry.failure or None,
        "median": summarise(entry) if entry.counts else None,
        "peak_pss": entry.peak_pss,
        "files": entry.runs[0].files if entry.runs else None,
        "runs": [
            {
                "seconds": run.measured.seconds,
                "cpu_seconds": run.measured.cpu_seconds,
                "exit_status": run.measured.exit_status,
                "stored_bytes": run.stored_bytes,
                "remark": run.remark or None,
                "facts": run.facts,
            }
            for run in entry.runs
        ],
    }


def print_report(report: Report, console: Console) -> None:
    """Print machine, table, targets and what went wrong."""
    machine, census = report.machine, report.source.census
    console.print(
        f"{report.source.name}: {census.files:,} files, {census.directories:,} directories, "
        f"{human.size(census.content_bytes)}. {machine.processor}, {machine.cores} cores, "
        f"{human.size(machine.memory_bytes)}, kernel {machine.kernel}, {machine.work_file_system}, "
        f"load {machine.load:.1f} at the start.",
        highlight=False,
    )
    console.print(_table(report, wide=console.width >= _WIDE))
    for line in (*report.words(), *_targets(report)):
        console.print(line, highlight=False, markup=False)
    for line in report.remarks():
        console.print(f"note: {line}", highlight=False, style="yellow", markup=False)
    for line in report.failed():
        console.print(line, highlight=False, style="red", markup=False)
    if not report.complete:
        console.print("interrupted: the last case may lack runs", style="red")


def _table(report: Report, *, wide: bool) -> Table:
    """All results; a narrow terminal does without some figures, which the JSON report has."""
    figures = [figure for figure in _FIGURES if wide or figure not in _FIGURES_SPARED]
    reference = next(iter(report.versions), "")
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        caption=f"faster, less CPU, share: {reference} beside the contender of the line",
    )
    table.add_column("case", max_width=_CASE_WIDTH)
    table.add_column("contender", no_wrap=True)
    for figure in figures:
        table.add_column(figure, justify="right", no_wrap=True)
    for result in report.results:
        ratios = report.ratios(result)
        title = result.case
        for entry in result.entries:
            cells = _cells(entry, ratios.get(entry.contender))
            table.add_row(title, entry.contender, *(cells.get(figure, "") for figure in figures))
            title = ""
        table.add_section()
    return table


def _cells(entry: Entry, ratio: Ratio | None) -> dict[str, str]:
    """The figures that there are, each under the name of its column."""
    if not entry.counts:
        return {"seconds": "failed" if entry.failure else "-"}
    summary = summarise(entry)
    figures: dict[str, str | None] = {
        "seconds": f"{summary.seconds:.3g}",
        "spread": f"{summary.seconds_least:.3g}-{summary.seconds_most:.3g}",
        "CPU s": f"{summary.cpu_seconds:.3g}",
        "peak PSS": _shown(entry.peak_pss, human.size),
        "stored": _shown(summary.stored_bytes, human.size),
        "MB/s": _shown(summary.megabytes_per_second, "{:.0f}".format),
    }
    if ratio is not None:
        figures["faster"] = f"{ratio.times_faster:.2f}x"
        figures["less CPU"] = _shown(ratio.times_less_cpu, "{:.2f}x".format)
        figures["share"] = _shown(ratio.stored_share, "{:.2f}".format)
    return {name: text for name, text in figures.items() if text is not None}


def _shown(value: float | None, form: Callable[[float], str]) -> str | None:
    return None if value is None else form(value)


def _targets(report: Report) -> Iterator[str]:
    """How the figures stand to the targets, which are stated for known inputs and restic."""
    name = report.source.name
    yield from _increment_targets(report)
    for result in report.results:
        ratio = report.ratios(result).get("restic")
        speed = targets.SPEED.get((name, result.case))
        if ratio is not None and speed is not None:
            reached = targets.verdict(speed, ratio.times_faster)
            yield (
                f"{result.case}: {ratio.times_faster:.2f}x restic, at least {speed.least:g}x, "
                f"aim {speed.aim:g}x: {reached}"
            )
        if result.case != "ingest":
            continue
        if name == "linux" and ratio is not None and ratio.stored_share is not None:
            yield (
                f"stored: {ratio.stored_share:.2f} of restic, at most "
                f"{targets.STORED_SHARE.least:g}, aim {targets.STORED_SHARE.aim:g}: "
                f"{targets.verdict(targets.STORED_SHARE, ratio.stored_share, at_most=True)}"
            )
        peak = result.entries[0].peak_pss if result.entries else None
        if peak is not None:
            least, aim = targets.INGEST_PSS.least, targets.INGEST_PSS.aim
            yield (
                f"peak PSS of ingest: {human.size(peak)}, at most {human.size(least)}, "
                f"aim {human.size(aim)}: "
                f"{targets.verdict(targets.INGEST_PSS, peak, at_most=True)}"
            )


def _increment_targets(report: Report) -> Iterator[str]:
    """How long one more backup took after a little change, and whether that follows the change."""
    found: list[float] = []
    for result in report.results:
        if not result.case.startswith(("increment ", "move ")) or not result.entries[0].counts:
            continue
        seconds = summarise(result.entries[0]).seconds
        target = targets.INCREMENT_SECONDS
        yield (
            f"{result.case}: {seconds:.2f} s, at most {target.least:g} s, aim {target.aim:g} s: "
            f"{targets.verdict(target, seconds, at_most=True)}"
        )
        if result.case.startswith("increment "):
            found.append(seconds)
    if len(found) == 2:
        most = targets.INCREMENT_GROWTH
        yield (
            f"increment: {found[1] / found[0]:.2f} times as long with ten times the files, at most "
            f"{most.least:g}: {targets.verdict(most, found[1] / found[0], at_most=True)}"
        )
