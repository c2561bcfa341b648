"""Answers: what a kernel may ask of a mount, answered from the vfs, whatever adapter asks.

Methods answer from memory, on the loop. One that lacks something raises `Blocked`; then
`waited` has what it lacks fetched, and asks again from the start. Nothing is kept between
requests: the handle of a file is its inode number.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, TypeVar

import trio

from mount import acl
from mount.ahead import Ahead
from mount.content import Content, blocks_of
from mount.prefetcher import Prefetcher
from mount.shelf import Shelf
from mount.source import Blocked, ChunkSource, FramesMissing, WorkMissing
from mount.vfs import FileTree, Found, Listed
from repo.errors import RepoError
from repo.reader import FrameKey
from repo.sealer import Frame
from repo.types import Kind

DAY_SECONDS: Final = 86_400
CHANGING_SECONDS: Final = 1
"""How long names and attributes are good: for ever, and in folders of a mounted repository."""

DEADLINE_SECONDS: Final = 120.0
"""A request that waited so long for the repository fails with EIO."""

BLOCK_BYTES: Final = 4096
NAME_BYTES_MAX: Final = 255

_FORMATS: Final = {
    Kind.FILE: stat.S_IFREG,
    Kind.DIRECTORY: stat.S_IFDIR,
    Kind.SYMLINK: stat.S_IFLNK,
    Kind.FIFO: stat.S_IFIFO,
    Kind.SOCKET: stat.S_IFSOCK,
    Kind.CHARACTER_DEVICE: stat.S_IFCHR,
    Kind.BLOCK_DEVICE: stat.S_IFBLK,
}

log = logging.getLogger("repo.mount")

_SEEKS_HELD: Final = 1024
"""Answers to seeks that wait for who asked."""

T = TypeVar("T")


def _seek(content: Content, start: int, whence: int, source: ChunkSource) -> int | None:
    if whence == os.SEEK_HOLE:
        return content.next_hole(start, source)
    return content.next_data(start, source)


class Refused(Exception):
    """The request fails with this errno, and that is no news."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.errno = number


class Appearance(NamedTuple):
    """What is shown instead of what was recorded: owner, group; `umask` bits are taken away."""

    uid: int | None = None
    gid: int | None = None
    umask: int = 0


AS_RECORDED: Final = Appearance()


class Figures(NamedTuple):
    """What statfs tells: bytes and entries that the mount shows."""

    size: int
    entries: int


class Shown(NamedTuple):
    """The attributes of an inode as they are shown. Blocks have 512 bytes; atime is mtime."""

    number: int
    size: int
    blocks: int
    mtime_ns: int
    ctime_ns: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int


