"""An ageing: a copy of a source tree that changes from version to version, always the same way."""

from __future__ import annotations

import os
import random
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from tools.bench.contender import remove_tree

_SEED = 1729
_EDITED_BYTES_MAX = 2000
_EDITED, _ADDED, _REMOVED = 0.8, 0.9, 0.95  # of the changes, up to; the rest are renamings


class Ageing:
    """A tree below `top` that ages. Two of the same source age alike, whoever backs them up."""

    def __init__(self, source: Path, top: Path, *, bytes_max: int | None = None) -> None:
        """bytes_max: take only the first files of the source, up to so many bytes in all."""
        self.top = top
        self._source = source
        self._bytes_max = bytes_max
        self._random = random.Random(_SEED)  # noqa: S311 - what changes is no secret
        self._files: list[Path] = []
        self._versions = 0

    def begin(self) -> None:
        """Make the first version: a copy of the source."""
        remove_tree(self.top)
        self.top.mkdir(parents=True)
        room = self._bytes_max
        for path, size in _regular_files(self._source):
            if room is not None:
                room -= size
                if room < 0:
                    break
            target = self.top / path.relative_to(self._source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)
            self._files.append(target)

    def change(self, count: int) -> None:
        """Go on to the next version: so many files are edited, added, removed or renamed."""
        self._versions += 1
        for number in range(count):
            draw = self._random.random()
            place = self._random.randrange(len(self._files))
            path = self._files[place]
            if draw < _EDITED:
                self._edit(path)
            elif draw < _ADDED:
                self._files.append(self._copy(path, number))
            elif draw < _REMOVED:
                path.unlink()
                self._files[place] = self._files[-1]
                self._files.pop()
            else:
                self._files[place] = path.rename(self._new_name(path, number))

    def _edit(self, path: Path) -> None:
        """Put a piece of another file into the middle of one."""
        other = self._files[self._random.randrange(len(self._files))].read_bytes()
        length = min(len(other), self._random.randrange(1, _EDITED_BYTES_MAX))
        start = self._random.randrange(len(other) - length + 1)
        data = path.read_bytes()
        at = self._random.randrange(len(data) + 1)
        path.write_bytes(data[:at] + other[start : start + length] + data[at:])

    def _copy(self, path: Path, number: int) -> Path:
        added = self._new_name(path, number)
        shutil.copy2(path, added)
        self._edit(added)
        return added

    def _new_name(self, path: Path, number: int) -> Path:
        return path.with_name(f"{path.name[:100]}.{self._versions}.{number}")


def _regular_files(top: Path) -> Iterator[tuple[Path, int]]:
    """The regular files of a tree in a fixed order, with their sizes."""
    for folder, folders, names in os.walk(top):
        folders.sort()
        for name in sorted(names):
            path = Path(folder, name)
            status = path.lstat()
            if stat.S_ISREG(status.st_mode):
                yield path, status.st_size
