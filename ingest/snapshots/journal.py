"""A journal: what a job makes on the file systems of its sources, written down before it exists.

It lies in the repository (`snapshots/<job>`), not in a folder of the machine, because whoever
uses the repository next is who cleans up, whatever his environment is. As with a lease, the file
is locked as long as its job lives, and the kernel drops the lock with the process: no process id
and no clock decides. Lines name a machine by /etc/machine-id, for a folder on the network may be
used from several; nobody touches what belongs to another one.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from repo.format import layout
from repo.storage.durable import (
    DIRECTORY_MODE,
    create_temporary,
    discard_temporary,
    fsync_directory,
    link_new,
    read_all,
    repository_io,
    sweep_temporaries,
    try_lock,
    write_all,
)
from repo.types import MIB

_JOURNAL_BYTES_MAX: Final = 16 * MIB


class Entry(NamedTuple):
    """Something made for a job: by which provider, in which folder of which file system, and its
    name there.
    """

    provider: str
    folder: str
    file_system: str
    name: str


class Journal:
    """Of one job. The file comes with the first entry and goes with `close`."""

    def __init__(self, repository: Path) -> None:
        self.id = secrets.token_hex(layout.ID_BYTES)
        self._folder = repository / layout.SNAPSHOTS
        self._path = self._folder / self.id
        self._fd = -1
        self._left: set[Entry] = set()

    def note(self, entry: Entry) -> None:
        """Write down what is about to be made; durable on return. Raises RepositoryFailed."""
        line = json.dumps([_machine(), *entry]).encode() + b"\n"
        with repository_io("cannot write down a snapshot", self._path):
            if self._fd < 0:
                self._begin(line)
            else:
                write_all(self._fd, line)
                os.fdatasync(self._fd)
        self._left.add(entry)

    def gone(self, entry: Entry) -> None:
        """What was made is removed, or is there to stay."""
        self._left.discard(entry)

    def close(self) -> None:
        """The job is over: the file goes, unless there is something left for the janitor."""
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        with suppress(OSError):  # the next janitor finds nothing left, and removes it
            if not self._left:
                self._path.unlink(missing_ok=True)
        os.close(fd)

    def _begin(self, line: bytes) -> None:
        """Make the file: locked and whole before it can be seen."""
        self._folder.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
        fd, temporary = create_temporary(self._folder)
        try:
            write_all(fd, line)
            os.fsync(fd)
            link_new(temporary, self._path)
        except BaseException:
            discard_temporary(fd, temporary)
            raise
        self._fd = fd
        fsync_directory(self._folder.parent)


def sweep(repository: Path, remove: Callable[[Entry], bool]) -> int:
    """Have `remove` undo what dead jobs of this machine left; how many things that were.

    `remove` says whether the thing is gone; a journal stays as long as something of it does.
    Safe beside living jobs and other janitors. Raises RepositoryFailed.
    """
    folder = repository / layout.SNAPSHOTS
    removed = 0
    with repository_io("cannot read what dead jobs left", folder):
        if not folder.is_dir():
            return 0
        for name in os.listdir(folder):
            if layout.parse_id(name) is None:
                continue
            with suppress(FileNotFoundError):
                fd = os.open(folder / name, os.O_RDWR | os.O_CLOEXEC)
                try:
                    if try_lock(fd):
                        removed += _clean(folder / name, remove)
                finally:
                    os.close(fd)
        sweep_temporaries(folder)
    return removed


def _clean(path: Path, remove: Callable[[Entry], bool]) -> int:
    entries = _parse(read_all(path, limit_bytes=_JOURNAL_BYTES_MAX))
    if entries is None:
        return 0
    results = [remove(entry) for entry in entries]
    if all(results):
        path.unlink(missing_ok=True)
    return sum(results)


def _parse(text: bytes) -> list[Entry] | None:
    """The entries of a journal; None when they are another machine's.

    A line that was never finished names something that was never made.
    """
    entries = []
    for line in text.split(b"\n")[:-1]:
        try:
            machine, *words = json.loads(line)
            entry = Entry(*map(str, words))
        except (ValueError, TypeError):
            continue
        if machine != _machine():
            return None
        entries.append(entry)
    return entries


def _machine() -> str:
    try:
        return Path("/etc/machine-id").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return os.uname().nodename
