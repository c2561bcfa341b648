"""The device: an adapter that speaks the FUSE protocol itself, for speed.

What a request costs is mostly waking up and the layers on the way. Here one loop reads a
request, answers it from memory and reads the next. OPEN and, for a single point, OPENDIR are
answered with ENOSYS once, which tells the kernel to go on without ever asking again: requests
name the inode, so no handle is needed, and what lies in a point never changes.

A request whose answer has to wait goes into a task of its own. Whatever goes wrong in one is
its own failure: EIO, and a line in the log.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

import trio

from mount import protocol
from mount.answers import CHANGING_SECONDS, DAY_SECONDS, NAME_BYTES_MAX, Answers, Refused
from mount.bell import Bell
from mount.mountpoint import BACKGROUND_MAX
from mount.protocol import Feature, Opcode, Request
from mount.rehearsal import Answer as Listed
from mount.rehearsal import Rehearsal
from mount.rehearsal import Request as Listing
from mount.source import Blocked
from mount.vfs import Found
from repo.errors import RepoError

SPIN_SECONDS: Final = 60e-6
"""How long to poll for the next request before going to sleep: a client's pause for thought."""

IN_A_ROW_MAX: Final = 32
"""So many requests are answered before other tasks get a turn for certain."""

Parts = list[bytes | memoryview]

log = logging.getLogger("repo.mount")

_NAMES: Final = {int(opcode): opcode.name.lower() for opcode in Opcode}
_DOTS: Final = 2
_PARTS_MAX: Final = os.sysconf("SC_IOV_MAX")
_GONE: Final = frozenset({errno.ENODEV, errno.EBADF, errno.ENOTCONN})
_STALE: Final = frozenset({errno.ENOENT, errno.EINTR, errno.EAGAIN})


