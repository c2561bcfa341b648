"""What a test needs of the machine: skips with the reason where it is missing, fails in CI.

CI has everything: a test that skips there would prove nothing, silently.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest

_MKFS_TOOLS = {"ext2": "mkfs.ext2", "ext4": "mkfs.ext4", "xfs": "mkfs.xfs", "btrfs": "mkfs.btrfs"}


def root() -> None:
    """Root with all capabilities that matter: devices, mounts, any owner."""
    if os.geteuid() != 0:
        _missing("root")


def tool(name: str) -> str:
    """A program on PATH (or in an sbin folder); returns its path."""
    path = shutil.which(name) or shutil.which(name, path="/usr/local/sbin:/usr/sbin:/sbin")
    if path is None:
        _missing(f"the program {name}")
    return path


def fuse() -> None:
    """A usable /dev/fuse and the program that unmounts."""
    tool("fusermount3")
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        _missing(f"/dev/fuse ({error.strerror})")


def loop_devices() -> None:
    """Loop devices and the right to mount them."""
    root()
    tool("mount")
    found = subprocess.run([tool("losetup"), "--find"], capture_output=True, text=True, check=False)
    if found.returncode != 0:
        _missing(f"a loop device ({found.stderr.strip()})")


def filesystem(kind: str) -> None:
    """A kernel that knows the file system, and the program that makes one (ext4, xfs, btrfs)."""
    if kind in _MKFS_TOOLS:
        tool(_MKFS_TOOLS[kind])
    if not _kernel_knows(kind) and os.geteuid() == 0 and shutil.which("modprobe"):
        subprocess.run(["modprobe", "--quiet", kind], capture_output=True, check=False)
    if not _kernel_knows(kind):
        _missing(f"a kernel with {kind}")


def _kernel_knows(kind: str) -> bool:
    lines = Path("/proc/filesystems").read_text(encoding="ascii").splitlines()
    return any(line.split()[-1] == kind for line in lines if line)


def _missing(what: str) -> NoReturn:
    reason = f"needs {what}"
    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason}, which CI must have", pytrace=False)
    pytest.skip(reason)
