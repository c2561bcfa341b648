"""A frozen record: which freeze scripts were started and not yet undone, for whoever survives.

The watchdog keeps it, locked, as long as anything may be frozen. When master and watchdog are both
killed, the lock is gone and the record is not: the next one to come along thaws. It lies where
a reboot clears it, as a reboot thaws everything.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Self

from ingest.hooks import script
from ingest.hooks.script import Facts, ScriptFailed

THAW_SECONDS: Final = 30.0
"""For each script: not stopped half-way without need, and not holding up the others for ever."""

_PREFIX: Final = "frozen-"


def thaw_scripts(folder: str, started: Sequence[str]) -> list[str]:
    """What thaws, in the order to be run: `thaw.d` backwards, without the namesakes of freeze
    scripts that were never started; without a folder `thaw.d` the freeze scripts themselves, as
    the guest agent does it. Raises Unsafe, OSError.
    """
    if not os.path.isdir(os.path.join(folder, "thaw.d")):
        return list(reversed(started))
    names = {os.path.basename(path) for path in started}
    freezing = {os.path.basename(path) for path in script.find(folder, "freeze")}
    thawing = script.find(folder, "thaw")
    return [
        path
        for path in reversed(thawing)
        if os.path.basename(path) in names or os.path.basename(path) not in freezing
    ]


def thaw(scripts: Sequence[str], facts: Facts, *, bound: bool) -> list[ScriptFailed]:
    """Run all of them, whatever comes of each; one that fails is tried once more."""
    failures = []
    for path in scripts:
        failure = script.run(path, "thaw", facts, THAW_SECONDS, bound=bound)
        if failure is not None:
            failure = script.run(path, "thaw", facts, THAW_SECONDS, bound=bound)
        if failure is not None:
            failures.append(failure)
    return failures


class FrozenRecord:
    """Of one freeze. The file comes with the first script started and goes with `close`."""

    def __init__(self, place: Path | None, folder: str, facts: Facts) -> None:
        """place: where records are, or None when there is no safe place for them."""
        self._path = place and place / f"{_PREFIX}{secrets.token_hex(8)}"
        self._folder = folder
        self._facts = facts
        self._fd = -1

    def write(self, started: Sequence[str]) -> None:
        """Say what was started, before it is. Where nothing can be written, go on without."""
        if self._path is None:
            return
        row = {"folder": self._folder, "facts": self._facts._asdict(), "started": list(started)}
        with suppress(OSError):
            if self._fd < 0:
                flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                self._fd = os.open(self._path, flags, 0o600)
                # Between these two lines somebody could take it for a dead one's: it is empty then.
                fcntl.flock(self._fd, fcntl.LOCK_EX)
            text = json.dumps(row).encode()
            os.pwrite(self._fd, text, 0)
            os.ftruncate(self._fd, len(text))

    def close(self) -> None:
        """Everything is thawed."""
        if self._fd < 0 or self._path is None:
            return
        with suppress(OSError):
            self._path.unlink()
        os.close(self._fd)
        self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def place(user_id: int, environ: Mapping[str, str]) -> Path | None:
    """The folder of the records, made when it is missing; None when there is no safe one.

    It is `repo` below REPO_RUN_DIR, else below /run for root and XDG_RUNTIME_DIR for others.
    """
    usual = "/run" if user_id == 0 else environ.get("XDG_RUNTIME_DIR")
    base = environ.get("REPO_RUN_DIR") or usual
    if not base:
        return None
    folder = Path(base) / "repo"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return None
    if found.st_uid != user_id or not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o022:
        return None
    return folder


def thaw_leftovers(folder: Path | None) -> list[str]:
    """Thaw what dead watchdogs left frozen; what there is to be said of it, a line each."""
    said: list[str] = []
    if folder is None:
        return said
    with suppress(OSError):
        for name in sorted(os.listdir(folder)):
            if name.startswith(_PREFIX):
                with suppress(OSError), _taken(folder / name) as text:
                    said += _thaw_one(text)
    return said


@contextmanager
def _taken(path: Path) -> Iterator[bytes]:
    """The content of a record whose watchdog is dead, removed afterwards. OSError when not so."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield os.pread(fd, 1 << 20, 0)
        path.unlink(missing_ok=True)
    finally:
        os.close(fd)


def _thaw_one(text: bytes) -> list[str]:
    try:
        row = json.loads(text)
        folder, facts = str(row["folder"]), Facts(**row["facts"])
        scripts = thaw_scripts(folder, [str(path) for path in row["started"]])
    except (ValueError, KeyError, TypeError, script.Unsafe):
        return []
    failures = thaw(scripts, facts, bound=False)
    return [
        "thawed what a killed run had left frozen",
        *(f"thaw failed: {failure}" for failure in failures),
    ]
