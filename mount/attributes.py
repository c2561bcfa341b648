"""Attributes: owner, mode, extended attributes, times and flags, given to what is restored.

The order is fixed: the owner first, for a change of it takes set-id bits and capabilities away;
extended attributes before the mode, while the file may still be written; flags last, for they
may forbid every change. What is refused becomes a problem and the rest goes on.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import Final, NamedTuple, ParamSpec

from mount.handle import Handle, OpenHandle
from mount.restoreproblem import FLAGS, MODE, OWNER, TIME, XATTR, Problems
from repo.fileflags import BEFORE_CONTENT, PROTECTING, RESTORABLE, get_flags, set_flags
from repo.format.node import Entry
from repo.types import Kind

_SET_ID: Final = stat.S_ISUID | stat.S_ISGID
_CAP_CHOWN: Final = 0
_CAPABILITY: Final = b"security.capability"

_REMOVABLE: Final = (b"user.", b"trusted.", _CAPABILITY, b"system.posix_acl_")
"""Extended attributes that are taken away where the point has none. Labels of SELinux and its
kin are left: the system gives them itself and lets nobody be without."""

_P = ParamSpec("_P")


class _Changes(NamedTuple):
    """What of an entry is not as recorded. `mode` is the one it is to have, or None."""

    owner: bool
    removed: list[bytes]
    xattrs: list[tuple[bytes, bytes]]
    mode: int | None
    time: bool
    flags: bool


_NO_CHANGES: Final = _Changes(
    owner=False, removed=[], xattrs=[], mode=None, time=False, flags=False
)


class Attributes:
    """Gives entries their attributes; what cannot be had goes to `problems`."""

    def __init__(self, problems: Problems) -> None:
        self._problems = problems
        self._uid = os.geteuid()
        self._gid = os.getegid()
        self._groups = frozenset((self._gid, *os.getgroups()))
        self._may_chown = may_chown()
        self.owners_kept = 0
        """Entries that did not get their owner because only root may give them away."""

    def is_ours(self, entry: Entry) -> bool:
        """Whether a new entry of ours has the recorded owner at once."""
        return entry.uid == self._uid and entry.gid == self._gid

    def set_new(self, fd: int, entry: Entry, mode: int) -> None:
        """Of a file (open for writing) or directory that was just made in a plain site, with
        `mode`: what it has not got by being made, except its flags.
        """
        owned = entry.uid == self._uid and entry.gid == self._gid
        if not owned:
            owned = self._set_owner(OpenHandle(fd), entry, self._uid, self._gid)
        for name, value in entry.xattrs:
            self._set_xattr(OpenHandle(fd), entry, name, value)
        wanted = entry.mode
        if wanted & _SET_ID and not owned:
            wanted = self._without_set_id(entry)
        if wanted != mode:
            self._try(entry, MODE, os.fchmod, fd, wanted)
        try:
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
        except OSError as error:
            self._problems.failed(entry.name, TIME, error)

    @staticmethod
    def set_before_content(fd: int, entry: Entry) -> None:
        """Set the flags that must be there before the first byte or name is."""
        early = entry.flags & BEFORE_CONTENT
        if early:
            try:
                set_flags(fd, get_flags(fd) | early)
            except OSError:
                return  # they are tried again with the others, which tells

    def differ(self, handle: Handle, entry: Entry) -> bool:
        """Whether anything that we could change is not as recorded."""
        return self._changes(handle, entry, handle.status()) != _NO_CHANGES

    def fix(self, handle: Handle, entry: Entry, *, flags: bool = True) -> None:
        """Change what differs, of whatever entry; its flags as well unless they come later."""
        status = handle.status()
        changes = self._changes(handle, entry, status)
        if changes == _NO_CHANGES:
            return
        before = handle.flags()
        if before & PROTECTING:
            self._try(entry, FLAGS, handle.set_flags, before & ~PROTECTING)
        owned = (status.st_uid, status.st_gid) == (entry.uid, entry.gid)
        if changes.owner:
            owned = self._set_owner(handle, entry, status.st_uid, status.st_gid)
        self._fix_xattrs(handle, entry, status, changes)
        wanted = changes.mode
        if wanted is not None:
            if wanted & _SET_ID and not owned:
                wanted = self._without_set_id(entry)
            self._try(entry, MODE, handle.change_mode, wanted)
        if changes.time:
            self._try(entry, TIME, handle.change_time, entry.mtime_ns)
        if flags and (changes.flags or before & PROTECTING):
            self.set_flags(handle, entry)

    def _changes(self, handle: Handle, entry: Entry, status: os.stat_result) -> _Changes:
        owner = self._owner_differs(entry, status)
        present = handle.xattrs()
        if owner:
            present.pop(_CAPABILITY, None)  # the change of owner takes it away
        recorded = {name for name, _ in entry.xattrs}
        removed = [n for n in present if n not in recorded and n.startswith(_REMOVABLE)]
        xattrs = [(name, value) for name, value in entry.xattrs if present.get(name) != value]
        mode: int | None = None
        if entry.kind != Kind.SYMLINK:  # which has no mode of its own
            differs = stat.S_IMODE(status.st_mode) != entry.mode
            if differs or owner or removed or xattrs:
                mode = entry.mode
        return _Changes(
            owner,
            removed,
            xattrs,
            mode,
            status.st_mtime_ns != entry.mtime_ns,
            bool((handle.flags() ^ entry.flags) & RESTORABLE),
        )

    def _owner_differs(self, entry: Entry, status: os.stat_result) -> bool:
        """Whether the owner is to be changed: it is another one, and we may."""
        if (status.st_uid, status.st_gid) == (entry.uid, entry.gid):
            return False
        if self._may_chown or self._may_give_group(entry, status.st_uid, status.st_gid):
            return True
        self.owners_kept += 1
        return False

    def _may_give_group(self, entry: Entry, uid: int, gid: int) -> bool:
        return gid != entry.gid and uid == self._uid and entry.gid in self._groups

    def _fix_xattrs(
        self, handle: Handle, entry: Entry, status: os.stat_result, changes: _Changes
    ) -> None:
        if not (changes.removed or changes.xattrs):
            return
        if self._uid != 0 and not status.st_mode & stat.S_IWUSR and entry.kind != Kind.SYMLINK:
            mode = stat.S_IMODE(status.st_mode) | stat.S_IWUSR  # the right one follows
            self._try(entry, MODE, handle.change_mode, mode)
        for name in changes.removed:
            self._try(entry, XATTR, handle.remove_xattr, name)
        for name, value in changes.xattrs:
            self._set_xattr(handle, entry, name, value)

    # -- one attribute ------------------------------------------------------------------------

    def _set_owner(self, handle: Handle, entry: Entry, uid: int, gid: int) -> bool:
        """Change the owner as far as we may. Returns whether the entry has the recorded one."""
        if self._may_chown:
            return self._try(entry, OWNER, handle.change_owner, entry.uid, entry.gid)
        if self._may_give_group(entry, uid, gid):
            if not self._try(entry, OWNER, handle.change_owner, -1, entry.gid):
                return False
            gid = entry.gid
        if (uid, gid) == (entry.uid, entry.gid):
            return True
        self.owners_kept += 1
        return False

    def _without_set_id(self, entry: Entry) -> int:
        """The mode of a file that has not the owner with whose rights it is to run."""
        if entry.kind == Kind.DIRECTORY:  # there it only hands the group on
            return entry.mode
        self._problems.other(entry.name, MODE, "set-id bits go with the recorded owner only")
        return entry.mode & ~_SET_ID

    def _set_xattr(self, handle: Handle, entry: Entry, name: bytes, value: bytes) -> None:
        try:
            handle.set_xattr(name, value)
        except OSError as error:
            kind = b"user" if name.startswith(b"user.") else name
            self._problems.failed(entry.name, XATTR, error, kind.decode(errors="backslashreplace"))

    def set_flags(self, handle: Handle, entry: Entry) -> None:
        """Set the recorded flags; where not all can be, those that can."""
        wanted = entry.flags & RESTORABLE
        try:
            before = handle.flags()
            if before & RESTORABLE != wanted:
                handle.set_flags(before & ~RESTORABLE | wanted)
        except OSError as error:
            self._problems.failed(entry.name, FLAGS, error)
            singly = [1 << at for at in range(32) if wanted >> at & 1]
            for bit in sorted(singly, key=lambda bit: bool(bit & PROTECTING)):
                try:
                    handle.set_flags(handle.flags() | bit)
                except OSError:
                    continue  # told above: not all could be set

    def _try(
        self, entry: Entry, step: str, change: Callable[_P, None],
        *args: _P.args, **kwargs: _P.kwargs,
    ) -> bool:  # fmt: skip
        try:
            change(*args, **kwargs)
        except OSError as error:
            self._problems.failed(entry.name, step, error)
            return False
        return True


def may_chown() -> bool:
    """Whether this process may give files to others (CAP_CHOWN)."""
    try:
        with open("/proc/self/status", "rb") as lines:
            for line in lines:
                if line.startswith(b"CapEff:"):
                    return bool(int(line.split()[1], 16) >> _CAP_CHOWN & 1)
    except OSError:
        pass  # without /proc: root may, as a rule
    return os.geteuid() == 0
