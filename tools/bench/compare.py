"""A comparison: medians of runs, and ratios taken pair by pair."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from tools.bench.rounds import Entry


@dataclass(frozen=True)
class Summary:
    """The medians of one contender's runs; None where a case has no such figure.

    seconds_least and seconds_most show how far the runs lie apart.
    """

    seconds: float
    seconds_least: float
    seconds_most: float
    cpu_seconds: float
    megabytes_per_second: float | None
    stored_bytes: int | None


@dataclass(frozen=True)
class Ratio:
    """How the first contender stands beside another one; None where a figure is missing.

    times_faster and times_less_cpu: theirs by ours, above 1 is good for us. stored_share and
    pss_share: ours by theirs, below 1 is good for us. pairs: the ratios of seconds whose median
    times_faster is.
    """

    peer: str
    times_faster: float
    times_less_cpu: float | None
    stored_share: float | None
    pss_share: float | None
    pairs: tuple[float, ...]


def pair_ratios(theirs: Sequence[float], ours: Sequence[float]) -> list[float]:
    """Theirs by ours for each pair of runs that stood side by side.

    The machine's mood changes over minutes, not within a pair, so it cancels out. Pairs whose
    divisor is zero (less CPU time than a tick) say nothing and are left out.
    """
    return [their / our for their, our in zip(theirs, ours, strict=False) if our > 0 and their > 0]


def summarise(entry: Entry) -> Summary:
    """The medians of an entry that counts."""
    seconds = [run.measured.seconds for run in entry.runs]
    rates = [
        run.moved_bytes / run.measured.seconds / 1e6
        for run in entry.runs
        if run.moved_bytes is not None
    ]
    stored = [run.stored_bytes for run in entry.runs if run.stored_bytes is not None]
    return Summary(
        seconds=statistics.median(seconds),
        seconds_least=min(seconds),
        seconds_most=max(seconds),
        cpu_seconds=statistics.median(run.measured.cpu_seconds for run in entry.runs),
        megabytes_per_second=statistics.median(rates) if rates else None,
        stored_bytes=round(statistics.median(stored)) if stored else None,
    )


def compare(ours: Entry, theirs: Entry) -> Ratio | None:
    """The ratios of two entries; None when one of them does not count."""
    if not (ours.counts and theirs.counts):
        return None
    pairs = pair_ratios(
        [run.measured.seconds for run in theirs.runs], [run.measured.seconds for run in ours.runs]
    )
    cpu = pair_ratios(
        [run.measured.cpu_seconds for run in theirs.runs],
        [run.measured.cpu_seconds for run in ours.runs],
    )
    return Ratio(
        peer=theirs.contender,
        times_faster=statistics.median(pairs),
        times_less_cpu=statistics.median(cpu) if cpu else None,
        stored_share=_share(summarise(ours).stored_bytes, summarise(theirs).stored_bytes),
        pss_share=_share(ours.peak_pss, theirs.peak_pss),
        pairs=tuple(pairs),
    )


def _share(ours: int | None, theirs: int | None) -> float | None:
    return ours / theirs if ours and theirs else None
