"""A spool: the folder in which the queue lies, and what may happen to an entry there.

    entries/<key>    one entry each, JSON; made by linking, changed by renaming, always whole
    wake/<key>       empty: something new came in. systemd looks at this folder, not at the entries,
                     so that those that wait for another try do not start it again and again
    done/<key>       empty: that snapshot was backed up; queued once more, it is not taken again
    running          locked by the drain that is at work, and says at what
    last             how the last drain ended

It belongs to a machine, not to the repository: paths in it are not encrypted.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from ingest.queue.entry import VERSION, Entry
from repo.errors import JobFailed, TryLater
from repo.format.layout import is_temporary
from repo.storage.durable import (
    DIRECTORY_MODE,
    create_temporary,
    discard_temporary,
    fsync_directory,
    link_new,
    read_all,
    sweep_temporaries,
    write_all,
)
from repo.types import MIB

SYSTEM_FOLDER: Final = Path("/var/spool/repo")
DONE_SECONDS: Final = 90 * 86400
"""So long a snapshot that was backed up is remembered."""

_ENTRY_BYTES_MAX: Final = 4 * MIB

_decoder = msgspec.json.Decoder(Entry)


def default_folder(user_id: int, environ: Mapping[str, str]) -> Path:
    """/var/spool/repo for root, $XDG_STATE_HOME/repo/queue for others; REPO_QUEUE wins."""
    if environ.get("REPO_QUEUE"):
        return Path(environ["REPO_QUEUE"]).absolute()
    if user_id == 0:
        return SYSTEM_FOLDER
    base = environ.get("XDG_STATE_HOME") or os.path.join(environ.get("HOME", "/"), ".local/state")
    return Path(base) / "repo" / "queue"


class Spool:
    """The queue in a folder. Every OSError of it becomes JobFailed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._entries = path / "entries"
        self._wake = path / "wake"
        self._done = path / "done"

    # Entries

    def add(self, entry: Entry) -> bool:
        """Put an entry in, durably; False when it is there already.

        One that had failed for good is started afresh, one that was backed up is left out.
        """
        if entry.unique and (self._done / entry.key).exists():
            return False
        with _io("cannot write to the queue", self.path):
            for folder in (self.path, self._entries, self._wake, self._done):
                folder.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
            fsync_directory(self.path)
            is_new = self._link(entry)
        if not is_new:
            found = self.get(entry.key)
            if found is not None and found.failed:
                self.replace(found.afresh())
        self.wake(entry.key)
        return is_new

    def _link(self, entry: Entry) -> bool:
        fd, temporary = create_temporary(self._entries)
        try:
            write_all(fd, msgspec.json.encode(entry))
            os.fsync(fd)
            link_new(temporary, self._entries / entry.key)
        except FileExistsError:
            discard_temporary(fd, temporary)
            return False
        except BaseException:
            discard_temporary(fd, temporary)
            raise
        os.close(fd)
        return True

    def wake(self, key: str) -> None:
        """Have systemd start a drain. Not durable: the timer finds what this forgets."""
        with suppress(OSError):
            (self._wake / key).touch(mode=0o600)

    def awake(self) -> None:
        """A drain has started: what comes in from now on starts the next."""
        with suppress(OSError):
            for name in os.listdir(self._wake):
                (self._wake / name).unlink(missing_ok=True)

    def done(self, key: str) -> None:
        """Remember that a snapshot was backed up; forget those of long ago.

        Not durable: what it is there for is a tool that tells of a snapshot twice.
        """
        oldest = time.time() - DONE_SECONDS
        with suppress(OSError):
            (self._done / key).touch(mode=0o600)
            for path in self._done.iterdir():
                if path.stat().st_mtime < oldest:
                    path.unlink(missing_ok=True)

    def replace(self, entry: Entry) -> None:
        """Put a changed entry in the place of itself, durably; nothing when it was dropped."""
        path = self._entries / entry.key
        with _io("cannot write to the queue", path):
            if not path.exists():
                return
            fd, temporary = create_temporary(self._entries)
            try:
                write_all(fd, msgspec.json.encode(entry))
                os.fsync(fd)
                os.rename(temporary, path)
            except BaseException:
                discard_temporary(fd, temporary)
                raise
            os.close(fd)
            fsync_directory(self._entries)

    def remove(self, key: str) -> None:
        """Take an entry out, durably."""
        with _io("cannot write to the queue", self._entries):
            (self._entries / key).unlink(missing_ok=True)
            fsync_directory(self._entries)

    def get(self, key: str) -> Entry | None:
        """One entry; None when it is not there. Raises JobFailed when it cannot be read."""
        path = self._entries / key
        with _io("cannot read the queue", path):
            try:
                text = read_all(path, limit_bytes=_ENTRY_BYTES_MAX)
            except FileNotFoundError:
                return None
        try:
            entry = _decoder.decode(text)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise _unreadable(path, str(error)) from error
        if entry.version != VERSION or entry.key != key:
            raise _unreadable(path, "made by another version of repo")
        return entry

    def entries(self) -> Iterator[Entry]:
        """All entries, in the order in which they came in."""
        with _io("cannot read the queue", self._entries):
            try:
                names = os.listdir(self._entries)
            except FileNotFoundError:
                names = []
        found = [self.get(name) for name in sorted(names) if not is_temporary(name)]
        entries = [entry for entry in found if entry is not None]
        yield from sorted(entries, key=lambda entry: (entry.queued_ns, entry.key))

    # The drain

    @contextmanager
    def exclusive(self) -> Iterator[Running]:
        """What is done inside is the only drain. Raises TryLater when there is one."""
        with _io("cannot write to the queue", self.path):
            self._entries.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
            fd = os.open(self.path / "running", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise TryLater(
                    "the queue is being drained already",
                    where=str(self.path),
                    next_step="what you queued is done by that drain",
                ) from None
            with _io("cannot write to the queue", self.path):
                sweep_temporaries(self._entries)
            running = Running(fd)
            running.tell()
            yield running
        finally:
            os.close(fd)

    def running(self) -> dict[str, Any] | None:
        """What the drain that is at work says of itself; None when there is none."""
        try:
            fd = os.open(self.path / "running", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _row(os.pread(fd, MIB, 0))
            return None
        finally:
            os.close(fd)

    def ended(self, row: Mapping[str, Any]) -> None:
        """Keep how a drain ended, for whoever asks. Not worth failing for."""
        with suppress(OSError):
            temporary = self.path / "last.new"
            temporary.write_text(json.dumps(row), encoding="utf-8")
            temporary.rename(self.path / "last")

    def last(self) -> dict[str, Any] | None:
        """How the last drain ended; None when there was none."""
        try:
            return _row((self.path / "last").read_bytes())
        except OSError:
            return None


class Running:
    """What a drain tells of itself, in the file that it holds locked."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._row: dict[str, Any] = {"pid": os.getpid(), "since": time.time(), "entries": []}

    def tell(self, **news: Any) -> None:
        """Change what is told. Not worth failing for."""
        self._row |= news
        text = json.dumps(self._row).encode()
        with suppress(OSError):
            os.pwrite(self._fd, text, 0)
            os.ftruncate(self._fd, len(text))


def _row(text: bytes) -> dict[str, Any]:
    """A JSON object; an empty one when it is being written at this very moment."""
    try:
        row = json.loads(text)
    except ValueError:
        return {}
    return row if isinstance(row, dict) else {}


def _unreadable(path: Path, why: str) -> JobFailed:
    return JobFailed(
        f"an entry of the queue cannot be read: {why}",
        where=str(path),
        next_step="remove the file and queue the snapshot again",
    )


@contextmanager
def _io(what: str, where: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise JobFailed(
            f"{what}: {error.strerror}",
            where=str(where),
            next_step="check its owner, mode and free space; REPO_QUEUE names another folder",
        ) from error
