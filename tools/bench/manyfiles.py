"""Many files: a generated tree of small files, which changes a little from backup to backup."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Final

FOLDER_FILES: Final = 100
FOLDER_FOLDERS: Final = 100
FILE_BYTES: Final = 256
"""Small enough for btrfs to keep them in its own trees: a million of them take a GiB."""

_SEED: Final = 1961


class ManyFiles:
    """A tree below `top`: folders of 100 folders of 100 files, and one folder full of files.

    Two of the same size are alike, and change alike.
    """

    def __init__(self, top: Path, files: int, *, moved_files: int = 0) -> None:
        """moved_files: so many more lie in one folder, which `move` gives another name."""
        self.top = top
        self.files = files + moved_files
        self._spread = files
        self._moved_files = moved_files
        self._moves = 0
        self._random = random.Random(_SEED)  # noqa: S311 - what lies in the files is no secret

    def begin(self) -> None:
        """Make it."""
        for start in range(0, self._spread, FOLDER_FILES):
            folder = self._path(start).parent
            folder.mkdir(parents=True)
            for number in range(start, min(start + FOLDER_FILES, self._spread)):
                self._write(self._path(number))
        if self._moved_files:
            self._moved.mkdir()
            for number in range(self._moved_files):
                self._write(self._moved / f"file-{number}")

    def edit(self, count: int) -> int:
        """Write so many of the spread files anew, chosen at random; the bytes that they hold."""
        chosen = self._random.sample(range(self._spread), min(count, self._spread))
        for number in chosen:
            self._write(self._path(number))
        return len(chosen) * FILE_BYTES

    def move(self) -> None:
        """Give the full folder another name in another place: in the first folder, or the top."""
        before = self._moved
        self._moves += 1
        before.rename(self._moved)

    @property
    def _moved(self) -> Path:
        above = self._path(0).parent if self._moves % 2 else self.top
        return above / f"full-{self._moves}"

    def _path(self, number: int) -> Path:
        folder, file = divmod(number, FOLDER_FILES)
        above, folder = divmod(folder, FOLDER_FOLDERS)
        return self.top / f"{above:03}" / f"{folder:02}" / f"{file:02}"

    def _write(self, path: Path) -> None:
        with path.open("wb", buffering=0) as file:
            file.write(self._random.randbytes(FILE_BYTES))
