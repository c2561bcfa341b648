"""A mount: which kind of file system lies at a mount id, as the kernel lists them."""

from __future__ import annotations

import os
import re
from functools import cache
from typing import Final

PSEUDO: Final = frozenset(
    [
        "autofs",
        "binfmt_misc",
        "bpf",
        "cgroup",
        "cgroup2",
        "configfs",
        "debugfs",
        "devpts",
        "devtmpfs",
        "efivarfs",
        "fusectl",
        "hugetlbfs",
        "mqueue",
        "nsfs",
        "proc",
        "pstore",
        "rpc_pipefs",
        "securityfs",
        "selinuxfs",
        "sysfs",
        "tracefs",
    ]
)
"""File systems that show the kernel, not somebody's data: below a source they are not entered."""


UNSTABLE: Final = frozenset(
    ["9p", "cifs", "exfat", "msdos", "nfs", "nfs4", "overlay", "smb3", "vfat", "virtiofs"]
)
"""File systems that number their files anew when they like: an inode there proves nothing."""


DIRECTORIES_TIMED: Final = frozenset(["btrfs", "ext4", "tmpfs", "xfs"])
"""File systems of which it is known, and tested, that a directory's ctime moves with each name
that comes or goes, and that a crash leaves not one without the other."""


def directory_times_tell(mount_id: int) -> bool:
    """Whether a directory at `mount_id` with the same ctime is known to have the same names."""
    return _kinds().get(mount_id, "") in DIRECTORIES_TIMED


def unstable_inodes(mount_id: int) -> bool:
    """Whether the file system at `mount_id` is known to change the inode numbers of its files."""
    kind = _kinds().get(mount_id, "")
    return kind in UNSTABLE or kind.startswith("fuse")


def pseudo_file_system(mount_id: int) -> str:
    """The kind of the file system at `mount_id` when it is a pseudo one, else ""."""
    kind = _kinds().get(mount_id, "")
    return kind if kind in PSEUDO else ""


def mounts_of_type(kind: str) -> list[tuple[str, str]]:
    """What of a kind of file system is mounted now, as (what, where). Raises OSError."""
    found = []
    with open("/proc/self/mountinfo", "rb") as lines:
        for line in lines:
            mount, _, rest = line.partition(b" - ")
            what = rest.split(b" ")
            if what[0].decode() == kind:
                found.append((_unescaped(what[1]), _unescaped(mount.split(b" ")[4])))
    return found


def mounted_below(path: str) -> list[str]:
    """Where file systems with data are mounted strictly below `path`: the outermost ones, sorted.

    Raises OSError.
    """
    below = path.rstrip("/") + "/"
    found: set[str] = set()
    with open("/proc/self/mountinfo", "rb") as lines:
        for line in lines:
            mount, _, rest = line.partition(b" - ")
            where = _unescaped(mount.split(b" ")[4])
            if where.startswith(below) and rest.split(b" ")[0].decode() not in PSEUDO:
                found.add(where)
    outermost: list[str] = []
    for where in sorted(found, key=lambda name: name.split("/")):
        if not outermost or not where.startswith(outermost[-1] + "/"):
            outermost.append(where)
    return outermost


def _unescaped(word: bytes) -> str:
    r"""A word of mountinfo, where a blank is written as \040."""
    plain = re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), word)
    return os.fsdecode(plain)


@cache
def _kinds() -> dict[int, str]:
    """Mount id -> file system kind, as /proc/self/mountinfo said when first asked."""
    kinds: dict[int, str] = {}
    try:
        with open("/proc/self/mountinfo", "rb") as lines:
            for line in lines:
                mount, _, rest = line.partition(b" - ")
                kinds[int(mount.split(b" ", 1)[0])] = rest.split(b" ", 1)[0].decode()
    except OSError:
        return {}  # without /proc nothing is known, and nothing is left out
    return kinds
