"""A mountpoint: a mount server started for a measurement, waited for, and taken away again."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from repo.errors import JobFailed
from tools.bench.command import Command, CommandFailed, complaint, start, stop

_READY_SECONDS = 120.0
_END_SECONDS = 30.0
_POLL_SECONDS = 0.02
_UNMOUNT = (("fusermount3", "-u"), ("fusermount", "-u"), ("umount",))
_DETACH = (("fusermount3", "-uz"), ("fusermount", "-uz"), ("umount", "-l"))
_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True)
class Mounted:
    """Where the content of the source shows, the server's process id, seconds until it showed."""

    root: Path
    server: int | None
    mount_seconds: float


def mounts_below(folder: Path) -> list[Path]:
    """Mountpoints at or below a folder, innermost first. Looks at the kernel's list only: to
    stat a mount whose server hangs would hang us.
    """
    found = []
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        point = Path(_ESCAPE.sub(lambda match: chr(int(match[1], 8)), line.split()[4]))
        if point == folder or folder in point.parents:
            found.append(point)
    return sorted(found, key=lambda point: len(point.parts), reverse=True)


def unmount_below(folder: Path) -> None:
    """Unmount what is mounted at or below a folder, detaching what is busy.

    Raises JobFailed when something stays mounted.
    """
    for ways in (_UNMOUNT, _DETACH):
        for point in mounts_below(folder):
            for way in ways:
                if shutil.which(way[0]) is None:
                    continue
                done = subprocess.run((*way, str(point)), capture_output=True, check=False)
                if done.returncode == 0:
                    break
        if not mounts_below(folder):
            return
    left = mounts_below(folder)
    raise JobFailed("cannot unmount", where=str(left[0]), next_step=f"fusermount3 -u {left[0]}")


@contextlib.contextmanager
def serving(command: Command, at: Path, root: Path) -> Iterator[Mounted]:
    """Run a mount server in the foreground, from the moment that root can be listed.

    at: the mountpoint. root: the place below it where the content of the source appears.
    Raises CommandFailed when the server ends or does not show the root in time.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        began = time.monotonic()
        process = start(command, output=output, errors=errors)
        try:
            while not _shows(at, root):
                if process.poll() is not None:
                    raise complaint(command, process.returncode, errors)
                if time.monotonic() - began > _READY_SECONDS:
                    raise CommandFailed(
                        f"{command.argv[0]} did not mount within {_READY_SECONDS:.0f} s",
                        where=str(root),
                    )
                time.sleep(_POLL_SECONDS)
            yield Mounted(root, process.pid, time.monotonic() - began)
        finally:
            try:
                unmount_below(at)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_END_SECONDS)
            finally:
                stop(process)


def _shows(at: Path, root: Path) -> bool:
    """Whether the mount is there and answers; asked in a child, which a hung mount cannot hang."""
    if not mounts_below(at):
        return False
    try:
        asked = subprocess.run(
            ("test", "-d", str(root)), timeout=_READY_SECONDS, check=False, capture_output=True
        )
    except subprocess.TimeoutExpired:
        return False
    return asked.returncode == 0
