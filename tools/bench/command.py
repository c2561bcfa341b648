"""A command: one program call of the benchmark, with its environment and what counts as success."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from repo.errors import JobFailed

_LAST_WORDS_BYTES = 2000
_STOP_SIGNALS = ((signal.SIGINT, 10.0), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0))


class CommandFailed(JobFailed):
    """A program of the comparison could not be started, or ended as one that failed."""


@dataclass(frozen=True)
class Command:
    """What to run.

    environment is the whole environment, not an addition to ours. accepted lists the exit
    statuses with which the work counts as done (backup tools have one for "some files changed").
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    folder: Path | None = None
    accepted: frozenset[int] = frozenset({0})


def start(command: Command, *, output: BinaryIO, errors: BinaryIO) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own, so that Ctrl-C reaches the benchmark alone.

    Raises CommandFailed when the program cannot be executed.
    """
    try:
        return subprocess.Popen(
            command.argv,
            env=dict(command.environment),
            cwd=command.folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            start_new_session=True,
        )
    except OSError as error:
        raise CommandFailed(
            f"cannot run {command.argv[0]}: {error.strerror}",
            where=str(command.folder or ""),
            next_step="install it, or leave it out",
        ) from error


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process group that we started: SIGINT, then SIGTERM, then SIGKILL."""
    for number, patience_seconds in _STOP_SIGNALS:
        if process.poll() is not None:
            return
        try:
            os.killpg(process.pid, number)
            process.wait(patience_seconds)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def last_words(errors: BinaryIO) -> str:
    """The end of what a program wrote to its standard error, for a message."""
    size = errors.seek(0, os.SEEK_END)
    errors.seek(max(0, size - _LAST_WORDS_BYTES))
    lines = errors.read().decode(errors="replace").strip().splitlines()
    return " | ".join(line.strip() for line in lines[-4:] if line.strip())


def complaint(command: Command, status: int, errors: BinaryIO) -> CommandFailed:
    """The error for a command that ended badly, with its own last words."""
    reason = f"signal {-status}" if status < 0 else f"exit status {status}"
    # Only the program and its verb: arguments may be long, and paths are in the words anyway.
    return CommandFailed(
        f"{' '.join(command.argv[:2])} ended with {reason}",
        where=last_words(errors) or "it wrote no error message",
    )


def run(command: Command) -> bytes:
    """Run a command that is not measured; its standard output. Raises CommandFailed."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = start(command, output=output, errors=errors)
        try:
            status = process.wait()
        except BaseException:
            stop(process)
            raise
        if status not in command.accepted:
            raise complaint(command, status, errors)
        output.seek(0)
        return output.read()
