"""Losses: what of a point cannot be read, named path by path in problem lists of the point."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from repo.errors import RepoError, RepositoryFailed
from repo.format.manifest import Loss, Problem, pack_problems
from repo.storage.folder import Folder
from repo.types import ChunkId
from repo.upkeep.sides import ORIGIN, side

STEP: Final = "lost"
"""The step of the problems that name what is lost."""

_LIST_MAX: Final = 1000
"""Problems of one list: what is held in memory."""


class Losses:
    """Collects the losses of one point."""

    def __init__(self, put: Callable[[bytes], ChunkId]) -> None:
        """put: stores a chunk of the class meta, and gives its id."""
        self._put = put
        self._problems: list[Problem] = []
        self._lists: list[bytes] = []
        self._files = self._directories = self._bytes = 0
        self.total = 0

    def file(self, path: bytes, bytes_lost: int, why: str) -> None:
        """So many bytes of a file are lost."""
        self._files += 1
        self._bytes += bytes_lost
        self._add(Problem(path, STEP, 0, f"{bytes_lost} bytes of its content are lost: {why}"))

    def directory(self, path: bytes, bytes_lost: int, why: str) -> None:
        """Names in a directory are lost, and so many bytes of content below them."""
        self._directories += 1
        self._bytes += bytes_lost
        self._add(Problem(path, STEP, 0, f"names in this directory are lost: {why}"))

    def problems(self, why: str) -> None:
        """A list of the problems that the point had from the start is lost."""
        self._add(Problem(b"", STEP, 0, f"a list of problems is lost: {why}"))

    def _add(self, problem: Problem) -> None:
        self.total += 1
        self._problems.append(problem)
        if len(self._problems) == _LIST_MAX:
            self._flush()

    def _flush(self) -> None:
        if self._problems:
            self._lists.append(self._put(pack_problems(self._problems)))
            self._problems.clear()

    def loss(self) -> Loss:
        """All of it, its lists stored; that of nothing when nothing is lost."""
        self._flush()
        if not self._lists:
            return Loss()
        return Loss(
            files=self._files,
            directories=self._directories,
            bytes_lost=self._bytes,
            lists=tuple(self._lists),
            noted_ns=time.time_ns(),
            problems=self.total,
        )


def reason(error: RepoError, folder: Folder) -> str:
    """Why something cannot be read, for a list. Raises when it is not one file that fails but all.

    error: Damaged, or RepositoryFailed for bytes that the operating system does not give.
    """
    if isinstance(error, RepositoryFailed):
        with side(ORIGIN):
            Folder.open(folder.path).read_header()
    return error.what
