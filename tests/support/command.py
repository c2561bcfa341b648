"""Run `repo` as a user does: as a process of its own, with its environment and its exit status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

PROJECT: Final = Path(__file__).resolve().parents[2]
SECONDS_MAX: Final = 300
"""After this a command counts as hung; no test waits for it on purpose."""


class Result(NamedTuple):
    """How a command ended and what it wrote."""

    status: int
    out: str
    err: str

    def events(self) -> list[dict[str, Any]]:
        """The objects that a command with --json wrote, one a line."""
        return [json.loads(line) for line in self.out.splitlines() if line.startswith("{")]

    def summary(self) -> dict[str, Any]:
        """The last object that a command with --json wrote."""
        return self.events()[-1]


def environment(home: Path, **more: str) -> dict[str, str]:
    """The environment of a command: this process's without any repository, at home in `home`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("REPO_", "XDG_")) and name != "CREDENTIALS_DIRECTORY"
    }
    path = os.pathsep.join(filter(None, (str(PROJECT), os.environ.get("PYTHONPATH"))))
    return kept | {"HOME": str(home), "PYTHONPATH": path, "COLUMNS": "100"} | more


def words(*arguments: str | Path) -> list[str]:
    """The argument vector of `repo` with these arguments, for whoever starts it himself."""
    return [sys.executable, "-m", "tools.cli.main", *map(str, arguments)]


def run(
    *arguments: str | Path,
    env: Mapping[str, str],
    status: int | None = 0,
    cwd: Path | None = None,
    stdin: str = "",
) -> Result:
    """Run `repo` with the arguments. Fails when it does not end with `status`; None: any."""
    done = subprocess.run(
        words(*arguments),
        env=env,
        cwd=cwd,
        input=stdin,
        capture_output=True,
        encoding="utf-8",
        errors="backslashreplace",
        timeout=SECONDS_MAX,
        check=False,
    )
    result = Result(done.returncode, done.stdout, done.stderr)
    if status is not None:
        said = f"repo {' '.join(map(str, arguments))} ended with {result.status}"
        assert result.status == status, f"{said}, not {status}\n{result.out}\n{result.err}"
    return result


class Repository:
    """A repository of a test's own, opened by a key file (a password costs .6 s each time)."""

    def __init__(self, folder: Path) -> None:
        """Where things will be: the repository, its key file and a home, all below `folder`."""
        self.path = folder / "repository"
        self.key_file = folder / "key"
        self.home = folder / "home"
        self.env = environment(
            self.home, REPO_LOCATION=str(self.path), REPO_KEY_FILE=str(self.key_file)
        )

    @classmethod
    def make(cls, folder: Path, *options: str) -> Repository:
        """Make one below `folder`, by `repo init` with the options."""
        made = cls(folder)
        made.home.mkdir(parents=True)
        made.run("init", "--key-file", made.key_file, *options)
        return made

    def run(
        self,
        *arguments: str | Path,
        status: int | None = 0,
        cwd: Path | None = None,
        stdin: str = "",
        env: Mapping[str, str] | None = None,
    ) -> Result:
        """Run `repo` on this repository; `env` is added to the environment."""
        together = self.env | dict(env or {})
        return run(*arguments, env=together, status=status, cwd=cwd, stdin=stdin)
