"""A restore task: a unit of a restore that one worker does alone, and what comes of it."""

from __future__ import annotations

import msgspec

from mount.restoreproblem import Path, Problem


class BatchTask(msgspec.Struct, array_like=True, frozen=True, tag=1):
    """Restore some entries of a directory that is there, with all that is below them.

    `entries` are packed as in a node, in the order of names. `volume` is that of the directory.
    `fresh` and `plain`: see `mount.target.Site`.
    """

    id: int
    path: Path
    volume: int
    fresh: bool
    plain: bool
    entries: bytes


class RangeTask(msgspec.Struct, array_like=True, frozen=True, tag=2):
    """Bring a part of a large file, which has its size already. `name`: what it is called while
    it is written; `shown`: what it is called in problems.

    `rows` are packed (`mount.filecontent`). `mode`: "write" all data; "check" which of it differs
    from what is there, and that it can be read; "update" what differs.
    """

    id: int
    path: Path
    name: bytes
    shown: bytes
    mode: str
    rows: bytes


RestoreTask = BatchTask | RangeTask


class Figures(msgspec.Struct, array_like=True):
    """What was restored. `files` are entries that are no directories; sizes in bytes.

    bytes: of regular files as they are now; bytes_written: what had to be written for that.
    files_unchanged: regular files whose content was there. owners_kept: entries that only root
    could have given to their owner.
    """

    files: int = 0
    directories: int = 0
    bytes: int = 0
    bytes_written: int = 0
    files_unchanged: int = 0
    owners_kept: int = 0

    def add(self, other: Figures) -> None:
        """These and the others."""
        self.files += other.files
        self.directories += other.directories
        self.bytes += other.bytes
        self.bytes_written += other.bytes_written
        self.files_unchanged += other.files_unchanged
        self.owners_kept += other.owners_kept


class Done(msgspec.Struct, array_like=True, frozen=True, tag=1):
    """A task is done. `differs`: of a check, whether anything does. `whole`: of a range, whether
    all of it was done; else `problems` says why not.
    """

    task: int
    figures: Figures
    problems: list[Problem] = []
    differs: bool = False
    whole: bool = True
