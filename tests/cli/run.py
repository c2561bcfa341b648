"""Runs the command line as a user does: in a process of its own, in a clean environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

PROJECT = Path(__file__).resolve().parents[2]


class Ran(NamedTuple):
    """What a command line left."""

    status: int
    out: str
    err: str

    def objects(self) -> list[dict[str, Any]]:
        """Stdout as JSON lines; fails when anything else is on it."""
        return [json.loads(line) for line in self.out.splitlines()]

    def line(self) -> str:
        """The one line on stderr; fails when there are more or fewer."""
        (line,) = self.err.splitlines()
        return line


class Runner:
    """Command lines with the same home, repository and secret."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environ = {
            "HOME": str(home),
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "TZ": "UTC",
            "PYTHONPATH": str(PROJECT),
        }

    def __call__(
        self,
        *words: str | Path,
        environ: Mapping[str, str] | None = None,
        stdin: str = "",
        pass_fds: tuple[int, ...] = (),
    ) -> Ran:
        """`repo WORDS...`; stdin is no terminal."""
        done = subprocess.run(
            [sys.executable, "-m", "tools.cli.main", *map(str, words)],
            env={**self.environ, **(environ or {})},
            input=stdin.encode(),
            capture_output=True,
            cwd=self.home,
            check=False,
            pass_fds=pass_fds,
            timeout=300,
        )
        return Ran(
            done.returncode,
            done.stdout.decode("utf-8", "surrogateescape"),
            done.stderr.decode("utf-8", "surrogateescape"),
        )
