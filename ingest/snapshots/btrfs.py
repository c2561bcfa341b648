"""The btrfs provider: takes a snapshot of a live subvolume, or adopts and pins somebody's.

What it made lies in the snapshot folder of the file system: `.repo-snap-<job>-<n>`, and
`.repo-anchor-<job>-<n>`, an empty subvolume made after it. Once a point is published both get
names of their source, and stay for the next run (`keep`).
"""

from __future__ import annotations

import itertools
import os
import select
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from ingest.btrfs import ioctl, lookup
from ingest.btrfs.ioctl import NO_UUID, ROOT_DIRECTORY, BtrfsError, Subvolume
from ingest.btrfs.mountpoint import live_path
from ingest.snapshots import folder as folders
from ingest.snapshots.folder import SnapshotFolder
from ingest.snapshots.journal import Entry, Journal
from ingest.snapshots.snapshot import Refusal, Snapshot, SubSource, Terms

ANCHORS_KEPT: Final = 2
"""Of a source: that of its newest point, and one more for the case that the point is lost."""

PATIENCE_SECONDS: Final = 0.05
"""So long a run waits until a snapshot is deleted that it does not need any more."""

_CAP_SYS_ADMIN: Final = 21
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_CHAIN_MAX: Final = 64

_numbers = itertools.count(1)
_aside: list[int] = []
"""The processes that still delete something."""


class BtrfsProvider:
    """Holds snapshots of subvolumes, and of directories in them."""

    name = "btrfs"

    def hold(self, path: str, terms: Terms) -> BtrfsHeld | Refusal | None:
        """A snapshot of the subvolume that holds `path`, opened at the same directory."""
        canonical = os.path.realpath(path)
        try:
            fd = os.open(canonical, _DIRECTORY)
        except OSError:
            return None  # told by the provider of directories
        with ExitStack() as stack:
            stack.callback(os.close, fd)
            try:
                file_system = ioctl.file_system_uuid(fd)
            except OSError:
                return None
            if not _privileged():
                return Refusal("snapshots need CAP_SYS_ADMIN (run it as root)")
            try:
                source = _Source(canonical, fd, file_system)
                stack.callback(source.close)
                return _hold(source, terms)
            except BtrfsError as error:
                return Refusal(str(error))
            except OSError as error:
                return Refusal(f"{error.strerror}: {error.filename or canonical}")


class _Source:
    """What is to be held: a directory, the root of its subvolume, and the path between them."""

    def __init__(self, path: str, fd: int, file_system: bytes) -> None:
        self.path = path
        self.file_system = file_system
        stat = os.fstat(fd)
        self.device, self.inode = stat.st_dev, stat.st_ino
        self.subvolume = ioctl.subvolume(fd)
        inner = "" if self.inode == ROOT_DIRECTORY else _path_inside(fd, self.inode)
        self.inside = inner
        self.root_path = path.removesuffix("/" + inner) if inner else path
        self.root_fd = os.open(self.root_path or "/", _DIRECTORY)
        found = os.fstat(self.root_fd)
        if (found.st_dev, found.st_ino) != (self.device, ROOT_DIRECTORY):
            os.close(self.root_fd)
            raise BtrfsError("the root of its subvolume cannot be reached from here")

    def same(self, fd: int) -> bool:
        """Whether an open directory lies on the same file system."""
        try:
            return ioctl.file_system_uuid(fd) == self.file_system
        except OSError:
            return False

    def close(self) -> None:
        os.close(self.root_fd)


def _path_inside(fd: int, inode: int) -> str:
    return os.fsdecode(ioctl.path_in_subvolume(fd, inode))


def _hold(source: _Source, terms: Terms) -> BtrfsHeld | Refusal:
    adopted = source.subvolume.read_only
    if adopted and not terms.pin:
        return _unpinned(source, "")
    if not adopted and not terms.take:
        return Refusal("")
    try:
        return _made(source, terms, adopted=adopted)
    except OSError as error:
        if not adopted:
            return Refusal(f"no snapshot could be made: {error.strerror}")
        return _unpinned(source, f"{source.path}: not pinned: {error.strerror}")


def _unpinned(source: _Source, notice: str) -> BtrfsHeld:
    """The snapshot that is there, as it is: deleted meanwhile, the job ends with status 7."""
    root_fd = os.open(source.path, _DIRECTORY)
    try:
        snapshot = _snapshot(source, source.subvolume, source.path, root_fd, {}, {}, adopted=True)
        return BtrfsHeld(snapshot, root_fd, None, (), [notice] if notice else [])
    except BaseException:
        os.close(root_fd)
        raise