class Device:
    """Answers the requests that come from a descriptor of /dev/fuse."""

    def __init__(
        self,
        fd: int,
        answers: Answers,
        bell: Bell,
        initialised: trio.Event,
        requests: Counter[str],
        *,
        changes: bool,
    ) -> None:
        """initialised: is set when the kernel and we have met. requests: counts what is asked.

        changes: folders of the mount may change, so that the kernel has to ask for them.
        """
        self.fd = fd
        self.scope = trio.CancelScope()
        self.initialised = initialised
        self._answers = answers
        self._bell = bell
        self._changes = changes
        self._spins = len(os.sched_getaffinity(0)) > 1
        self._nursery: trio.Nursery | None = None
        self._requests = requests
        self._rehearsal = Rehearsal(self._list, answers.tree.branch)
        self._serve: dict[int, Callable[[Request, memoryview], Parts]] = {
            Opcode.LOOKUP: self._lookup,
            Opcode.GETATTR: self._getattr,
            Opcode.READLINK: self._readlink,
            Opcode.OPEN: self._open,
            Opcode.OPENDIR: self._opendir,
            Opcode.READ: self._read,
            Opcode.READDIRPLUS: self._readdirplus,
            Opcode.RELEASEDIR: self._nothing,
            Opcode.GETXATTR: self._getxattr,
            Opcode.LISTXATTR: self._listxattr,
            Opcode.STATFS: self._statfs,
            Opcode.LSEEK: self._lseek,
        }

    async def run(self) -> None:
        """Answer until the mount is gone."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            buffer = bytearray(protocol.REQUEST_BYTES_MAX)
            while await self._receive(buffer):
                pass
            nursery.cancel_scope.cancel()

    # -- receiving ----------------------------------------------------------------------------

    async def _receive(self, buffer: bytearray) -> bool:
        """Answer what comes until it pauses, then wait. False: the mount is gone."""
        view = memoryview(buffer)
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        in_a_row = 0
        while in_a_row < IN_A_ROW_MAX and not self._bell.rung:
            try:
                length = os.readv(self.fd, [buffer])
            except BlockingIOError:
                if self._spun(poll):
                    continue
                break
            except OSError as error:
                if error.errno in _STALE:
                    continue
                if error.errno in _GONE:
                    return False
                raise
            if length == 0:
                return False
            in_a_row += 1
            self._process(view[:length])
        if self._bell.rung or in_a_row == IN_A_ROW_MAX:
            self._bell.rung = False
            await trio.lowlevel.checkpoint()
        else:
            await trio.lowlevel.wait_readable(self.fd)
        return True

    def _spun(self, poll: select.poll) -> bool:
        """Poll for a short while; whether a request came."""
        if not self._spins:
            return False
        if self._rehearsal.is_due:
            self._rehearsal.rehearse()
        end = time.perf_counter() + SPIN_SECONDS
        bell = self._bell
        while not bell.rung:
            if poll.poll(0):
                return True
            if time.perf_counter() >= end:
                break
        return False

    def _process(self, message: memoryview) -> None:
        """Answer one request, or start a task that will."""
        request = Request.parse(message)
        body = message[protocol.HEADER_BYTES :]
        self._requests[_NAMES.get(request.opcode, "other")] += 1
        serve = self._serve.get(request.opcode)
        if serve is None:
            self._process_other(request, body)
            return
        try:
            self._reply(request.unique, serve(request, body))
        except Blocked as blocked:
            assert self._nursery is not None
            self._answers.begin(blocked)
            # The buffer is used for the next request: the task gets a copy.
            self._nursery.start_soon(self._wait, blocked, request, memoryview(bytes(body)))
            self._bell.ring()
        except Exception as error:  # noqa: BLE001 (it must not end the mount)
            self._fail(request, error)

    async def _wait(self, blocked: Blocked, request: Request, body: memoryview) -> None:
        serve = self._serve[request.opcode]
        try:
            parts = await self._answers.waited(blocked, lambda: serve(request, body))
            self._reply(request.unique, parts)
        except Exception as error:  # noqa: BLE001 (the same)
            self._fail(request, error)

    def _process_other(self, request: Request, body: memoryview) -> None:
        if request.opcode in (Opcode.FORGET, Opcode.BATCH_FORGET):
            self._answers.tree.forget(protocol.parse_forget(request, body))
        elif request.opcode == Opcode.INIT:
            self._init(request, body)
        else:
            # What changes things is refused by the kernel itself: the mount is read-only.
            self._write([protocol.refusal(request.unique, errno.ENOSYS)])

    # -- answering ----------------------------------------------------------------------------

    def _reply(self, unique: int, parts: Parts) -> None:
        self._write([protocol.reply_head(unique, sum(map(len, parts))), *parts])

    def _fail(self, request: Request, error: Exception) -> None:
        name = _NAMES.get(request.opcode, "other")
        number = self._answers.errno_of(name, request.node, error)
        try:
            self._write([protocol.refusal(request.unique, number)])
        except OSError:
            log.exception("%s: cannot answer", name)

    def _write(self, parts: Parts) -> None:
        try:
            os.writev(self.fd, _few(parts))
        except OSError as error:
            # ENOENT: whoever asked was interrupted and is gone.
            if error.errno not in _STALE | _GONE:
                raise

    def store(self, number: int, offset: int, parts: Parts) -> None:
        """Put content into the page cache of an inode. In a thread; see mount/pusher.py.

        Raises OSError when the kernel does not know the inode.
        """
        head = protocol.store_head(number, offset, sum(map(len, parts)))
        os.writev(self.fd, _few([head, *parts]))

    def _init(self, request: Request, body: memoryview) -> None:
        wanted = (
            Feature.ASYNC_READ
            | Feature.EXPORT_SUPPORT
            | Feature.AUTO_INVAL_DATA
            | Feature.DO_READDIRPLUS
            | Feature.ASYNC_DIO
            | Feature.NO_OPEN_SUPPORT
            | Feature.PARALLEL_DIROPS
            | Feature.MAX_PAGES
            | Feature.CACHE_SYMLINKS
            | Feature.NO_OPENDIR_SUPPORT
        )
        if self._answers.has_xattrs:
            wanted |= Feature.POSIX_ACL
        offer = protocol.Offer.parse(body)
        self._reply(
            request.unique, [protocol.welcome(offer, wanted, background_max=BACKGROUND_MAX)]
        )
        self.initialised.set()
        self._bell.ring()

    def _lookup(self, request: Request, body: memoryview) -> Parts:
        answers = self._answers
        found = answers.lookup(request.node, protocol.parse_name(body))
        if found is None:
            changes = answers.tree.found(request.node).changes
            return [protocol.no_entry(_seconds(changes=changes))]
        answers.tree.hold(found)
        return [protocol.entry(answers.shown(found), found.generation, _seconds_of(found))]

    def _getattr(self, request: Request, _body: memoryview) -> Parts:
        found = self._answers.tree.found(request.node)
        return [protocol.attributes(self._answers.shown(found), _seconds_of(found))]

    def _readlink(self, request: Request, _body: memoryview) -> Parts:
        return [self._answers.target(request.node)]

    def _open(self, _request: Request, _body: memoryview) -> Parts:
        raise Refused(errno.ENOSYS)

    def _opendir(self, request: Request, _body: memoryview) -> Parts:
        if not self._changes:
            raise Refused(errno.ENOSYS)
        lasting = self._answers.tree.branch(request.node) is not None
        flags = protocol.OPEN_KEEP_CACHE | protocol.OPEN_CACHE_DIR if lasting else 0
        return [protocol.opened(flags)]

    def _nothing(self, _request: Request, _body: memoryview) -> Parts:
        return []

    def _read(self, request: Request, body: memoryview) -> Parts:
        offset, length = protocol.parse_read(body)
        return self._answers.read(request.node, offset, length)

    def _readdirplus(self, request: Request, body: memoryview) -> Parts:
        start, room = protocol.parse_read(body)
        answer = self._rehearsal.answer(Listing(request.node, start, room))
        for found in answer.links:
            self._answers.tree.hold(found)
        return [answer.data]

    def _list(self, wanted: Listing) -> Listed:
        """The answer to READDIRPLUS."""
        answers = self._answers
        shown = answers.shown
        room = wanted.room
        parts: list[bytes] = []
        links: list[Found] = []
        told: dict[int, Found] = {}
        position = wanted.start
        try:
            for name, found in answers.listed(wanted.number, position):
                if found.link is not None:
                    same = told.setdefault(found.number, found)
                    if same.link is not None and same.link[0] != found.link[0]:
                        break  # another file: it gets another number once this one is held
                packed = protocol.listed(
                    name, shown(found), found.generation, _seconds_of(found), position + 1
                )
                room -= len(packed)
                if room < 0:
                    break
                parts.append(packed)
                position += 1
                if found.link is not None and position > _DOTS:
                    links.append(found)
        except (Blocked, RepoError):
            # What was told cannot be told again; the kernel asks for the rest.
            if not parts:
                raise
        return Listed(b"".join(parts), position, links)

    def _getxattr(self, request: Request, body: memoryview) -> Parts:
        room, name = protocol.parse_xattr(body)
        return _fitting(self._answers.xattr(request.node, name), room)

    def _listxattr(self, request: Request, body: memoryview) -> Parts:
        room, _ = protocol.parse_xattr(body)
        names = self._answers.xattr_names(request.node, request.uid)
        return _fitting(b"".join([name + b"\0" for name in names]), room)

    def _statfs(self, _request: Request, _body: memoryview) -> Parts:
        size, entries = self._answers.figures()
        return [protocol.statfs(size=size, entries=entries, name_bytes_max=NAME_BYTES_MAX)]

    def _lseek(self, request: Request, body: memoryview) -> Parts:
        offset, whence = protocol.parse_lseek(body)
        return [protocol.sought(self._answers.seek(request.node, offset, whence))]


def _few(parts: Parts) -> Parts:
    """The same bytes in no more parts than one call takes."""
    return parts if len(parts) <= _PARTS_MAX else [parts[0], b"".join(parts[1:])]


def _seconds_of(found: Found) -> int:
    return CHANGING_SECONDS if found.changes else DAY_SECONDS


def _seconds(*, changes: bool) -> int:
    return CHANGING_SECONDS if changes else DAY_SECONDS


def _fitting(data: bytes, room: int) -> Parts:
    """The answer to a question for an extended attribute, or only its length."""
    if room == 0:
        return [protocol.xattr_length(len(data))]
    if len(data) > room:
        raise Refused(errno.ERANGE)
    return [data]
