"""The reflink provider: a clone of one block image file, where its file system makes clones.

The file system copies nothing: both files share their blocks, and it does so in one moment, in
which nobody writes to the file. The source is a directory with that one file in it, in the
snapshot folder: `.repo-snap-<job>-<n>/IMAGE`.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from ingest.btrfs import ioctl
from ingest.snapshots import folder as folders
from ingest.snapshots.folder import SnapshotFolder
from ingest.snapshots.journal import Entry
from ingest.snapshots.snapshot import Refusal, Snapshot, SubSource, Terms
from ingest.source import readable

_FICLONE: Final = 1 << 30 | 4 << 16 | 0x94 << 8 | 9
_GETFSUUID: Final = 2 << 30 | 17 << 16 | 0x15 << 8
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_CLONES: Final = frozenset(
    {errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.ENOSYS, errno.EXDEV}
)

_numbers = itertools.count(1)


class ReflinkProvider:
    """Holds clones of single files."""

    name = "reflink"

    def hold(self, path: str, terms: Terms) -> ReflinkHeld | Refusal | None:
        """A clone of the regular file at `path`."""
        canonical = os.path.realpath(path)
        try:
            fd = os.open(canonical, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None  # told by the provider of directories
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return None
            if not terms.take:
                return Refusal("a file is only read as a clone of itself, and none may be made")
            _try(canonical, fd)
            return _hold(canonical, fd, terms)
        except OSError as error:
            if error.errno in _NO_CLONES:
                return Refusal("its file system cannot clone files (XFS and btrfs can)")
            return Refusal(f"it cannot be cloned: {error.strerror}")
        finally:
            os.close(fd)


def file_system_id(fd: int) -> str:
    """The UUID of the file system of an open file; "" where it is not told (before Linux 6.9)."""
    with suppress(OSError):
        return ioctl.file_system_uuid(fd).hex()
    buffer = bytearray(17)
    try:
        fcntl.ioctl(fd, _GETFSUUID, buffer)
    except OSError:
        return ""
    return bytes(buffer[1 : 1 + buffer[0]]).hex()


def _try(path: str, image_fd: int) -> None:
    """Clone the file to nowhere: where that fails nothing has been made. Raises OSError."""
    fd = os.open(os.path.dirname(path), os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        fcntl.ioctl(fd, _FICLONE, image_fd)
    finally:
        os.close(fd)


def _hold(path: str, image_fd: int, terms: Terms) -> ReflinkHeld:
    device = os.fstat(image_fd).st_dev
    file_system = file_system_id(image_fd)

    def same(fd: int) -> bool:
        if os.fstat(fd).st_dev == device:
            return True
        return bool(file_system) and file_system_id(fd) == file_system

    folder = folders.open_or_make(os.path.dirname(path), same, _make)
    name = f"{folders.SNAPSHOT_PREFIX}{terms.journal.id}-r{next(_numbers)}"
    entry = Entry(ReflinkProvider.name, folder.path, file_system, name)
    held = ReflinkHeld(folder, entry, terms)
    try:
        terms.journal.note(entry)
        os.mkdir(name, 0o700, dir_fd=folder.fd)
        held.root_fd = os.open(name, _DIRECTORY, dir_fd=folder.fd)
        with terms.quiet() as hushed:
            copy = _clone(image_fd, held.root_fd, os.path.basename(path))
        held.begin(path, copy, consistency="app" if hushed else "crash")
    except BaseException:
        held.release()
        raise
    return held


def _make(folder_fd: int, name: bytes) -> None:
    """A snapshot folder: a subvolume where there are such, so that no snapshot holds it."""
    try:
        ioctl.create_subvolume(folder_fd, name)
    except OSError as error:
        if error.errno not in (errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL):
            raise
        os.mkdir(name, 0o700, dir_fd=folder_fd)


def _clone(image_fd: int, folder_fd: int, name: str) -> os.stat_result:
    """Clone a file and its attributes; the stat of the clone. Raises OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, 0o600, dir_fd=folder_fd)
    try:
        fcntl.ioctl(fd, _FICLONE, image_fd)
        image = os.fstat(image_fd)
        os.fchown(fd, image.st_uid, image.st_gid)
        os.fchmod(fd, stat.S_IMODE(image.st_mode))
        for attribute in os.listxattr(image_fd):
            with suppress(OSError):  # what is the kernel's own
                os.setxattr(fd, attribute, os.getxattr(image_fd, attribute))
        os.utime(fd, ns=(image.st_atime_ns, image.st_mtime_ns))
        os.fsync(fd)
        return os.fstat(fd)
    finally:
        os.close(fd)


