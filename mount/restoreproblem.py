"""A restore problem: something that is in the target not as the point records it, and why."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final

import msgspec

from repo.errors import Damaged

Path = tuple[bytes, ...]
"""The parts of a path below the root of the target; () is the root."""

OWNER: Final = "set the owner of"
MODE: Final = "set the mode of"
XATTR: Final = "set an extended attribute of"
FLAGS: Final = "set the file flags of"
TIME: Final = "set the time of"
DEVICE: Final = "make the device"
_BY_KIND: Final = frozenset({OWNER, MODE, XATTR, FLAGS, TIME, DEVICE})
"""Steps that fail for one entry as for the next (not root, not that file system): one problem
for all that fail alike."""

LISTED_MAX: Final = 1000
"""So many problems with the same step and errno are named; those beyond are only counted."""


class Problem(msgspec.Struct, array_like=True, frozen=True):
    """One problem, or `count` of one kind of which only the first is named.

    path: from the root of the point. step: what could not be done, as "write". errno: 0 when no
    system call failed. damaged: it lies with the repository, not with the target.
    """

    path: bytes
    step: str
    errno: int = 0
    detail: str = ""
    count: int = 1
    damaged: bool = False


class Problems:
    """Collects problems. `folder` is the directory whose entries are restored just now."""

    def __init__(self) -> None:
        self.folder: Path = ()
        self.total = 0
        self.damaged = 0
        self._found: list[Problem] = []
        self._kinds: dict[tuple[str, int, str, bool], Problem] = {}
        self._named: dict[tuple[str, int], int] = {}

    def failed(self, name: bytes, step: str, error: OSError, detail: str = "") -> None:
        """A step on an entry of `folder` failed (on `folder` itself, when the name is empty)."""
        number = error.errno or 0
        why = os.strerror(number) if number else str(error)
        self.add(Problem(self._path(name), step, number, f"{detail}: {why}" if detail else why))

    def damage(self, name: bytes, error: Damaged) -> None:
        """The repository does not give an entry of `folder` as it was."""
        self.add(Problem(self._path(name), "read", 0, str(error), damaged=True))

    def other(self, name: bytes, step: str, detail: str) -> None:
        """Something that no system call refused."""
        self.add(Problem(self._path(name), step, 0, detail))

    def add(self, problem: Problem) -> None:
        """Take a problem."""
        self.total += problem.count
        if problem.damaged:
            self.damaged += problem.count
        named = self._named.get((problem.step, problem.errno), 0)
        if problem.step in _BY_KIND:
            self._count(problem, problem.detail)
        elif problem.count > 1 or named >= LISTED_MAX:
            self._count(problem, "")
        else:
            self._named[problem.step, problem.errno] = named + 1
            self._found.append(problem)

    def _count(self, problem: Problem, detail: str) -> None:
        kind = (problem.step, problem.errno, detail, problem.damaged)
        first = self._kinds.get(kind)
        if first is not None:
            problem = msgspec.structs.replace(first, count=first.count + problem.count)
        self._kinds[kind] = problem

    def merge(self, problems: Iterable[Problem]) -> None:
        """Take what another collector found."""
        for problem in problems:
            self.add(problem)

    def found(self) -> list[Problem]:
        """Everything that was found."""
        return [*self._found, *self._kinds.values()]

    def take(self) -> list[Problem]:
        """Everything that was found; begins anew."""
        found = self.found()
        self.total = self.damaged = 0
        self._found = []
        self._kinds = {}
        self._named = {}
        return found

    def _path(self, name: bytes) -> bytes:
        return b"/".join((*self.folder, name) if name else self.folder) or b"."