def _made(source: _Source, terms: Terms, *, adopted: bool) -> BtrfsHeld:
    """A snapshot of our own: of a live subvolume, or of a snapshot of somebody's."""
    made = _Making(source, terms)
    try:
        snap = partial(_snap, source_fd=source.root_fd)
        # What somebody froze already needs no hush.
        with nullcontext(False) if adopted else terms.quiet() as hushed:
            name = made.make(folders.SNAPSHOT_PREFIX, snap)
        top = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=made.folder.fd)
        try:
            root_fd = os.open(source.inside or ".", _DIRECTORY | os.O_NOFOLLOW, dir_fd=top)
        finally:
            os.close(top)
        try:
            pinned = ioctl.subvolume(root_fd)
            # What was adopted may have become writable before it was pinned; then its pin is a
            # state of its own.
            anchor_name = made.make(folders.ANCHOR_PREFIX, ioctl.create_subvolume)
            anchor = _anchor(made.folder, anchor_name)
            if terms.keep:
                anchor["held"] = pinned.uuid.hex()
            path = os.path.join(made.folder.path, name, source.inside).rstrip("/")
            snapshot = _snapshot(
                source, pinned, path, root_fd, anchor, terms.lineage, adopted=adopted
            )
            if hushed:
                snapshot = replace(snapshot, consistency="app")
            return BtrfsHeld(snapshot, root_fd, made, _children(source), [])
        except BaseException:
            os.close(root_fd)
            raise
    except BaseException:
        made.undo()
        raise


def _snap(folder_fd: int, name: bytes, *, source_fd: int) -> None:
    ioctl.create_snapshot(folder_fd, name, source_fd)


def _anchor(folder: SnapshotFolder, name: str) -> dict[str, str]:
    fd = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=folder.fd)
    try:
        found = ioctl.subvolume(fd)
    finally:
        os.close(fd)
    return {"uuid": found.uuid.hex(), "transid": str(found.otransid)}


class _Making:
    """What is made for one source, and how it goes away or stays."""

    def __init__(self, source: _Source, terms: Terms) -> None:
        self._journal: Journal = terms.journal
        self._file_system = source.file_system.hex()
        self.keeping = terms.keep
        self.folder = folders.open_or_make(
            source.root_path or "/", source.same, ioctl.create_subvolume
        )
        self._number = next(_numbers)
        self._made: dict[str, Entry] = {}

    def make(self, prefix: str, create: Callable[[int, bytes], None]) -> str:
        """Make something in the folder, journalled first; its name. Raises OSError."""
        name = f"{prefix}{self._journal.id}-{self._number}"
        entry = Entry("btrfs", self.folder.path, self._file_system, name)
        self._journal.note(entry)
        self._made[prefix] = entry
        create(self.folder.fd, name.encode())
        return name

    def keep(self, tag: str, point_id: bytes) -> None:
        """Let it stay as what the next run builds on; what stayed before goes."""
        # The anchor first: a snapshot without one is of no use.
        for prefix, lasting in (
            (folders.ANCHOR_PREFIX, folders.ANCHOR_PREFIX),
            (folders.SNAPSHOT_PREFIX, folders.HELD_PREFIX if self.keeping else ""),
        ):
            entry = self._made.get(prefix)
            if entry is None or not lasting:
                continue
            name = f"{lasting}{tag}-{point_id.hex()}"
            os.rename(entry.name, name, src_dir_fd=self.folder.fd, dst_dir_fd=self.folder.fd)
            self._journal.gone(entry)
            del self._made[prefix]
        for name in self.folder.names(f"{folders.HELD_PREFIX}{tag}-"):
            if not name.endswith(point_id.hex()):
                destroy_aside(self.folder, name)
        for name in self.folder.names(f"{folders.ANCHOR_PREFIX}{tag}-")[:-ANCHORS_KEPT]:
            destroy(self.folder, name)

    def undo(self) -> None:
        """Remove what was not kept; what does not go is left to the janitor."""
        for entry in self._made.values():
            if destroy(self.folder, entry.name):
                self._journal.gone(entry)
        self._made.clear()
        self.folder.close()


def destroy(folder: SnapshotFolder, name: str) -> bool:
    """Delete a subvolume in the folder; whether it is gone."""
    try:
        ioctl.destroy_subvolume(folder.fd, name.encode())
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def destroy_aside(folder: SnapshotFolder, name: str) -> None:
    """Delete a subvolume in a process of its own, which is waited for, though not long.

    For every file that was looked at in a snapshot the kernel has something to let go of. After a
    run that read everything that takes seconds, which the next, short one must not wait for. What
    is killed before it is done is done by the next `keep`.
    """
    for process in [*_aside]:
        if os.waitpid(process, os.WNOHANG)[0]:
            _aside.remove(process)
    process = os.fork()
    if not process:
        try:
            # Locks, pipes and the terminal are the parent's.
            os.closerange(0, folder.fd)
            os.closerange(folder.fd + 1, os.sysconf("SC_OPEN_MAX"))
            destroy(folder, name)
        finally:
            os._exit(0)
    _aside.append(process)
    ended = os.pidfd_open(process)
    try:
        waiting = select.poll()
        waiting.register(ended, select.POLLIN)
        if waiting.poll(1000 * PATIENCE_SECONDS):
            os.waitpid(process, 0)
            _aside.remove(process)
    finally:
        os.close(ended)