class Answers:
    """Answers for one mount."""

    def __init__(
        self,
        tree: FileTree,
        shelf: Shelf,
        prefetcher: Prefetcher,
        ahead: Ahead,
        *,
        appearance: Appearance,
        figures: Callable[[], Figures],
        has_xattrs: bool,
        deadline_seconds: float,
    ) -> None:
        self.tree = tree
        self.figures = figures
        self.has_xattrs = has_xattrs
        self._shelf = shelf
        self._prefetcher = prefetcher
        self._ahead = ahead
        self._deadline_seconds = deadline_seconds
        self._seeks: dict[tuple[int, int, int, int], int | None] = {}
        self._uid = appearance.uid
        self._gid = appearance.gid
        self._umask = appearance.umask
        kept = 0o7777 & ~appearance.umask
        self._modes = {kind: (bits, kept) for kind, bits in _FORMATS.items()}
        self._modes[Kind.SYMLINK] = (stat.S_IFLNK, 0o7777)

    # -- answers ------------------------------------------------------------------------------

    def lookup(self, parent: int, name: bytes) -> Found | None:
        """What has this name; `.` and `..` are asked for by NFS servers. See FileTree."""
        if len(name) > NAME_BYTES_MAX:
            raise Refused(errno.ENAMETOOLONG)
        if name == b".":
            return self.tree.found(parent)
        if name == b"..":
            return self.tree.parent(parent)
        return self.tree.lookup(parent, name)

    def shown(self, found: Found) -> Shown:
        """The attributes of what was found."""
        entry = found.entry
        kind = entry.kind
        bits, kept = self._modes[kind]  # type: ignore[index]  # an int equals its Kind
        size = blocks = rdev = 0
        if kind == Kind.FILE:
            size, blocks = entry.size, blocks_of(entry)
        elif kind == Kind.SYMLINK:
            size = len(entry.target)
        elif kind == Kind.DIRECTORY:
            size = BLOCK_BYTES
        else:
            rdev = entry.rdev
        return Shown(
            found.number,
            size,
            blocks,
            entry.mtime_ns,
            entry.ctime_ns,
            bits | entry.mode & kept,
            entry.nlink,
            entry.uid if self._uid is None else self._uid,
            entry.gid if self._gid is None else self._gid,
            rdev,
        )

    def listed(self, number: int, start: int) -> Iterator[Listed]:
        """The entries of a directory from an offset on: `.`, `..`, then the rest by position."""
        if start < 1:
            yield b".", self.tree.found(number)
        if start < 2:
            yield b"..", self.tree.parent(number)
        yield from self.tree.children(number, max(0, start - 2))

    def target(self, number: int) -> bytes:
        """Where a symlink points."""
        entry = self.tree.found(number).entry
        if entry.kind != Kind.SYMLINK:
            raise Refused(errno.EINVAL)
        return entry.target

    def read(self, number: int, start: int, length: int) -> list[bytes | memoryview]:
        """Exactly the bytes of a range, as far as the file goes, in parts.

        Never fewer: the kernel takes that for the end of the file and cuts it there.
        """
        content = self.tree.content(number)
        parts = content.read(start, length, self._shelf)
        self._ahead.was_read(number, content, start, min(length, content.size - start))
        return parts

    def seek(self, number: int, start: int, whence: int) -> int:
        """The next data or hole (SEEK_DATA, SEEK_HOLE) from an offset on."""
        content = self.tree.content(number)
        if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
            raise Refused(errno.EINVAL)
        if start >= content.size:
            raise Refused(errno.ENXIO)
        found = self._sought(number, content, start, whence)
        if found is None:
            raise Refused(errno.ENXIO)
        return found

    def _sought(self, number: int, content: Content, start: int, whence: int) -> int | None:
        """Where that is. In a large file thousands of pages may lie in between: they are gone
        through in a thread, for the loop to have the time, and not to begin anew for each of them.
        """
        if not content.is_paged:
            return _seek(content, start, whence, self._shelf)
        key = (number, content.size, start, whence)
        if key not in self._seeks:
            twin, source = content.twin(), self._shelf.blocking()

            def seek() -> None:
                while len(self._seeks) >= _SEEKS_HELD:
                    self._seeks.pop(next(iter(self._seeks)), None)
                self._seeks[key] = _seek(twin, start, whence, source)

            self._shelf.work(seek)
        return self._seeks.pop(key)

    def xattr(self, number: int, name: bytes) -> bytes:
        """The value of an extended attribute.

        Where no mounted point has any, ENOSYS tells the kernel never to ask again.
        """
        if not self.has_xattrs:
            raise Refused(errno.ENOSYS)
        for key, value in self.tree.found(number).entry.xattrs:
            if key == name:
                # The kernel asks the ACL, not the mode, who may do what.
                masked = self._umask and name == acl.ACCESS
                return acl.without(value, self._umask) if masked else value
        raise Refused(errno.ENODATA)

    def xattr_names(self, number: int, uid: int) -> list[bytes]:
        """The names of the extended attributes; `trusted` ones are shown to root alone."""
        if not self.has_xattrs:
            raise Refused(errno.ENOSYS)
        names = [name for name, _ in self.tree.found(number).entry.xattrs]
        if uid != 0:
            names = [name for name in names if not name.startswith(b"trusted.")]
        return names

    # -- waiting and failing ------------------------------------------------------------------

    def begin(self, lacking: Blocked) -> None:
        """Begin to fetch what somebody is going to wait for, before he is even there."""
        if isinstance(lacking, FramesMissing):
            self._prefetcher.fetch(lacking.frames)

    async def waited(self, lacking: Blocked, again: Callable[[], T]) -> T:
        """Fetch what is lacking, and what is lacking then, until the answer is there."""
        frames: dict[FrameKey, Frame] = {}
        with trio.fail_after(self._deadline_seconds):
            while True:
                if isinstance(lacking, FramesMissing):
                    frames |= await self._prefetcher.demand(lacking.frames)
                elif isinstance(lacking, WorkMissing):
                    await trio.to_thread.run_sync(lacking.work, abandon_on_cancel=True)
                try:
                    with self._shelf.handed(frames):
                        return again()
                except Blocked as blocked:
                    lacking = blocked

    def errno_of(self, what: str, number: int, error: Exception) -> int:
        """The errno for a request that failed; what is wrong goes into the log, with the path."""
        if isinstance(error, Refused):
            return error.errno
        if isinstance(error, KeyError):
            return errno.ESTALE
        known = isinstance(error, (RepoError, trio.TooSlowError, OSError))
        text = str(error) or type(error).__name__
        if isinstance(error, trio.TooSlowError):
            text = f"the repository did not answer within {self._deadline_seconds:g} s"
        log.error("%s %s: %s", what, self._path(number), text, exc_info=None if known else error)
        return errno.EIO

    def _path(self, number: int) -> str:
        try:
            path = self.tree.path(number).decode(errors="backslashreplace")
        except Exception:  # noqa: BLE001 (it is for a message about another failure)
            return f"inode {number}"
        # A name may hold anything, also what would pass for a line of its own, or steer a terminal.
        return path if path.isprintable() else ascii(path)[1:-1]
