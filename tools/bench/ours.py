"""Ours: the project's own command in the comparison, as installed or another build of it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from repo.errors import UsageError
from tools.bench.command import Command, run
from tools.bench.contender import BackupTool


class Ours(BackupTool):
    """`repo`, opened with a key file: a password costs .6 s of Argon2id by design."""

    def __init__(
        self, name: str, program: Sequence[str], area: Path, ingest_arguments: Sequence[str]
    ) -> None:
        super().__init__(name, program, area)
        self._ingest_arguments = tuple(ingest_arguments)
        self._key_file = area / "key"

    def environment(self) -> dict[str, str]:
        """With the repository and the key file."""
        return super().environment() | {
            "REPO_LOCATION": str(self.repository),
            "REPO_KEY_FILE": str(self._key_file),
        }

    def version(self) -> str:
        """The version of the build."""
        return run(self.command("--version")).decode().strip()

    def init_command(self) -> Command:
        """Make a repository that a new key file opens."""
        return self.command("init", "--key-file", str(self._key_file))

    def ingest_command(self, source: Path) -> Command:
        """Back the source up with the arguments of the caller."""
        # 3: published, but some files could not be read.
        arguments = ("ingest", "--json", *self._ingest_arguments, str(source))
        return self.command(*arguments, accepted=frozenset({0, 3}))

    def facts(self, output: bytes) -> dict[str, object]:
        """The summary, which is the last line of `repo ingest --json`."""
        lines = output.splitlines()
        try:
            return msgspec.json.decode(lines[-1], type=dict[str, object]) if lines else {}
        except msgspec.DecodeError:
            return {}

    def restore_command(self, source: Path, to: Path) -> Command:
        """Restore the latest point."""
        return self.command("restore", "latest", "--to", str(to))

    def restored_root(self, source: Path, to: Path) -> Path:
        """The root of a point is the content of its source."""
        return to

    def mount_command(self, at: Path) -> Command:
        """Mount the latest point."""
        return self.command("mount", "latest", str(at), "--foreground")

    def mounted_root(self, source: Path, at: Path) -> Path:
        """The root of a point is the content of its source."""
        return at

    def point_ids(self) -> list[str]:
        """The ids of all points, oldest first."""
        lines = run(self.command("points", "--json")).splitlines()
        points = [msgspec.json.decode(line, type=dict[str, object]) for line in lines]
        return [str(point["point"]) for point in points if "point" in point]

    def forget_command(self, keep: int) -> Command:
        """Forget all but the last points."""
        return self.command("forget", "--keep-last", str(keep), "--yes")

    def prune_command(self) -> Command:
        """Collect garbage."""
        return self.command("gc")

    def help_command(self) -> Command:
        """The overview of commands."""
        return self.command("--help")

    def points_command(self) -> Command:
        """The list of points."""
        return self.command("points")


def own_program() -> tuple[str, ...]:
    """The `repo` of the Python that runs the benchmark, else the one in PATH.

    Raises UsageError when there is none.
    """
    beside = Path(sys.executable).with_name("repo")
    found = str(beside) if beside.exists() else shutil.which("repo")
    if found is None:
        raise UsageError(
            "the command `repo` is not installed",
            where=str(beside),
            next_step="install the project (tools/quickstart), or give --ours-command",
        )
    return (found,)
