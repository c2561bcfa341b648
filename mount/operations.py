"""Operations: the adapter between pyfuse3 and the answers of a mount.

Two laws hold here. An exception other than FUSEError ends the mount: so everything unknown
becomes EIO and a line in the log. pyfuse3 tells `read` and `readdir` the handle only: so the
handle is the inode number.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Coroutine, Sequence
from functools import wraps
from typing import Any, Final, TypeVar

import pyfuse3
import trio

from mount import spin
from mount.answers import (
    BLOCK_BYTES,
    CHANGING_SECONDS,
    DAY_SECONDS,
    NAME_BYTES_MAX,
    Answers,
)
from mount.bell import Bell
from mount.pusher import Parts
from mount.source import Blocked
from mount.vfs import Found
from repo.errors import JobFailed, RepoError

R = TypeVar("R")


def handler(serve: Callable[..., R]) -> Callable[..., Coroutine[Any, Any, R]]:
    """Make a handler of a function that answers from memory; its first argument is an inode."""

    @wraps(serve)
    async def handle(self: Any, number: int, *args: object) -> R:
        answers: Answers = self.answers
        try:
            return serve(self, number, *args)
        except Blocked as blocked:
            lacking = blocked
        except Exception as error:  # noqa: BLE001 (anything else would end the mount)
            raise _fuse_error(answers, serve.__name__, number, error) from None
        try:
            return await answers.waited(lacking, lambda: serve(self, number, *args))
        except Exception as error:  # noqa: BLE001 (the same)
            raise _fuse_error(answers, serve.__name__, number, error) from None

    return handle


def _fuse_error(answers: Answers, what: str, number: int, error: Exception) -> pyfuse3.FUSEError:
    return pyfuse3.FUSEError(answers.errno_of(what, number, error))


class MountOperations(pyfuse3.Operations):
    """What the kernel may ask of a mount."""

    supports_dot_lookup = True
    enable_writeback_cache = False

    def __init__(self, answers: Answers) -> None:
        super().__init__()
        self.enable_acl = answers.has_xattrs
        self.answers = answers
        self.initialised = trio.Event()

    def init(self) -> None:
        """The kernel and we have met. What waits for the event runs after the answer is sent."""
        self.initialised.set()

    # -- names and attributes -----------------------------------------------------------------

    @handler
    def lookup(
        self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """What has this name in a directory."""
        found = self.answers.lookup(parent_inode, name)
        if found is None:
            return self._absent(parent_inode)
        self.answers.tree.hold(found)
        return self._attributes(found)

    def _absent(self, parent: int) -> pyfuse3.EntryAttributes:
        attributes = pyfuse3.EntryAttributes()
        attributes.st_ino = 0  # that there is nothing is remembered too
        changes = self.answers.tree.found(parent).changes
        attributes.entry_timeout = CHANGING_SECONDS if changes else DAY_SECONDS
        return attributes

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        """The kernel gives numbers back."""
        self.answers.tree.forget(inode_list)

    @handler
    def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        """Attributes of a number."""
        return self._attributes(self.answers.tree.found(inode))

    def _attributes(self, found: Found) -> pyfuse3.EntryAttributes:
        shown = self.answers.shown(found)
        attributes = pyfuse3.EntryAttributes()
        attributes.st_ino = shown.number
        attributes.generation = found.generation
        timeout = CHANGING_SECONDS if found.changes else DAY_SECONDS
        attributes.entry_timeout = attributes.attr_timeout = timeout
        attributes.st_size = shown.size
        attributes.st_blocks = shown.blocks
        attributes.st_mtime_ns = attributes.st_atime_ns = shown.mtime_ns
        attributes.st_ctime_ns = shown.ctime_ns
        attributes.st_mode = shown.mode
        attributes.st_nlink = shown.nlink
        attributes.st_uid = shown.uid
        attributes.st_gid = shown.gid
        attributes.st_rdev = shown.rdev
        return attributes

    @handler
    def readlink(self, inode: int, ctx: pyfuse3.RequestContext) -> bytes:
        """The target of a symlink."""
        return self.answers.target(inode)

    @handler
    def getxattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        """The value of an extended attribute."""
        return self.answers.xattr(inode, name)

    @handler
    def listxattr(self, inode: int, ctx: pyfuse3.RequestContext) -> list[bytes]:
        """The names of the extended attributes."""
        return self.answers.xattr_names(inode, ctx.uid)

    # -- directories --------------------------------------------------------------------------

    async def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> int:
        """The handle of a directory is its number."""
        return inode

    @handler
    def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """List a directory."""
        tree = self.answers.tree
        told = False
        try:
            for following, (name, found) in enumerate(
                self.answers.listed(fh, start_id), start_id + 1
            ):
                if not pyfuse3.readdir_reply(token, name, self._attributes(found), following):
                    return
                told = True
                if found.link is not None and following > _DOTS:
                    tree.hold(found)
        except (Blocked, RepoError):
            # What was told cannot be told again; the kernel asks for the rest.
            if not told:
                raise

    async def releasedir(self, fh: int) -> None:
        """Nothing was kept for the handle."""

    # -- content ------------------------------------------------------------------------------

    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        """The handle of a file is its number; what the kernel has cached stays good for ever."""
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise pyfuse3.FUSEError(errno.EROFS)
        return pyfuse3.FileInfo(fh=inode, keep_cache=True)

    @handler
    def read(self, fh: int, off: int, size: int) -> bytes:
        """Exactly the bytes of a range, as far as the file goes."""
        return b"".join(self.answers.read(fh, off, size))

    async def release(self, fh: int) -> None:
        """Nothing was kept for the handle."""

    @handler
    def _statfs(self, number: int) -> pyfuse3.StatvfsData:
        size, entries = self.answers.figures()
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = BLOCK_BYTES
        data.f_blocks = max(1, -(-size // BLOCK_BYTES))
        data.f_files = max(1, entries)
        data.f_namemax = NAME_BYTES_MAX
        return data

    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        """What the mount holds; there is never room for more."""
        return await self._statfs(pyfuse3.ROOT_INODE)


_DOTS: Final = 2
"""`.` and `..` come first in a listing; the kernel does not count them as told."""


class Pyfuse3:
    """The adapter that goes through pyfuse3. One at a time: pyfuse3 keeps its session globally."""

    def __init__(self, answers: Answers, bell: Bell) -> None:
        self._operations = MountOperations(answers)
        loop = spin.event_loop(bell)
        if loop is not None:
            pyfuse3.trio = loop  # type: ignore[attr-defined]  # its hook for other loops

    @property
    def initialised(self) -> trio.Event:
        """See Adapter."""
        return self._operations.initialised

    def attach(self, where: str, source: str, *, allow_other: bool) -> None:
        """See Adapter."""
        options = {"ro", "nosuid", "nodev", "default_permissions", "subtype=repo"}
        if source.isascii():
            name = source.replace("\\", "\\\\").replace(",", "\\,")
            options.add(f"fsname={name}")
        if allow_other:
            options.add("allow_other")
        try:
            pyfuse3.init(self._operations, where, options)
        except RuntimeError as error:
            raise JobFailed(
                "cannot mount", where=where, next_step="see the message of libfuse above"
            ) from error

    def store(self, number: int, offset: int, parts: Parts) -> None:
        """See Adapter."""
        pyfuse3.notify_store(number, offset, b"".join(parts))

    async def run(self) -> None:
        """See Adapter."""
        await pyfuse3.main()

    def terminate(self) -> None:
        """See Adapter."""
        pyfuse3.terminate()

    def close(self) -> None:
        """See Adapter."""
        pyfuse3.close(unmount=False)
