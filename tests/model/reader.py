"""A reader: keeps points of a mount open, and compares what it reads with the truth.

A script, run until its input ends: `python reader.py TOP TRUTH`. TOP is a mounted point, or a
mount of all of them; TRUTH has a folder for every tree that a point may hold. What is compared
comes from the mount, not from the page cache. Ends with 0, also when the mount dies, and says in
JSON what it has read; with 1 at the first byte that is not as it should be.
"""

from __future__ import annotations

import errno
import json
import os
import random
import select
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

DEAD: Final = {errno.ENOTCONN, errno.ECONNABORTED}
"""What calls on a mount fail with when its process was killed."""

HELD: Final = 4
"""Points that are open at a time: some are forgotten and collected meanwhile."""

Files = Mapping[str, bytes]
"""Path -> content, of all files of a tree."""


class Wrong(Exception):
    """What was read is not the truth."""


class Held(NamedTuple):
    """A point that is open: its root, what it must hold, how it was found."""

    fd: int
    files: Files
    name: str


def truth(folder: Path) -> dict[str, Files]:
    """All that points may hold, by the folder that a tree alone has: `of version N`."""
    return {_mark(os.listdir(tree)): _files(tree) for tree in folder.iterdir()}


def _files(top: Path) -> Files:
    return {
        str(path.relative_to(top)): path.read_bytes() for path in top.rglob("*") if path.is_file()
    }


def _mark(names: list[str]) -> str:
    (mark,) = [name for name in names if name.startswith("of version ")]
    return mark


def compare(top: Path, known: Mapping[str, Files]) -> None:
    """All of a tree: its names and the content of its files. Raises Wrong."""
    found, wanted = _files(top), known[_mark(os.listdir(top))]
    if found.keys() != wanted.keys():
        raise Wrong(f"{top} has {sorted(found)}, not {sorted(wanted)}")
    for path, content in found.items():
        if content != wanted[path]:
            raise Wrong(f"{top}/{path}: other content")


class Reader:
    """Opens points and reads parts of them, in any order."""

    def __init__(self, top: Path, known: Mapping[str, Files]) -> None:
        self.files = self.points = 0
        self._top = top
        self._known = known
        self._held: list[Held] = []

    def step(self) -> None:
        """Open another point, or read a file of one that is open. Raises Wrong and OSError."""
        if len(self._held) < HELD and random.random() < 0.3:
            self._open()
        elif not self._held:
            time.sleep(0.05)
        elif random.random() < 0.05:
            os.close(self._held.pop(random.randrange(len(self._held))).fd)
        else:
            self._read(random.choice(self._held))

    def _open(self) -> None:
        names = os.listdir(self._top)
        if "by-id" in names:
            views = [self._top / "by-id", self._top / "latest"]
            views += list((self._top / "by-source").iterdir())
            view = random.choice(views)
            names = [str(view / name) for name in os.listdir(view)]
        else:
            names = [str(self._top)]
        if not names:
            return
        name = random.choice(names)
        fd = -1
        with suppress(FileNotFoundError):  # forgotten since it was listed
            fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY)
        if fd >= 0:
            self._held.append(Held(fd, self._known[_mark(os.listdir(fd))], name))
            self.points += 1

    def _read(self, point: Held) -> None:
        path = random.choice(list(point.files))
        try:
            fd = os.open(path, os.O_RDONLY, dir_fd=point.fd)
            try:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                data = b"".join(iter(lambda: os.read(fd, 1 << 16), b""))
            finally:
                os.close(fd)
        except OSError as error:
            error.add_note(f"{point.name}/{path}")
            raise
        if data != point.files[path]:
            raise Wrong(f"{point.name}/{path}: other content")
        self.files += 1


def main(top: str, folder: str) -> int:
    """Read until the input ends or the mount dies; the exit status."""
    reader = Reader(Path(top), truth(Path(folder)))
    said = ""
    try:
        while not select.select([sys.stdin], [], [], 0)[0]:
            reader.step()
            time.sleep(0.003)  # others need the processors
    except Wrong as wrong:
        said = str(wrong)
    except OSError as error:
        if error.errno not in DEAD:
            said = f"{error} ({', '.join(getattr(error, '__notes__', []))})"
    sys.stdout.write(said or json.dumps({"files": reader.files, "points": reader.points}))
    return 1 if said else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
