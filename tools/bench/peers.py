"""The peers: restic, borg, and the plain file system as the limit of what is possible."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from repo.errors import UsageError
from tools.bench.command import Command, run
from tools.bench.contender import BackupTool, Contender
from tools.bench.inputs import Say
from tools.bench.mountpoint import Mounted

_PASSWORD = "benchmark"  # noqa: S105 - protects copies of the input, which are removed again
_WARNINGS_TOO = frozenset({0, 1})


class Restic(BackupTool):
    """restic with its defaults: a local repository and its cache."""

    def environment(self) -> dict[str, str]:
        """With the repository, the password and the cache folder."""
        return super().environment() | {
            "RESTIC_REPOSITORY": str(self.repository),
            "RESTIC_PASSWORD": _PASSWORD,
            "RESTIC_CACHE_DIR": str(self.home / "cache"),
        }

    def version(self) -> str:
        """The version without its compiler."""
        return run(self.command("version")).decode().split(" compiled")[0].strip()

    def init_command(self) -> Command:
        """A repository with the password of the environment."""
        return self.command("init", "--quiet")

    def ingest_command(self, source: Path) -> Command:
        """A snapshot of the source, by its whole path."""
        # 3: published, but some files could not be read.
        return self.command("backup", "--quiet", str(source), accepted=frozenset({0, 3}))

    def restore_command(self, source: Path, to: Path) -> Command:
        """Restore the latest snapshot."""
        return self.command("restore", "latest", "--quiet", "--target", str(to))

    def restored_root(self, source: Path, to: Path) -> Path:
        """Restic restores below the whole path of the source."""
        return to / source.relative_to("/")

    def mount_command(self, at: Path) -> Command:
        """All snapshots; there is no mount of one."""
        return self.command("mount", str(at))

    def mounted_root(self, source: Path, at: Path) -> Path:
        """The latest snapshot, below the whole path of the source."""
        return at / "snapshots" / "latest" / source.relative_to("/")

    def forget_command(self, keep: int) -> Command:
        """Forget snapshots; their data stays."""
        return self.command("forget", "--quiet", "--keep-last", str(keep))

    def prune_command(self) -> Command:
        """Prune with its default of unused space."""
        return self.command("prune", "--quiet")

    def help_command(self) -> Command:
        """The overview of commands."""
        return self.command("help")

    def points_command(self) -> Command:
        """The list of snapshots."""
        return self.command("snapshots")


class Borg(BackupTool):
    """borg with zstd level 3 and repokey-blake2; the archives are numbered."""

    def __init__(self, name: str, program: Sequence[str], area: Path) -> None:
        super().__init__(name, program, area)
        self._archives = 0

    def environment(self) -> dict[str, str]:
        """With the repository, the passphrase and the folder of its caches and keys."""
        return super().environment() | {
            "BORG_REPO": str(self.repository),
            "BORG_PASSPHRASE": _PASSWORD,
            "BORG_BASE_DIR": str(self.home),
            "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes",
        }

    def version(self) -> str:
        """The version."""
        return run(self.command("--version")).decode().strip()

    def init_command(self) -> Command:
        """A repository whose key lies in it."""
        return self.command("init", "--encryption", "repokey-blake2")

    def ingest_command(self, source: Path) -> Command:
        """An archive of the source, by relative paths."""
        self._archives += 1
        return self.command(
            "create",
            "--compression",
            "zstd,3",
            f"::{self._archives}",
            ".",
            folder=source,
            accepted=_WARNINGS_TOO,
        )

    def restore_command(self, source: Path, to: Path) -> Command:
        """Extract the latest archive."""
        return self.command("extract", f"::{self._archives}", folder=to, accepted=_WARNINGS_TOO)

    def restored_root(self, source: Path, to: Path) -> Path:
        """An archive of relative paths has its root in the folder."""
        return to

    def mount_command(self, at: Path) -> Command:
        """The latest archive alone."""
        return self.command("mount", "--foreground", f"::{self._archives}", str(at))

    def mounted_root(self, source: Path, at: Path) -> Path:
        """The root of the archive."""
        return at

    def forget_command(self, keep: int) -> Command:
        """Delete archives; their data stays."""
        return self.command("prune", "--keep-last", str(keep))

    def prune_command(self) -> Command:
        """Compact with its default threshold."""
        return self.command("compact")

    def help_command(self) -> Command:
        """The overview of commands."""
        return self.command("help")

    def points_command(self) -> Command:
        """The list of archives."""
        return self.command("list")


class Plain(Contender):
    """No backup at all: cp for restore, and the source itself where others show a mount."""

    def fill(self, source: Path) -> None:
        """The source is all it needs."""

    def version(self) -> str:
        """The version of cp."""
        return run(self.command("--version")).decode().splitlines()[0]

    def restore_command(self, source: Path, to: Path) -> Command:
        """Copy the source with all its attributes."""
        return self.command("-a", f"{source}/.", str(to))

    def restored_root(self, source: Path, to: Path) -> Path:
        """The folder itself."""
        return to

    @contextlib.contextmanager
    def mounted(self, source: Path) -> Iterator[Mounted]:
        """The source itself."""
        yield Mounted(source, None, 0.0)


_KINDS: dict[str, tuple[type[Contender], str]] = {
    "restic": (Restic, "restic"),
    "borg": (Borg, "borg"),
    "plain": (Plain, "cp"),
}
PEER_NAMES = tuple(_KINDS)


def find_peers(names: Sequence[str], areas: Path, *, say: Say) -> list[Contender]:
    """The named peers that are installed; the others are named and left out.

    Raises UsageError for a name that is none of PEER_NAMES.
    """
    found: list[Contender] = []
    for name in names:
        if name not in _KINDS:
            raise UsageError(
                f"no peer is called {name!r}", next_step=f"choose of {', '.join(PEER_NAMES)}"
            )
        kind, program = _KINDS[name]
        path = shutil.which(program)
        if path is None:
            say(f"{name} is not installed and is left out")
        else:
            found.append(kind(name, (path,), areas / name))
    return found
