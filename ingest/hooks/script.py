"""A hook script: an executable of a phase, found in its folder and run within its time.

Standard library only: the watchdog imports this and has to be there at once.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import select
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

PHASES: Final = ("freeze", "thaw", "post-snapshot", "pre-read", "post-ingest", "removed", "failed")
API: Final = 1
GRACE_SECONDS: Final = 1.0
"""Between being asked to end and being killed."""

OUTPUT_BYTES: Final = 4096
"""What is read of a script's output at most, from its end."""

_LEFT_OUT: Final = (
    *("~", ".bak", ".orig", ".sample", ".swp", ".rpmnew", ".rpmorig", ".rpmsave"),
    *(".dpkg-old", ".dpkg-new", ".dpkg-tmp", ".dpkg-dist", ".ucf-old", ".ucf-new", ".disabled"),
)
"""Ends of names that editors and package managers leave; those of qemu's fsfreeze-hook and more."""

_PR_SET_PDEATHSIG: Final = 1


class Facts(NamedTuple):
    """What a script is told, in its environment as REPO_NAME and on stdin as JSON.

    job: which run of ingest. source: the id of the source. snapshot: where the view that is read
    lies. status: `ok`, or the exit status the job ends with. location: the repository.
    """

    job: str = ""
    source: str = ""
    snapshot: str = ""
    status: str = ""
    location: str = ""


class ScriptFailed(NamedTuple):
    """A script that did not do its work: which, and in words why."""

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class Unsafe(Exception):
    """A script, or a folder above it, that others than root and we can change."""


def find(folder: str, phase: str) -> list[str]:
    """The scripts of a phase, in their order: executables of `<folder>/<phase>.d`, by name.

    Raises Unsafe, and OSError for a folder that is there but cannot be read.
    """
    place = os.path.join(folder, f"{phase}.d")
    try:
        names = sorted(os.listdir(place))
    except (FileNotFoundError, NotADirectoryError):
        return []
    paths = []
    for name in names:
        path = os.path.join(place, name)
        if name.startswith(".") or name.endswith(_LEFT_OUT):
            continue
        if os.path.isfile(path) and os.access(path, os.X_OK):
            paths.append(path)
    if paths:
        for path in (folder, place, *paths):
            _check(path)
    return paths


def _check(path: str) -> None:
    found = os.stat(path)
    if found.st_uid not in (0, os.geteuid()):
        raise Unsafe(f"{path} belongs to another user")
    if found.st_mode & stat.S_IWOTH or (
        found.st_mode & stat.S_IWGRP and found.st_gid not in (0, os.getegid())
    ):
        raise Unsafe(f"{path} can be changed by other users")


def run(
    path: str,
    phase: str,
    facts: Facts,
    seconds: float,
    *,
    watched: int = -1,
    bound: bool = False,
) -> ScriptFailed | None:
    """Run a script to its end; None when it exits with 0.

    It gets a process group of its own, which is killed when `seconds` are over or when the
    descriptor `watched` becomes readable; when it is `bound`, it dies with this process, which
    must then start processes in no other thread. What it leaves running in the background after
    it has ended is its own business: qemu's MySQL script holds its locks that way.
    """
    with tempfile.TemporaryFile() as told, tempfile.TemporaryFile() as output:
        deadline = math.ceil(time.time() + seconds)
        told.write(json.dumps({"api": API, "phase": phase, **_told(facts, deadline)}).encode())
        told.seek(0)
        try:
            process = subprocess.Popen(
                [path, phase],
                stdin=told,
                stdout=output,
                stderr=output,
                cwd="/",
                env=_environment(phase, facts, deadline),
                process_group=0,
                preexec_fn=_die_with_parent if bound else None,  # noqa: PLW1509 (said above)
            )
        except OSError as error:
            return ScriptFailed(path, f"cannot be run: {error.strerror}")
        cut_short = _wait(process, seconds, watched)
        said = _last_line(output)
    if cut_short:
        return ScriptFailed(path, cut_short + said)
    if process.returncode < 0:
        return ScriptFailed(path, f"killed by {signal.Signals(-process.returncode).name}{said}")
    if process.returncode:
        return ScriptFailed(path, f"ended with status {process.returncode}{said}")
    return None


def _told(facts: Facts, deadline: int) -> dict[str, Any]:
    return {**facts._asdict(), "deadline": deadline}


def _environment(phase: str, facts: Facts, deadline: int) -> Mapping[str, str]:
    told = {f"REPO_{name.upper()}": str(value) for name, value in _told(facts, deadline).items()}
    return os.environ | told | {"REPO_HOOK_API": str(API), "REPO_PHASE": phase}


def _die_with_parent() -> None:
    """In the child: a script never outlives whoever is to undo what it does."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)  # the watchdog ignores them


def _wait(process: subprocess.Popen[bytes], seconds: float, watched: int) -> str:
    """Wait for a script; kill it when its time is over. Why it was killed, or nothing."""
    pidfd = os.pidfd_open(process.pid)
    try:
        waiting = [pidfd, watched] if watched >= 0 else [pidfd]
        ready, _, _ = select.select(waiting, [], [], max(0.0, seconds))
        if pidfd not in ready:
            _kill_group(process.pid, signal.SIGTERM)
            select.select([pidfd], [], [], GRACE_SECONDS)
            # What it started goes with it, whether or not it ended when it was asked to.
            _kill_group(process.pid, signal.SIGKILL)
        process.wait()
    finally:
        os.close(pidfd)
    if pidfd in ready:
        return ""
    return "stopped, for its job died" if ready else f"not done in {seconds:.3g} s, stopped"


def _kill_group(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return


def _last_line(output: IO[bytes]) -> str:
    """The last line a script printed, to be put behind a message."""
    end = output.seek(0, os.SEEK_END)
    output.seek(max(0, end - OUTPUT_BYTES))
    lines = [line.strip() for line in output.read().decode(errors="replace").splitlines()]
    told = [line for line in lines if line]
    return f": {told[-1]}" if told else ""


def default_folder(user_id: int, environ: Mapping[str, str]) -> Path:
    """Where the hooks of a user are: beside the configuration."""
    if user_id == 0:
        return Path("/etc/repo/hooks.d")
    base = environ.get("XDG_CONFIG_HOME") or os.path.join(environ.get("HOME", "/"), ".config")
    return Path(base) / "repo" / "hooks.d"
