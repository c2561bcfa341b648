"""Mount reads: cases about reading a mount a second time, anywhere, and over a slow store."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from tools.bench.case import Case, Run
from tools.bench.command import Command, run
from tools.bench.contender import Contender
from tools.bench.inputs import Source
from tools.bench.measure import Meter
from tools.bench.mountpoint import serving
from tools.bench.ours import Ours

CLIENTS: Final = (1, 4)
RANDOM_SECONDS: Final = 10
SLOW_MILLISECONDS: Final = 5
_PROJECT = Path(__file__).resolve().parents[2]


def again_cases(source: Source) -> list[Case]:
    """`tar` of a mount that was read by `tar` before."""
    return [Case("mount-tar-again", partial(_tar_again, source))]


def random_cases(source: Source) -> list[Case]:
    """Random blocks of the largest file of the source, by one client and by several."""
    return [
        Case(f"mount-random {clients}", partial(_random, source, clients)) for clients in CLIENTS
    ]


def slow_cases(source: Source) -> list[Case]:
    """The largest file from its beginning to its end, over a store of which each read is slow."""
    return [
        Case(f"mount-slow {ahead}", partial(_slow, source, ahead), alone=True)
        for ahead in ("ahead", "plain")
    ]


def _tar_again(source: Source, contender: Contender, meter: Meter) -> Run:
    contender.fill(source.path)
    with contender.mounted(source.path) as mounted:
        # Not to /dev/null: GNU tar recognises that and then reads no file at all.
        argv = ("sh", "-c", 'exec tar -cf /dev/zero -C "$1" .', "sh", str(mounted.root))
        tar = Command(argv, accepted=frozenset({0, 1}))
        first = meter.run(tar, server=mounted.server)
        measured = meter.run(tar, server=mounted.server)
    facts: dict[str, object] = {"seconds_first": first.seconds}
    return Run(
        measured,
        moved_bytes=source.census.content_bytes,
        files=source.census.files,
        facts=facts,
        words=f"{first.seconds:.3g} s the first time",
    )


def _random(source: Source, clients: int, contender: Contender, meter: Meter) -> Run:
    path, _ = source.census.largest[0]
    contender.fill(source.path)
    meter.settle()
    with contender.mounted(source.path) as mounted:
        shown = mounted.root / path.relative_to(source.path)
        argv = (sys.executable, "-m", "tools.bench.randomread", str(shown), str(clients))
        client = Command((*argv, str(RANDOM_SECONDS)), {"PYTHONPATH": str(_PROJECT)})
        measured = meter.run(client, server=mounted.server)
        facts = msgspec.json.decode(measured.output, type=dict[str, object])
        words = f"{float(str(facts['reads_per_second'])):,.0f} reads/s"
        if isinstance(contender, Ours):
            facts |= _figures(contender, mounted.root)
            asked = int(str(facts["request_read"]))
            at_once = asked - int(str(facts["waits"]))
            words += f", {at_once:,} of {asked:,} requests answered without a thread"
    return Run(measured, files=1, facts=facts, words=words)


def _figures(contender: Ours, root: Path) -> dict[str, object]:
    output = run(contender.command("mount", "--stats", str(root), "--json"))
    return msgspec.json.decode(output, type=dict[str, object])


def _slow(source: Source, ahead: str, contender: Contender, meter: Meter) -> Run:
    path, size = source.census.largest[0]
    contender.fill(source.path)
    meter.settle()
    at = contender.area / "mountpoint"
    at.mkdir(exist_ok=True)
    slow = (sys.executable, "-m", "tools.bench.slowstore", str(SLOW_MILLISECONDS), ahead)
    environment = contender.environment() | {"PYTHONPATH": str(_PROJECT)}
    server = Command((*slow, "mount", "latest", str(at), "--foreground"), environment)
    with serving(server, at, at) as mounted:
        shown = mounted.root / path.relative_to(source.path)
        measured = meter.run(Command(("dd", f"if={shown}", "of=/dev/null", "bs=1M")))
    return Run(measured, moved_bytes=size, files=1)
