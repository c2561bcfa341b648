"""A large file: its ranges are restored by several workers at once into one file.

A new one is written under a temporary name and gets its own when all ranges are there. One that
is there is compared first, range by range, and what differs is seen to be readable; only then is
anything written, so that damage in the repository leaves it as it was.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final

from mount.entrymaker import NEW, OPEN_WRITE
from mount.filecontent import Row, pack_rows
from mount.handle import OpenHandle
from mount.listing import check_entry
from mount.restoreproblem import Problem
from mount.restorer import Restorer
from mount.restoretask import Done, RangeTask
from mount.target import OPEN_READ, Site, Target, hold, temporary_name
from repo.errors import Damaged
from repo.format.node import HOLE, Entry
from repo.types import MIB

RANGE_BYTES: Final = 64 * MIB
"""A file with more content than this is restored in ranges of so much data each."""

_RANGE_ROWS: Final = 8192
_MODE: Final = 0o600
"""Of a file in the making: its workers open it again and again."""


class LargeFile:
    """One large file on its way. The master owns it; the ranges are the workers'."""

    def __init__(self, site: Site, entry: Entry, target: Target, restorer: Restorer) -> None:
        self.site = site
        self.entry = entry
        self._target = target
        self._restorer = restorer
        self._mode = ""
        self._name = entry.name
        self._held = -1
        self._outstanding = 0
        self._listed = False
        self._differing: set[int] = set()
        self._numbers: dict[int, int] = {}
        self._failed = False

    @property
    def phase_ended(self) -> bool:
        """Whether all ranges of this phase were handed out and came back."""
        return self._listed and not self._outstanding

    def begin(self) -> bool:
        """Compare, when a file is there that may be written; else make a new one.

        Returns False when that cannot be; the problem is recorded.
        """
        self._restorer.problems.folder = self.site.path
        try:
            check_entry(self.entry)
            self._mode = "check" if self._is_there() else self._make()
        except Damaged as damage:
            self._restorer.problems.damage(self.entry.name, damage)
            return False
        except OSError as error:
            self.abandon()
            self._restorer.maker.failed(self.entry, error)
            return False
        return True

    def _is_there(self) -> bool:
        dirfd = self._target.open(self.site.path)
        try:
            status = os.stat(self.entry.name, dir_fd=dirfd, follow_symlinks=False)
            if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
                return False
            os.close(os.open(self.entry.name, OPEN_READ, dir_fd=dirfd))
        except (FileNotFoundError, PermissionError):
            return False
        return True

    def _make(self) -> str:
        """Make an empty file of the right size under a temporary name."""
        dirfd = self._target.open(self.site.path)
        name = temporary_name()
        fd = os.open(name, NEW, _MODE, dir_fd=dirfd)
        self._name = name
        self._held = fd  # until it has its name
        hold(fd)
        self._restorer.attributes.set_before_content(fd, self.entry)
        os.ftruncate(fd, self.entry.size)
        return "write"

    def _let_go(self) -> None:
        if self._held >= 0:
            fd, self._held = self._held, -1
            os.close(fd)

    def ranges(self, numbers: Iterator[int]) -> Iterator[RangeTask]:
        """The tasks of this phase; their ids are taken from `numbers`."""
        self._listed = False
        try:
            rows = self._restorer.content.rows(self.entry)
            for number, part in enumerate(_divided(rows)):
                if self._failed:
                    break
                if self._mode == "update" and number not in self._differing:
                    continue
                task = next(numbers)
                self._numbers[task] = number
                self._outstanding += 1
                yield RangeTask(
                    task, self.site.path, self._name, self.entry.name, self._mode, pack_rows(part)
                )
        except Damaged as damage:
            self._restorer.problems.folder = self.site.path
            self._failed = True
            self._restorer.problems.damage(self.entry.name, damage)
        self._listed = True

    def returned(self, done: Done) -> list[Problem]:
        """A range came back. Returns the problems to be told: the first that ends it."""
        self._outstanding -= 1
        number = self._numbers.pop(done.task)
        if done.differs:
            self._differing.add(number)
        if done.whole or self._failed:
            return []
        self._failed = True
        return done.problems

    def lost(self, task: int) -> None:
        """A range will not come back."""
        self._outstanding -= 1
        self._numbers.pop(task, None)
        self._failed = True

    def end_phase(self) -> bool:
        """What follows when a phase has ended. Returns whether there is another one."""
        self._restorer.problems.folder = self.site.path
        figures = self._restorer.maker.figures
        try:
            if self._failed:
                self.abandon()
                return False
            if self._mode == "check" and self._begin_update():
                return True
            if self._mode == "check":
                figures.files_unchanged += 1
            self._finish()
        except OSError as error:
            self.abandon()
            self._restorer.maker.failed(self.entry, error)
            return False
        figures.files += 1
        figures.bytes += self.entry.size
        return False

    def _begin_update(self) -> bool:
        """Get ready to write what differs; False when nothing does. Raises OSError."""
        dirfd = self._target.open(self.site.path)
        status = os.stat(self.entry.name, dir_fd=dirfd, follow_symlinks=False)
        if not self._differing and status.st_size == self.entry.size:
            return False
        fd = self._restorer.maker.open_to_write(dirfd, self.entry)
        if fd is None:  # may not be written, or is running
            self._mode = self._make()
            return True
        try:
            os.ftruncate(fd, self.entry.size)
        finally:
            os.close(fd)
        self._mode = "update"
        return True

    def _finish(self) -> None:
        """Attributes, and the name of a new one. Raises OSError."""
        dirfd = self._target.open(self.site.path)
        flags = OPEN_READ if self._mode == "check" else OPEN_WRITE
        fd = os.open(self._name, flags, dir_fd=dirfd)
        try:
            if self._name is self.entry.name:
                self._restorer.attributes.fix(OpenHandle(fd), self.entry)
            else:
                self._restorer.maker.finish_new(self.site, dirfd, fd, self.entry, _MODE, self._name)
                self._let_go()
        finally:
            os.close(fd)

    def abandon(self) -> None:
        """Nothing stays of a new file that is not whole."""
        if self._name is not self.entry.name:
            with suppress(OSError):
                os.unlink(self._name, dir_fd=self._target.open(self.site.path))
        self._let_go()


def _divided(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Divide rows into ranges by the data in them: holes cost nothing."""
    part: list[Row] = []
    size = 0
    for row in rows:
        part.append(row)
        size += 0 if row.id == HOLE else row.length
        if size >= RANGE_BYTES or len(part) >= _RANGE_ROWS:
            yield part
            part, size = [], 0
    if part:
        yield part
