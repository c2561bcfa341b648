"""A contender: one program in the comparison, and how it is asked for each piece of work."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

from tools.bench.command import Command, run
from tools.bench.inputs import walk
from tools.bench.mountpoint import Mounted, serving

# What a user's own settings could change in a comparison.
_PRIVATE_PREFIXES = ("RESTIC_", "BORG_", "REPO_", "XDG_")


class Contender(ABC):
    """A program and its private area: whatever it writes lies below that, caches too."""

    def __init__(self, name: str, program: Sequence[str], area: Path) -> None:
        self.name = name
        self.program = tuple(program)
        self.area = area
        self.home = area / "home"

    def environment(self) -> dict[str, str]:
        """The environment of every command: the caller's, without settings of backup programs."""
        own = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(_PRIVATE_PREFIXES)
        }
        own.update(HOME=str(self.home), LC_ALL="C.UTF-8", TZ="UTC")
        return own

    def command(
        self, *arguments: str, folder: Path | None = None, accepted: frozenset[int] = frozenset({0})
    ) -> Command:
        """A call of the program in its environment."""
        return Command((*self.program, *arguments), self.environment(), folder, accepted)

    def discard(self) -> None:
        """Remove everything that the program has written."""
        remove_tree(self.area)

    @abstractmethod
    def version(self) -> str:
        """The version, as the program tells it. Raises CommandFailed when it does not run."""

    @abstractmethod
    def fill(self, source: Path) -> None:
        """See to it that there is a backup of the source to restore and to mount."""

    @abstractmethod
    def restore_command(self, source: Path, to: Path) -> Command:
        """Restore the latest backup into an empty folder."""

    @abstractmethod
    def restored_root(self, source: Path, to: Path) -> Path:
        """Where the content of the source lies after that."""

    @abstractmethod
    def mounted(self, source: Path) -> contextlib.AbstractContextManager[Mounted]:
        """The latest backup as a file tree, freshly mounted."""


class BackupTool(Contender):
    """A contender that keeps a repository."""

    def __init__(self, name: str, program: Sequence[str], area: Path) -> None:
        super().__init__(name, program, area)
        self.repository = area / "repository"
        self._filled = False

    @abstractmethod
    def init_command(self) -> Command:
        """Make the repository."""

    @abstractmethod
    def ingest_command(self, source: Path) -> Command:
        """Back the source up."""

    @abstractmethod
    def mount_command(self, at: Path) -> Command:
        """Mount the latest backup, staying in the foreground."""

    @abstractmethod
    def mounted_root(self, source: Path, at: Path) -> Path:
        """Where the content of the source shows in that mount."""

    @abstractmethod
    def forget_command(self, keep: int) -> Command:
        """Forget all backups but the last so many; what they stored stays."""

    @abstractmethod
    def prune_command(self) -> Command:
        """Give back the space of what no backup needs any more."""

    @abstractmethod
    def help_command(self) -> Command:
        """Print the overview of commands."""

    @abstractmethod
    def points_command(self) -> Command:
        """List the backups in the repository."""

    def facts(self, output: bytes) -> dict[str, object]:
        """What the program itself told of an ingest, for the JSON report."""
        del output
        return {}

    def begin(self) -> None:
        """A fresh, empty repository and empty caches."""
        self.discard()
        self.home.mkdir(parents=True)
        run(self.init_command())

    def fill(self, source: Path) -> None:
        """A repository that holds the source: the one that is there, or a new one."""
        if not self._filled:
            self.begin()
            run(self.ingest_command(source))
            self._filled = True

    def keep_filled(self) -> None:
        """The repository now holds the source: later cases may use it."""
        self._filled = True

    def discard(self) -> None:
        """Remove the repository, too: it has to be filled again."""
        self._filled = False
        super().discard()

    def stored_bytes(self) -> int:
        """The size of all files of the repository; caches beside it are not counted."""
        sizes = (entry.stat(follow_symlinks=False) for entry in walk(self.repository))
        return sum(status.st_size for status in sizes if stat.S_ISREG(status.st_mode))

    @contextlib.contextmanager
    def mounted(self, source: Path) -> Iterator[Mounted]:
        """The latest backup, served by a process of its own until the end of the context."""
        at = self.area / "mountpoint"
        at.mkdir(exist_ok=True)
        root = self.mounted_root(source, at)
        with serving(self.mount_command(at), at, root) as mounted:
            yield mounted


def remove_tree(top: Path) -> None:
    """Remove a tree that we made, folders that withhold permission from ourselves included."""
    if not top.exists():
        return
    try:
        shutil.rmtree(top)
    except PermissionError:
        for folder, names, _ in os.walk(top):
            for path in (os.path.join(folder, name) for name in names):
                # Of a link the target would change, which may lie anywhere.
                if not os.path.islink(path):
                    os.chmod(path, stat.S_IRWXU)
        shutil.rmtree(top)
