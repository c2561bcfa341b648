"""A round: the contenders of a case in turn, A B A B, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from repo.errors import RepoError
from tools.bench.case import Case, Run
from tools.bench.contender import BackupTool, Contender
from tools.bench.inputs import Say
from tools.bench.measure import Meter
from tools.cli import human

_SHORT_FACTOR = 5


@dataclass
class Entry:
    """What one contender did in one case.

    runs: the timed ones, in order. peak_pss: bytes, from a run of its own; None when that was
    not asked for or the process forbids it. failure: why it dropped out; its runs then do not
    count.
    """

    contender: str
    runs: list[Run] = field(default_factory=list)
    peak_pss: int | None = None
    failure: str = ""

    @property
    def counts(self) -> bool:
        """Whether there is something to compare."""
        return bool(self.runs) and not self.failure


@dataclass
class Result:
    """What came of one case, the contenders in their order."""

    case: str
    entries: list[Entry]


def play(
    case: Case,
    contenders: Sequence[Contender],
    result: Result,
    *,
    runs: int,
    memory: bool,
    folder: Path,
    say: Say,
) -> None:
    """Play a case: every contender once, then every one again, and so on.

    Fills in the result as it goes, so that what is done survives an interruption. A contender
    that fails is out of this case; the others go on. With memory, each does one further run in
    which its memory is sampled and its time is not kept.
    """
    try:
        _play(case, contenders, result, runs=runs, memory=memory, folder=folder, say=say)
    finally:
        case.end()


def _play(
    case: Case,
    contenders: Sequence[Contender],
    result: Result,
    *,
    runs: int,
    memory: bool,
    folder: Path,
    say: Say,
) -> None:
    able = [
        contender
        for contender in (contenders[:1] if case.alone else contenders)
        if isinstance(contender, BackupTool) or not case.needs_repository
    ]
    result.entries.extend(Entry(contender.name) for contender in able)
    pairs = list(zip(able, result.entries, strict=True))
    timing = Meter(folder, memory=False)
    total = runs * (_SHORT_FACTOR if case.short else 1)
    if case.short:
        say(f"{case.name}: {total} runs each")
    for number in range(1, total + 1):
        for contender, entry in pairs:
            label = f"{case.name} {number}/{total}: {contender.name}"
            done = _turn(case, contender, entry, timing, label, say)
            if done is not None:
                entry.runs.append(done)
            if done is not None and not case.short:
                say(f"{label} {done.measured.seconds:.3g} s")
    if not memory or case.short:
        return
    sampling = Meter(folder, memory=True)
    for contender, entry in pairs:
        label = f"{case.name} memory: {contender.name}"
        done = _turn(case, contender, entry, sampling, label, say)
        if done is not None:
            entry.peak_pss = done.measured.peak_pss
            say(f"{label} {_told(entry.peak_pss)}")


def _turn(
    case: Case, contender: Contender, entry: Entry, meter: Meter, label: str, say: Say
) -> Run | None:
    """One run; None when the contender is out of this case or drops out now."""
    if entry.failure:
        return None
    try:
        return case.attempt(contender, meter)
    except (RepoError, OSError) as error:
        entry.failure = str(error)
        say(f"{label} failed: {error}")
        return None


def _told(peak_pss: int | None) -> str:
    if peak_pss is None:
        return "not seen (ended at once, or forbids it: processes that hold keys need root)"
    return human.size(peak_pss)
