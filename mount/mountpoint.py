"""A mountpoint: what the kernel says of it, whether it may be used, who holds it, its removal."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Final, NamedTuple

from repo.errors import JobFailed, TryLater, UsageError

FILESYSTEM: Final = "fuse.repo"
"""The type of our mounts in the kernel's list."""

READ_AHEAD_KIB: Final = 1024
BACKGROUND_MAX: Final = 64
_HOLDERS_SHOWN: Final = 8
_ESCAPE: Final = re.compile(rb"\\([0-7]{3})")
_OWNER: Final = re.compile(rb"(?:^|,)user_id=([0-9]+)")
_MNT_DETACH: Final = 2


class Mount(NamedTuple):
    """A line of the kernel's list. `source` is the repository's path for mounts of ours.

    owner: the number of the user who serves a FUSE mount; root for other file systems.
    """

    path: str
    device: str
    filesystem: str
    source: str
    owner: int = 0


def mounts() -> list[Mount]:
    """All mounts this process sees, in the order in which they were made."""
    found: list[Mount] = []
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        fields = line.split(b" ")
        behind = fields[fields.index(b"-") + 1 :]
        path, device, filesystem, source = map(_text, (fields[4], fields[2], *behind[:2]))
        found.append(Mount(path, device, filesystem, source, _owner(behind[2])))
    return found


def _owner(options: bytes) -> int:
    found = _OWNER.search(options)
    return int(found[1]) if found else 0


def _text(field: bytes) -> str:
    return os.fsdecode(_ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), field))


def mount_at(path: str | os.PathLike[str]) -> Mount | None:
    """The topmost mount at exactly this path. Never touches what is mounted, which may hang."""
    wanted = plain(path)
    found = None
    for mount in mounts():
        if mount.path == wanted:
            found = mount
    return found


def plain(path: str | os.PathLike[str]) -> str:
    """The path as the kernel lists it: absolute, the folder above it without symlinks."""
    absolute = os.path.abspath(path)
    above, name = os.path.split(absolute)
    return os.path.join(os.path.realpath(above), name)


def check(path: str | os.PathLike[str]) -> str:
    """The path to mount at, if it is a folder that nothing of ours is mounted on.

    Raises UsageError; for a dead mount it says how to take that away.
    """
    where = plain(path)
    mount = mount_at(where)
    if mount is not None and mount.filesystem.startswith("fuse"):
        if _is_dead(where):
            raise UsageError(
                "a mount whose process died is still here, so that nobody takes the empty "
                "folder below for its content",
                where=where,
                next_step=f"take it away with `repo umount {where}`, then mount again",
            )
        raise UsageError(
            "something is mounted here already",
            where=where,
            next_step=f"mount elsewhere, or unmount it first: `repo umount {where}`",
        )
    try:
        mode = os.stat(where).st_mode
    except OSError as error:
        raise UsageError(
            f"cannot mount here: {error.strerror}", where=where, next_step="make the folder first"
        ) from error
    if not stat.S_ISDIR(mode):
        raise UsageError("not a folder", where=where, next_step="give a folder to mount on")
    return where


def _is_dead(path: str) -> bool:
    try:
        os.stat(path)
    except OSError as error:
        return error.errno == errno.ENOTCONN
    return False


def unmount(path: str | os.PathLike[str], *, lazy: bool = False) -> None:
    """Take a mount of ours away.

    lazy: its name goes at once, the mount itself with its last user. Raises UsageError when
    there is no such mount, TryLater when somebody uses it, and JobFailed.
    """
    where = plain(path)
    mount = mount_at(where)
    if mount is None or mount.filesystem != FILESYSTEM:
        mount = mount_at(os.path.realpath(path)) if mount is None else None
        if mount is None or mount.filesystem != FILESYSTEM:
            raise UsageError(
                "no backup is mounted here", where=where, next_step="`findmnt -t fuse.repo` lists"
            )
        where = mount.path
    reason = _unmount(where, lazy=lazy)
    if not reason:
        return
    if "busy" not in reason.lower():
        raise JobFailed("cannot unmount", where=where, next_step=reason)
    held = holders(where, mount.device)
    by = f" by {', '.join(held)}" if held else ""
    raise TryLater(
        f"the mount is in use{by}", where=where, next_step="end what uses it, or add --lazy"
    )


def _unmount(where: str, *, lazy: bool) -> str:
    """Unmount; why it failed, or nothing."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.umount2(os.fsencode(where), _MNT_DETACH if lazy else 0) == 0:
            return ""
        return os.strerror(ctypes.get_errno())
    program = shutil.which("fusermount3") or shutil.which("fusermount")
    if program is None:
        return "install fusermount3 (the package fuse3)"
    words = [program, "-u", *(["-z"] if lazy else []), "--", where]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stderr.strip() or "fusermount3 failed"


def holders(path: str, device: str) -> list[str]:
    """Who uses a mount: "bash (pid 12)". Only processes that this one may look into."""
    found: list[str] = []
    for pid in sorted((name for name in os.listdir("/proc") if name.isdigit()), key=int):
        with contextlib.suppress(OSError):
            if int(pid) != os.getpid() and _uses(f"/proc/{pid}", path, device):
                name = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace")
                found.append(f"{name.strip()} (pid {pid})")
        if len(found) >= _HOLDERS_SHOWN:
            break
    return found


def _uses(process: str, path: str, device: str) -> bool:
    # Links are read, never followed: following them would ask the mount.
    links = [f"{process}/cwd", f"{process}/root", f"{process}/exe"]
    with contextlib.suppress(OSError):
        links += [f"{process}/fd/{fd}" for fd in os.listdir(f"{process}/fd")]
    for link in links:
        with contextlib.suppress(OSError):
            target = os.readlink(link)
            if target == path or target.startswith(path.rstrip("/") + "/"):
                return True
    with contextlib.suppress(OSError):
        major, minor = device.split(":")
        mapped = f" {int(major):02x}:{int(minor):02x} "
        return mapped in Path(f"{process}/maps").read_text(encoding="utf-8", errors="replace")
    return False


def tune(device: str) -> None:
    """Let the kernel read ahead further and ask more at once, where we may say so."""
    minor = device.partition(":")[2]
    for path, value in (
        (f"/sys/class/bdi/{device}/read_ahead_kb", READ_AHEAD_KIB),
        (f"/sys/fs/fuse/connections/{minor}/max_background", BACKGROUND_MAX),
        (f"/sys/fs/fuse/connections/{minor}/congestion_threshold", BACKGROUND_MAX * 3 // 4),
    ):
        with contextlib.suppress(OSError):
            Path(path).write_text(str(value), encoding="ascii")