class ReflinkHeld:
    """A clone in a directory of its own."""

    children: Sequence[SubSource] = ()
    notices: Sequence[str] = ()
    snapshot: Snapshot

    def __init__(self, folder: SnapshotFolder, entry: Entry, terms: Terms) -> None:
        self.root_fd = -1
        self._folder = folder
        self._entry: Entry | None = entry
        self._journal = terms.journal
        self._keeping = terms.keep
        self._name = ""
        self._mark = ""

    def begin(self, path: str, copy: os.stat_result, *, consistency: str) -> None:
        """The clone is made: `copy` is its stat."""
        top = os.fstat(self.root_fd)
        self._name = os.path.basename(path)
        self._mark = mark_of(copy)
        assert self._entry is not None
        self.snapshot = Snapshot(
            provider=ReflinkProvider.name,
            path=os.path.join(self._folder.path, self._entry.name),
            identity={"image": readable(path), "fs": self._entry.file_system},
            consistency=consistency,
            frozen=True,
            device=top.st_dev,
            inode=top.st_ino,
            taken_ns=copy.st_ctime_ns,
            anchor={"held": self._mark, "folder": self._folder.path} if self._keeping else {},
            live_path=path,
        )

    def alive(self) -> bool:
        """Whether the clone is still there, and as it was."""
        try:
            found = os.stat(self._name, dir_fd=self.root_fd, follow_symlinks=False)
        except OSError:
            return False
        return mark_of(found) == self._mark

    def keep(self, tag: str, point_id: bytes) -> None:
        """As the protocol says. What cannot be kept is removed with the rest."""
        if not self._keeping or self._entry is None:
            return
        name = f"{folders.HELD_PREFIX}{tag}-{point_id.hex()}"
        with suppress(OSError):
            at = self._folder.fd
            os.rename(self._entry.name, name, src_dir_fd=at, dst_dir_fd=at)
            self._journal.gone(self._entry)
            self._entry = None
            for old in self._folder.names(f"{folders.HELD_PREFIX}{tag}-"):
                if old != name:
                    _destroy(self._folder, old)

    def release(self) -> None:
        """As the protocol says."""
        if self.root_fd >= 0:
            os.close(self.root_fd)
            self.root_fd = -1
        if self._folder.fd >= 0:
            if self._entry is not None and _destroy(self._folder, self._entry.name):
                self._journal.gone(self._entry)
            self._folder.close()


def mark_of(copy: os.stat_result) -> str:
    """What a clone is known by: nothing that is done to it leaves all of this as it was."""
    return f"{copy.st_ino}:{copy.st_ctime_ns}:{copy.st_size}"


def _destroy(folder: SnapshotFolder, name: str) -> bool:
    """Remove a directory with a clone in it; whether it is gone."""
    try:
        fd = os.open(name, _DIRECTORY, dir_fd=folder.fd)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        for inside in os.listdir(fd):
            os.unlink(inside, dir_fd=fd)
        os.rmdir(name, dir_fd=folder.fd)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def remove(entry: Entry) -> bool:
    """For the janitor: undo a journalled entry; whether the thing is gone."""
    if not entry.name.startswith(folders.SNAPSHOT_PREFIX):
        return False
    try:
        folder = folders.open_folder(
            entry.folder, lambda fd: file_system_id(fd) == entry.file_system
        )
    except OSError:
        return False  # not mounted now
    try:
        return _destroy(folder, entry.name)
    finally:
        folder.close()
