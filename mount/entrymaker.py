"""An entry maker: brings files, symlinks and special files into a directory of the target.

What is new gets its name when it is whole: small files because their content is at hand before
they are made, large ones by a temporary name. A regular file that is there is compared and only
what differs is written, after all of that was seen to be readable.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final

from mount.attributes import Attributes
from mount.filecontent import FileContent, Stopped
from mount.handle import NameHandle, OpenHandle
from mount.listing import check_entry
from mount.restoreproblem import DEVICE, Path, Problems
from mount.restoretask import Figures
from mount.target import (
    KIND_OF,
    OPEN_READ,
    Site,
    Target,
    hold,
    is_in_the_way,
    temporary_name,
)
from repo.errors import Damaged
from repo.format.node import EXTENT_ROW, HOLE, Entry
from repo.types import Kind

NEW: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
OPEN_WRITE: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY

_FILE: Final = Kind.FILE
_NO_NAMES: Final = frozenset({b"", b".", b".."})
_unpack_row = EXTENT_ROW.unpack
_open, _write, _utime, _close = os.open, os.write, os.utime, os.close
_FORMATS: Final = {kind: number for number, kind in KIND_OF.items()}
_DEVICES: Final = (Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE)


class EntryMaker:
    """Restores entries that are no directories; for one thread."""

    def __init__(
        self, target: Target, content: FileContent, attributes: Attributes, problems: Problems
    ) -> None:
        self._target = target
        self._content = content
        self._attributes = attributes
        self._problems = problems
        self._chunk = content.loader.chunk
        self._uid, self._gid = target.uid, target.gid
        self.figures = Figures()

    def restore_all(
        self, site: Site, dirfd: int, entries: Iterable[Entry], stopped: Callable[[], bool]
    ) -> None:
        """Bring entries of a directory into a site. Raises RepositoryFailed, Stopped."""
        simple = site.fresh and site.plain
        for entry in entries:
            if not (simple and self._make_simple(dirfd, entry)):
                self.restore(site, dirfd, entry)
            if stopped():
                raise Stopped

    def _make_simple(self, dirfd: int, entry: Entry) -> bool:
        """The case that counts, done quickly: a new small file of ours with nothing special.

        Does what `restore` does, with as few calls as can be. Returns False when it is another
        case, or something went wrong: then nothing has happened.
        """
        name, size = entry.name, entry.size
        if (
            entry.kind != _FILE
            or entry.uid != self._uid
            or entry.gid != self._gid
            or entry.mode > 0o777
            or entry.xattrs
            or entry.flags
            or len(entry.extents) != (EXTENT_ROW.size if size else 0)
            or entry.extent_level
            or b"/" in name
            or b"\0" in name
            or name in _NO_NAMES
        ):
            return False
        fd = -1
        try:
            data: bytes | memoryview = b""
            if size:
                chunk_id, length = _unpack_row(entry.extents)
                if length != size or chunk_id == HOLE:
                    return False
                data = self._chunk(chunk_id, length)
            fd = _open(name, NEW, entry.mode, dir_fd=dirfd)
            if size and _write(fd, data) != size:
                raise OSError(errno.ENOSPC, "a short write")
            _utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
            _close(fd)
        except (OSError, Damaged):
            if fd >= 0:
                self._give_up(dirfd, fd, name)
            return False
        except BaseException:
            if fd >= 0:
                self._give_up(dirfd, fd, name)
            raise
        figures = self.figures
        figures.files += 1
        figures.bytes += size
        figures.bytes_written += size
        return True

    def restore(self, site: Site, dirfd: int, entry: Entry) -> bool:
        """Bring an entry into a site. Returns whether it is there; what failed is a problem.

        Raises RepositoryFailed, Stopped.
        """
        try:
            check_entry(entry)
            if entry.kind == _FILE:
                self._file(site, dirfd, entry)
            else:
                self._special(site, dirfd, entry)
        except Damaged as damage:
            self._problems.damage(entry.name, damage)
            return False
        except OSError as error:
            self.failed(entry, error)
            return False
        self.figures.files += 1
        self.figures.bytes += entry.size
        return True

    def failed(self, entry: Entry, error: OSError) -> None:
        """Record that an entry could not be restored."""
        if is_in_the_way(error):
            self._problems.failed(entry.name, "replace", error, "a directory is in the way")
        elif entry.kind in _DEVICES and error.errno == errno.EPERM:
            self._problems.failed(entry.name, DEVICE, error)
        else:
            self._problems.failed(entry.name, "write", error)

    # -- regular files ------------------------------------------------------------------------

    def _file(self, site: Site, dirfd: int, entry: Entry) -> None:
        if site.fresh:
            try:
                self._new_file(site, dirfd, entry)
                return
            except FileExistsError:
                pass  # a file system to which two names are the same
        try:
            status = os.stat(entry.name, dir_fd=dirfd, follow_symlinks=False)
        except FileNotFoundError:
            self._new_file(site, dirfd, entry)
            return
        if not stat.S_ISREG(status.st_mode) or not self._update(dirfd, entry, status):
            self._new_file(site, dirfd, entry, over=True)

    def _new_file(self, site: Site, dirfd: int, entry: Entry, *, over: bool = False) -> None:
        """Make a file; `over`: in place of what has its name."""
        held = self._content.load(entry)  # before anything is made: it may be damaged
        name = temporary_name() if over or held is None else entry.name
        mode = self.mode_of_new(site, entry)
        fd = os.open(name, NEW, mode, dir_fd=dirfd)
        if name is not entry.name:
            hold(fd)
        try:
            if entry.flags:
                self._attributes.set_before_content(fd, entry)
            written = self._content.fill(fd, entry, held)
            self.finish_new(site, dirfd, fd, entry, mode, name)
        except BaseException:
            self._give_up(dirfd, fd, name)
            raise
        os.close(fd)
        self.figures.bytes_written += written

    @staticmethod
    def _give_up(dirfd: int, fd: int, name: bytes) -> None:
        """Nothing stays of a new file that could not be finished."""
        with suppress(OSError):
            os.close(fd)
        with suppress(OSError):
            os.unlink(name, dir_fd=dirfd)

    def mode_of_new(self, site: Site, entry: Entry) -> int:
        """The mode to make a file with: its own when nothing about it has to change afterwards."""
        if site.plain and not entry.xattrs and self._attributes.is_ours(entry):
            return entry.mode & 0o777
        return 0o600

    def finish_new(
        self, site: Site, dirfd: int, fd: int, entry: Entry, mode: int, name: bytes
    ) -> None:
        """Give a new file that is written its attributes, its name and, last, its flags."""
        if site.plain:
            self._attributes.set_new(fd, entry, mode)
        else:
            self._attributes.fix(OpenHandle(fd), entry, flags=False)
        if name is not entry.name:
            self._target.move_over(dirfd, name, entry.name)
        if entry.flags or not site.plain:
            self._attributes.set_flags(OpenHandle(fd), entry)

    def _update(self, dirfd: int, entry: Entry, status: os.stat_result) -> bool:
        """Bring a regular file that is there up to date. Returns False when it is to be made anew.

        A file with more names than this one is never written: nobody knows where they are. It is
        kept if it is as recorded, and has several names there as well.
        """
        try:
            fd = os.open(entry.name, OPEN_READ, dir_fd=dirfd)
        except PermissionError:
            return False
        try:
            if status.st_nlink > 1:
                return self._keep_linked(fd, entry)
            rows = self._content.differing(fd, self._content.rows(entry))
            differs = self._content.check(rows) or os.fstat(fd).st_size != entry.size
            if differs and not self._write_differing(dirfd, fd, entry):
                return False
            self.figures.files_unchanged += not differs
            self._attributes.fix(OpenHandle(fd), entry)
            return True
        finally:
            os.close(fd)

    def _keep_linked(self, fd: int, entry: Entry) -> bool:
        rows = self._content.differing(fd, self._content.rows(entry))
        same = (
            entry.nlink > 1
            and os.fstat(fd).st_size == entry.size
            and next(rows, None) is None
            and not self._attributes.differ(OpenHandle(fd), entry)
        )
        self.figures.files_unchanged += same
        return same

    def _write_differing(self, dirfd: int, fd: int, entry: Entry) -> bool:
        """Write into the file what it lacks; False when it may not be written."""
        writable = self.open_to_write(dirfd, entry)
        if writable is None:
            return False
        try:
            if os.fstat(writable).st_ino != os.fstat(fd).st_ino:
                return False
            if os.fstat(fd).st_size != entry.size:
                os.ftruncate(writable, entry.size)
            rows = self._content.differing(fd, self._content.rows(entry))
            self.figures.bytes_written += self._content.update(writable, rows)
            return True
        finally:
            os.close(writable)

    def open_to_write(self, dirfd: int, entry: Entry) -> int | None:
        """Open an existing regular file for writing; None when nobody may, or it is running.

        From now on nobody has more rights to it than recorded: what they show is still to come.
        """
        for _ in range(2):
            try:
                fd = os.open(entry.name, OPEN_WRITE, dir_fd=dirfd)
                with suppress(OSError):  # told when the attributes are set
                    mode = stat.S_IMODE(os.fstat(fd).st_mode)
                    if mode & 0o077 & ~entry.mode:
                        os.fchmod(fd, mode & entry.mode & 0o777 | 0o600)
                return fd
            except PermissionError:
                if not self._target.unprotect(dirfd, entry.name):
                    return None
            except OSError as error:
                if error.errno == errno.ETXTBSY:
                    return None
                raise
        return None

    # -- symlinks, devices, fifos, sockets ----------------------------------------------------

    def _special(self, site: Site, dirfd: int, entry: Entry) -> None:
        if site.fresh:
            try:
                self._new_special(site, dirfd, entry, entry.name)
                return
            except FileExistsError:
                pass  # a file system to which two names are the same
        try:
            status = os.stat(entry.name, dir_fd=dirfd, follow_symlinks=False)
        except FileNotFoundError:
            self._new_special(site, dirfd, entry, entry.name)
            return
        if self._is_same_special(dirfd, entry, status):
            handle = NameHandle(dirfd, entry.name)
            if status.st_nlink == 1:
                self._attributes.fix(handle, entry)
                return
            if entry.nlink > 1 and not self._attributes.differ(handle, entry):
                return
        name = temporary_name()
        self._new_special(site, dirfd, entry, name)
        try:
            self._target.move_over(dirfd, name, entry.name)
        except BaseException:
            os.unlink(name, dir_fd=dirfd)
            raise

    @staticmethod
    def _is_same_special(dirfd: int, entry: Entry, status: os.stat_result) -> bool:
        if KIND_OF.get(stat.S_IFMT(status.st_mode)) != entry.kind:
            return False
        if entry.kind == Kind.SYMLINK:
            return os.readlink(entry.name, dir_fd=dirfd) == entry.target
        return entry.kind not in _DEVICES or status.st_rdev == entry.rdev

    def _new_special(self, site: Site, dirfd: int, entry: Entry, name: bytes) -> None:
        """Make a symlink or special file under `name`."""
        simple = site.plain and not entry.xattrs and self._attributes.is_ours(entry)
        if entry.kind == Kind.SYMLINK:
            os.symlink(entry.target, name, dir_fd=dirfd)
        else:
            mode = _FORMATS[Kind(entry.kind)] | (entry.mode if simple else 0o600)
            rdev = entry.rdev if entry.kind in _DEVICES else 0
            os.mknod(name, mode, rdev, dir_fd=dirfd)
        handle = NameHandle(dirfd, name)
        if simple:
            handle.change_time(entry.mtime_ns)
        else:
            self._attributes.fix(handle, entry)

    # -- hard links ---------------------------------------------------------------------------

    def link(self, site: Site, entry: Entry, first: Path) -> bool:
        """Make an entry another name of what was restored at `first`.

        Where that cannot be, it becomes a file of its own, which is told. Returns whether it is
        there.
        """
        here = os.dup(self._target.open(site.path))  # the way to `first` may push it out
        try:
            check_entry(entry)
            was_there = self._link(here, entry.name, self._target.open(first[:-1]), first[-1])
        except OSError as error:
            self._problems.failed(entry.name, "link", error, "is a file of its own now")
            return self.restore(site, here, entry)
        except Damaged as damage:
            self._problems.damage(entry.name, damage)
            return False
        finally:
            os.close(here)
        self.figures.files += 1
        self.figures.bytes += entry.size
        self.figures.files_unchanged += was_there and entry.kind == _FILE
        return True

    def _link(self, here: int, name: bytes, there: int, first: bytes) -> bool:
        """Give a file another name; whether it has that already. Raises OSError."""
        source = os.stat(first, dir_fd=there, follow_symlinks=False)
        try:
            found = os.stat(name, dir_fd=here, follow_symlinks=False)
        except FileNotFoundError:
            self._link_new(here, name, there, first)
            return False
        if (found.st_dev, found.st_ino) == (source.st_dev, source.st_ino):
            return True
        temporary = temporary_name()
        self._link_new(here, temporary, there, first)
        try:
            self._target.move_over(here, temporary, name)
        except BaseException:
            os.unlink(temporary, dir_fd=here)
            raise
        return False

    def _link_new(self, here: int, name: bytes, there: int, first: bytes) -> None:
        """link(2), also to a file whose flags forbid it just now."""
        try:
            os.link(first, name, src_dir_fd=there, dst_dir_fd=here, follow_symlinks=False)
        except PermissionError:
            flags = self._target.unprotect(there, first)
            if not flags:
                raise
            try:
                os.link(first, name, src_dir_fd=there, dst_dir_fd=here, follow_symlinks=False)
            finally:
                self._target.protect(there, first, flags)
