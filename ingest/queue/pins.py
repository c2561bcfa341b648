"""A pin: what keeps a queued snapshot readable until it is backed up, though its maker deletes it.

On btrfs it is a read-only snapshot of the snapshot, in the snapshot folder of the file system. Its
name comes from the entry that it belongs to, which is written down before and goes after it: so
none is ever forgotten.
"""

from __future__ import annotations

import errno
import os
from typing import Final, NamedTuple

from ingest.btrfs import ioctl
from ingest.btrfs.mountpoint import live_path
from ingest.queue.entry import Pin
from ingest.snapshots import folder as folders
from ingest.snapshots.btrfs import state_of

PREFIX: Final = ".repo-queue-"

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Identified(NamedTuple):
    """What a queued path shows. state: bytes that stand for it. unique: for this very state.

    snapshot: it is a read-only subvolume, root and all, which can be pinned. live: where the
    subvolume lies that it is a snapshot of, "" when that is not known.
    """

    state: bytes
    unique: bool = False
    snapshot: bool = False
    live: str = ""


def identify(path: str) -> Identified:
    """What lies at a path. Raises OSError when it is no directory that can be opened."""
    fd = os.open(path, _DIRECTORY)
    try:
        inode = os.fstat(fd).st_ino
        try:
            found = ioctl.subvolume(fd)
        except OSError:
            return Identified(os.fsencode(os.path.realpath(path)))
        if not found.read_only:
            return Identified(os.fsencode(os.path.realpath(path)))
        # Made writable, changed and made read-only again, it is another state.
        state = found.uuid + f"{found.ctransid} {inode}".encode()
        if inode != ioctl.ROOT_DIRECTORY:
            return Identified(state, unique=True)
        return Identified(state, unique=True, snapshot=True, live=_live(fd, found.parent_uuid))
    finally:
        os.close(fd)


def _live(fd: int, origin: bytes) -> str:
    try:
        return live_path(fd, ioctl.file_system_uuid(fd), origin) or ""
    except (OSError, ioctl.BtrfsError):
        return ""


def plan(path: str, key: str) -> Pin:
    """Where the pin of a snapshot will be; its folder is made when it is missing.

    Raises OSError where there can be none.
    """
    fd = os.open(path, _DIRECTORY)
    try:
        file_system = ioctl.file_system_uuid(fd)
        folder = folders.open_or_make(
            os.path.realpath(path), lambda other: _same(other, file_system), ioctl.create_subvolume
        )
        folder.close()
        lineage = _lineage(fd)
    finally:
        os.close(fd)
    place = os.fsencode(folder.path)
    return Pin(provider="btrfs", folder=place, name=PREFIX + key, lineage=lineage)


def _lineage(fd: int) -> dict[str, str]:
    """What is to be known of a snapshot when it is deleted before its pin is read."""
    try:
        found = ioctl.subvolume(fd)
        if not found.untouched:
            return {}
        return {**state_of(fd, found, {}), "asked": found.uuid.hex()}
    except (OSError, ioctl.BtrfsError):
        return {}


def make(path: str, pin: Pin) -> None:
    """Pin a snapshot as planned; nothing when that was done before. Raises OSError."""
    fd = os.open(path, _DIRECTORY)
    try:
        folder_fd = os.open(pin.folder, _DIRECTORY | os.O_NOFOLLOW)
        try:
            ioctl.create_snapshot(folder_fd, pin.name.encode(), fd)
            if pin.lineage and not ioctl.subvolume(fd).untouched:
                # It was changed since it was asked: what it said is not true of its pin.
                ioctl.destroy_subvolume(folder_fd, pin.name.encode())
                raise OSError(errno.ESTALE, "it was changed meanwhile")
        except FileExistsError:
            return
        finally:
            os.close(folder_fd)
    finally:
        os.close(fd)


def unpin(pin: Pin) -> None:
    """Let go of a snapshot; nothing when it is not pinned. Raises OSError, also when the file
    system is not mounted now.
    """
    folder_fd = os.open(pin.folder, _DIRECTORY | os.O_NOFOLLOW)
    try:
        ioctl.destroy_subvolume(folder_fd, pin.name.encode())
    except FileNotFoundError:
        return
    finally:
        os.close(folder_fd)


def _same(fd: int, file_system: bytes) -> bool:
    try:
        return ioctl.file_system_uuid(fd) == file_system
    except OSError:
        return False
