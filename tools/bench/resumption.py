"""A resumption: cases about a first backup that was killed, and what the next one reads again."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from functools import partial
from typing import Final

from tools.bench import processes
from tools.bench.case import Case, Run, tool_of
from tools.bench.command import Command, CommandFailed, start, stop
from tools.bench.contender import Contender
from tools.bench.inputs import Source
from tools.bench.measure import Meter
from tools.cli import human

KILLED_AT_PERCENT: Final = (30, 60, 90)
_POLL_SECONDS: Final = 0.005


def resume_cases(source: Source) -> list[Case]:
    """A first backup killed when it has read so many percent of its source, and gone on with."""
    return [
        Case(
            f"resume {percent}%",
            partial(_resumed, source, percent),
            needs_repository=True,
            reads_source=True,
        )
        for percent in KILLED_AT_PERCENT
    ]


def _resumed(source: Source, percent: int, contender: Contender, meter: Meter) -> Run:
    tool = tool_of(contender)
    tool.begin()
    total = source.census.content_bytes
    command = tool.ingest_command(source.path)
    began = time.perf_counter()
    first = _killed(command, total * percent // 100)
    seconds = time.perf_counter() - began
    meter.settle()
    measured = meter.run(command)
    facts = tool.facts(measured.output)
    words = f"{human.size(first)} of {human.size(total)} read in {seconds:.3g} s before the kill"
    facts |= {"bytes_read_before": first, "seconds_before": seconds}
    if "bytes_read" in facts:
        again = max(0, first + int(str(facts["bytes_read"])) - total)
        facts["bytes_read_again"] = again
        words += f", {human.size(again)} read again"
    return Run(measured, files=source.census.files, facts=facts, words=words)


def _killed(command: Command, limit: int) -> int:
    """Run a command until it has read so many bytes; then kill all of it at once, and see how
    many it has read.

    They are counted by the kernel, so that they are a little more than those of the source.
    Raises CommandFailed when the command ends before.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = start(command, output=output, errors=errors)
        try:
            while processes.bytes_read([process.pid]) < limit:
                if process.poll() is not None:
                    raise CommandFailed(
                        "the first backup ended before it could be killed",
                        next_step="take a larger source",
                    )
                time.sleep(_POLL_SECONDS)
            os.killpg(process.pid, signal.SIGSTOP)
            read = processes.bytes_read([process.pid])
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        finally:
            stop(process)
        return read
