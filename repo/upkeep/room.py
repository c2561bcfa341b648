"""Room: the free space that garbage collection works in, and where it comes from on a full disk."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from repo.errors import RepositoryFailed
from repo.repository import Repository
from repo.storage.reserve import free_bytes
from repo.types import MIB

SCRATCH_BYTES: Final = 64 * MIB
"""With less free beside the index, scratch space lies in the folder for temporary files."""


def is_full(failure: RepositoryFailed) -> bool:
    """Whether a file system was full."""
    return os.strerror(errno.ENOSPC) in failure.what


def too_full(failure: RepositoryFailed, need_bytes: int) -> RepositoryFailed:
    """A failure for want of space, with how much would do; any other as it is."""
    if not is_full(failure):
        return failure
    need = -(-need_bytes // MIB)
    return RepositoryFailed(
        failure.what,
        where=failure.where,
        next_step=f"garbage collection needs up to {need} MiB of free space for its own work: free "
        "so much there and run the same command again; what it has given free stays free",
    )


class Room:
    """The space of one collection."""

    def __init__(self, repository: Repository, on_notice: Callable[[str], None]) -> None:
        self._repository = repository
        self._on_notice = on_notice

    def free(self) -> int:
        """Bytes that could be written beside the segments. Raises RepositoryFailed."""
        return free_bytes(self._repository.path)

    def make_if_full(self) -> None:
        """Give up the reserve when less than it is free."""
        held = sum(reserve.held_bytes for reserve in self._repository.reserves())
        if self.free() < held:
            self.make()

    def make(self) -> int:
        """Give up the reserve, and tell so; how many bytes that makes free."""
        made = sum(reserve.give_up() for reserve in self._repository.reserves())
        if made:
            self._on_notice(f"the disk is full: working in the reserve of {made // MIB} MiB")
        return made

    def scratch_folder(self) -> Path:
        """Where the notes of the walk lie: beside the index, unless there is little room."""
        beside = self._repository.index_path.parent
        free = free_bytes(beside)
        if free < SCRATCH_BYTES:
            elsewhere = Path(tempfile.gettempdir())
            if free_bytes(elsewhere) > free:
                return elsewhere
        return beside
