"""The cases of a benchmark: which there are, and those about one backup of one source."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec

from repo.types import MIB
from tools.bench import history
from tools.bench.case import Case, Run, tool_of
from tools.bench.command import Command
from tools.bench.contender import BackupTool, Contender, remove_tree
from tools.bench.increment import increment_cases, move_cases
from tools.bench.inputs import Census, Say, Source, take_census
from tools.bench.measure import Measurement, Meter
from tools.bench.mountreads import again_cases, random_cases, slow_cases
from tools.bench.resumption import resume_cases
from tools.cli import human

CASE_NAMES = (
    "ingest",
    "ingest-again",
    "restore",
    "mount-find",
    "mount-tar",
    "mount-sequential",
    "list",
    "index",
    "diff",
    "merge",
    "prune",
    "aged",
    "mount-tar-again",
    "mount-random",
    "mount-slow",
    "resume",
    "increment",
    "move",
)
"""Those from `diff` on take long, and are played when named."""

_WHEN_NAMED = frozenset(CASE_NAMES[CASE_NAMES.index("diff") :])
SEQUENTIAL_BYTES_LEAST = 64 * MIB
_SEQUENTIAL_FILES = 2
_PROJECT = Path(__file__).resolve().parents[2]
_TAR_TOTAL = re.compile(rb"Total bytes written: (\d+)")


def _ingest(source: Source, contender: Contender, meter: Meter) -> Run:
    """A first ingest into a fresh repository."""
    tool_of(contender).begin()
    return _ingested(source, tool_of(contender), meter)


def _ingest_again(source: Source, contender: Contender, meter: Meter) -> Run:
    """An ingest of what the repository already holds, unchanged."""
    contender.fill(source.path)
    return _ingested(source, tool_of(contender), meter)


def _ingested(source: Source, contender: BackupTool, meter: Meter) -> Run:
    meter.settle()
    measured = meter.run(contender.ingest_command(source.path))
    contender.keep_filled()
    return Run(
        measured,
        moved_bytes=source.census.content_bytes,
        files=source.census.files,
        stored_bytes=contender.stored_bytes(),
        remark="" if measured.exit_status == 0 else f"exit status {measured.exit_status}",
        facts=contender.facts(measured.output),
    )


def _restore(source: Source, contender: Contender, meter: Meter) -> Run:
    """A restore of everything into an empty folder."""
    contender.fill(source.path)
    to = contender.area / "restored"
    remove_tree(to)
    to.mkdir(parents=True)
    meter.settle()
    measured = meter.run(contender.restore_command(source.path, to))
    found = take_census(contender.restored_root(source.path, to))
    remove_tree(to)
    return Run(
        measured,
        moved_bytes=found.content_bytes,
        files=found.files,
        remark=_difference(source.census, found),
    )


def _difference(expected: Census, found: Census) -> str:
    """What a restored tree lacks, by number; empty when nothing."""
    pairs = (
        ("files", expected.files, found.files),
        ("directories", expected.directories, found.directories),
        ("bytes", expected.content_bytes, found.content_bytes),
    )
    return ", ".join(f"{got:,} of {want:,} {what}" for what, want, got in pairs if got != want)


def _mount_find(source: Source, contender: Contender, meter: Meter) -> Run:
    """`find` with a stat of every entry, on a fresh mount."""
    wanted = source.census.files + source.census.directories + 1

    def check(measured: Measurement) -> Run:
        kinds = [record[:1] for record in measured.output.split(b"\0")]
        got = kinds.count(b"f") + kinds.count(b"d")
        remark = "" if got == wanted else f"{got:,} of {wanted:,} files and directories"
        return Run(measured, files=source.census.files, remark=remark)

    return _on_mount(source, contender, meter, _find, check)


def _find(root: Path) -> Command:
    return Command(("find", str(root), "-printf", r"%y %s %P\0"))


def _mount_tar(source: Source, contender: Contender, meter: Meter) -> Run:
    """`tar` of the whole mount, cold."""

    def check(measured: Measurement) -> Run:
        total = _TAR_TOTAL.search(measured.output)
        got = int(total[1]) if total else 0
        lacks = got < source.census.content_bytes or measured.exit_status != 0
        return Run(
            measured,
            moved_bytes=source.census.content_bytes,
            files=source.census.files,
            remark=f"tar read {got:,} bytes only" if lacks else "",
        )

    return _on_mount(source, contender, meter, _tar, check)


def _tar(root: Path) -> Command:
    # Not to /dev/null: GNU tar recognises that and then reads no file at all.
    # Exit status 1: something changed meanwhile, which the check sees.
    argv = ("sh", "-c", 'exec tar --totals -cf /dev/zero -C "$1" . 2>&1', "sh", str(root))
    return Command(argv, accepted=frozenset({0, 1}))


def _mount_sequential(
    source: Source, path: Path, size: int, contender: Contender, meter: Meter
) -> Run:
    """One large file from its beginning to its end, on a fresh mount."""

    def read(root: Path) -> Command:
        return Command(
            ("dd", f"if={root / path.relative_to(source.path)}", "of=/dev/null", "bs=1M")
        )

    def check(measured: Measurement) -> Run:
        return Run(measured, moved_bytes=size, files=1)

    return _on_mount(source, contender, meter, read, check)


def _on_mount(
    source: Source,
    contender: Contender,
    meter: Meter,
    client: Callable[[Path], Command],
    check: Callable[[Measurement], Run],
) -> Run:
    """Measure a client command on a fresh mount, with the CPU time of the server added."""
    contender.fill(source.path)
    meter.settle()
    with contender.mounted(source.path) as mounted:
        measured = meter.run(client(mounted.root), server=mounted.server)
    done = check(measured)
    done.facts["mount_seconds"] = mounted.mount_seconds
    return done


def _help(contender: Contender, meter: Meter) -> Run:
    """The time until a command can begin: what starting the program costs."""
    contender.home.mkdir(parents=True, exist_ok=True)
    return Run(meter.run(tool_of(contender).help_command()))


def _points(source: Source, contender: Contender, meter: Meter) -> Run:
    """The list of backups."""
    contender.fill(source.path)
    return Run(meter.run(tool_of(contender).points_command()))


def _index(chunks: int, contender: Contender, meter: Meter) -> Run:
    """A million chunks through the index layer, without any backup around it."""
    folder = contender.area / "index-fill"
    remove_tree(folder)
    folder.mkdir(parents=True)
    environment = contender.environment() | {"PYTHONPATH": str(_PROJECT)}
    argv = (sys.executable, "-m", "tools.bench.indexfill", str(folder), str(chunks))
    measured = meter.run(Command(argv, environment))
    remove_tree(folder)
    facts = msgspec.json.decode(measured.output, type=dict[str, object])
    return Run(measured, stored_bytes=int(str(facts["index_bytes"])), facts=facts)


def _sequential_cases(source: Source, say: Say) -> list[Case]:
    """One case per large file of the source, because how well a file compresses matters."""
    large = [item for item in source.census.largest if item[1] >= SEQUENTIAL_BYTES_LEAST]
    if not large:
        say(
            f"mount-sequential is left out: the source has no file of "
            f"{human.size(SEQUENTIAL_BYTES_LEAST)} or more (--input large has)"
        )
    return [
        Case(f"mount-sequential {path.name}", partial(_mount_sequential, source, path, size))
        for path, size in large[:_SEQUENTIAL_FILES]
    ]


def find_cases(
    names: Sequence[str], source: Source, *, chunks: int, files: int, say: Say
) -> list[Case]:
    """The cases of these names, in the order of CASE_NAMES; without names those that are short.

    chunks: how many go through the index layer. files: of the trees of `increment` and `move`.
    """
    made = {
        "ingest": [
            Case("ingest", partial(_ingest, source), needs_repository=True, reads_source=True)
        ],
        "ingest-again": [
            Case(
                "ingest-again",
                partial(_ingest_again, source),
                needs_repository=True,
                reads_source=True,
            )
        ],
        "restore": [Case("restore", partial(_restore, source))],
        "mount-find": [Case("mount-find", partial(_mount_find, source))],
        "mount-tar": [Case("mount-tar", partial(_mount_tar, source))],
        "list": [
            Case("list help", _help, needs_repository=True, short=True),
            Case("list points", partial(_points, source), needs_repository=True, short=True),
        ],
        "index": [Case("index", partial(_index, chunks), alone=True)],
        "diff": [Case("diff", partial(history.diff, source), alone=True)],
        "merge": [Case("merge", partial(history.merge, source), alone=True)],
        "prune": [Case("prune", partial(history.prune, source), needs_repository=True)],
        "aged": [
            Case(f"aged {state}", partial(history.aged_read, source, state=state), alone=True)
            for state in history.STATES
        ],
        "mount-tar-again": again_cases(source),
        "mount-random": random_cases(source),
        "mount-slow": slow_cases(source),
        "resume": resume_cases(source),
        "increment": increment_cases(files),
        "move": move_cases(files),
    }
    wanted = [
        name for name in CASE_NAMES if name in names or (not names and name not in _WHEN_NAMED)
    ]
    if "mount-sequential" in wanted:
        made["mount-sequential"] = _sequential_cases(source, say)
    return [case for name in wanted for case in made[name]]
