"""A pin: what keeps a queued snapshot readable until it is backed up, though its maker deletes it.

On btrfs it is a read-only snapshot of the snapshot, in the snapshot folder of the file system. Its
name comes from the entry that it belongs to, which is written down before and goes after it: so
none is ever forgotten.
"""

from __future__ import annotations

import os
from typing import Final, NamedTuple

from ingest.btrfs import ioctl
from ingest.queue.entry import Pin
from ingest.snapshots import folder as folders

PREFIX: Final = ".repo-queue-"

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Identified(NamedTuple):
    """What a queued path shows. state: bytes that stand for it. unique: for this very state.

    can_pin: it is a read-only subvolume, root and all.
    """

    state: bytes
    unique: bool
    can_pin: bool


def identify(path: str) -> Identified:
    """What lies at a path. Raises OSError when it is no directory that can be opened."""
    fd = os.open(path, _DIRECTORY)
    try:
        stat = os.fstat(fd)
        try:
            found = ioctl.subvolume(fd)
        except OSError:
            return Identified(os.fsencode(os.path.realpath(path)), unique=False, can_pin=False)
        if not found.read_only:
            return Identified(os.fsencode(os.path.realpath(path)), unique=False, can_pin=False)
        # Made writable, changed and made read-only again, it is another state.
        numbers = f"{found.ctransid} {stat.st_ino}"
        return Identified(
            found.uuid + numbers.encode(), unique=True, can_pin=stat.st_ino == ioctl.ROOT_DIRECTORY
        )
    finally:
        os.close(fd)


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
    finally:
        os.close(fd)
    return Pin(provider="btrfs", folder=os.fsencode(folder.path), name=PREFIX + key)


def make(path: str, pin: Pin) -> None:
    """Pin a snapshot as planned; nothing when that was done before. Raises OSError."""
    fd = os.open(path, _DIRECTORY)
    try:
        folder_fd = os.open(pin.folder, _DIRECTORY | os.O_NOFOLLOW)
        try:
            ioctl.create_snapshot(folder_fd, pin.name.encode(), fd)
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
