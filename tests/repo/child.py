"""A child: a Python process of a test's own, told what to do by its source, killed at the end."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]


def words(source: str, *arguments: object) -> list[str]:
    """The argument vector of a Python process that runs `source`."""
    return [sys.executable, "-c", source, *map(str, arguments)]


def run(source: str, *arguments: object, before: tuple[str, ...] = ()) -> tuple[int, str, str]:
    """Run it to its end: exit status (negative: the signal), stdout, stderr.

    before: the words of a program that runs it, such as strace.
    """
    done = subprocess.run(
        [*before, *words(source, *arguments)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@contextmanager
def running(source: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Start it and wait for its first line, which says it is ready; killed when the block ends."""
    with subprocess.Popen(
        words(source, *arguments),
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline(), "the child ended before it was ready"
            yield process
        finally:
            process.kill()


def ask(process: subprocess.Popen[str], line: str = "") -> str:
    """Send a line to a running child and return the line it answers with."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()
    return process.stdout.readline().rstrip("\n")