def remove(entry: Entry) -> bool:
    """For the janitor: undo a journalled entry; whether the thing is gone."""
    if not entry.name.startswith((folders.SNAPSHOT_PREFIX, folders.ANCHOR_PREFIX)):
        return False

    def same(fd: int) -> bool:
        try:
            return ioctl.file_system_uuid(fd).hex() == entry.file_system
        except OSError:
            return False

    try:
        folder = folders.open_folder(entry.folder, same)
    except OSError:
        return False  # not mounted now
    try:
        return destroy(folder, entry.name)
    finally:
        folder.close()


class BtrfsHeld:
    """A snapshot of a subvolume, open at its root or at a directory in it."""

    def __init__(
        self,
        snapshot: Snapshot,
        root_fd: int,
        made: _Making | None,
        children: Sequence[SubSource],
        notices: Sequence[str],
    ) -> None:
        self.snapshot = snapshot
        self.root_fd = root_fd
        self.children = children
        self.notices = notices
        self._made = made

    def alive(self) -> bool:
        """A deleted subvolume lists as empty, without an error: ask for its root item."""
        try:
            found = ioctl.subvolume(self.root_fd)
        except OSError:
            return False
        expected = self.snapshot.identity["subvolume"]
        changed = found.ctransid > found.otransid and "transid" in self.snapshot.identity
        return found.uuid.hex() == expected and found.read_only and not changed

    def keep(self, tag: str, point_id: bytes) -> None:
        """As the protocol says. What cannot be kept is removed with the rest."""
        if self._made is not None:
            with suppress(OSError):
                self._made.keep(tag, point_id)

    def release(self) -> None:
        """As the protocol says."""
        if self.root_fd >= 0:
            os.close(self.root_fd)
            self.root_fd = -1
        if self._made is not None:
            self._made.undo()
            self._made = None


def _snapshot(
    source: _Source,
    read: Subvolume,
    path: str,
    root_fd: int,
    anchor: dict[str, str],
    lineage: Mapping[str, str],
    *,
    adopted: bool,
) -> Snapshot:
    stat = os.fstat(root_fd)
    identity = {
        "fs": source.file_system.hex(),
        "subvolume": read.uuid.hex(),
        "inside": os.fsencode(source.inside).decode("utf-8", "backslashreplace"),
    }
    identity |= state_of(source.root_fd, read, lineage)
    state_ns = int(identity.pop("otime"))
    live = _live_path(source, identity) if adopted else source.path
    return Snapshot(
        provider=BtrfsProvider.name,
        path=path,
        identity=identity,
        consistency="crash",
        frozen=True,
        device=stat.st_dev,
        inode=stat.st_ino,
        taken_ns=state_ns,
        adopted=adopted,
        anchor=anchor,
        live_path=live,
        live_device=os.stat(live).st_dev if live else 0,
        placeholder=ioctl.PLACEHOLDER,
    )


def _live_path(source: _Source, identity: dict[str, str]) -> str:
    """Where the directory that an adopted snapshot shows lies in the subvolume it is of."""
    if "origin" not in identity:
        return ""
    origin = bytes.fromhex(identity["origin"])
    path = live_path(source.root_fd, source.file_system, origin)
    if path is None:
        return ""
    path = os.path.join(path, source.inside).rstrip("/") or "/"
    return path if os.path.isdir(path) else ""


def state_of(fd: int, read: Subvolume, lineage: Mapping[str, str]) -> dict[str, str]:
    """Which state of which history a snapshot shows: that of the first in a chain of untouched
    snapshots of snapshots. Without `transid` there is none that could be compared by generation.

    Where a link of the chain is gone that was asked for its state before, `lineage` is what it
    said then, with its UUID as `asked`.
    """
    state = read
    for _ in range(_CHAIN_MAX):
        if not state.untouched or state.parent_uuid == NO_UUID or state.received_uuid != NO_UUID:
            break
        parent = lookup.by_uuid(fd, state.parent_uuid)
        if parent is None and lineage.get("asked") == state.parent_uuid.hex():
            return {name: value for name, value in lineage.items() if name != "asked"}
        if parent is None or not parent.read_only:
            return {
                "snapshot": state.uuid.hex(),
                "origin": state.parent_uuid.hex(),
                "transid": str(state.otransid),
                "otime": str(state.otime_ns),
            }
        state = parent
    return {"snapshot": state.uuid.hex(), "otime": str(state.otime_ns)}


def _children(source: _Source) -> list[SubSource]:
    """The subvolumes inside what is read, which its snapshot shows as empty directories."""
    prefix = os.fsencode(source.inside) + b"/" if source.inside else b""
    children = []
    for tree, path in lookup.nested(source.root_fd, source.subvolume.tree):
        if not path.startswith(prefix) or path.endswith(folders.FOLDER_NAME.encode()):
            continue
        found = lookup.by_tree(source.root_fd, tree)
        if found is not None:
            where = os.path.join(source.root_path, os.fsdecode(path))
            children.append(SubSource(where, found.read_only))
    return children


def _privileged() -> bool:
    """Whether this process may look into trees."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return os.geteuid() == 0
    effective = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(effective.split()[1], 16) >> _CAP_SYS_ADMIN & 1)
