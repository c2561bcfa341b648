"""Attaching: a FUSE mount made without libfuse; gives the descriptor that requests come from.

Root mounts by itself. Others ask fusermount3, which is set-uid and hands the descriptor over a
socket (the protocol of libfuse's lib/mount.c).
"""

from __future__ import annotations

import array
import ctypes
import os
import shutil
import socket
import stat
import subprocess
from typing import Final

from mount.mountpoint import FILESYSTEM
from repo.errors import JobFailed

_DEVICE: Final = "/dev/fuse"
_MS_RDONLY: Final = 1
_MS_NOSUID: Final = 2
_MS_NODEV: Final = 4
_OPTIONS_BYTES_MAX: Final = 4000


def attach(where: str, source: str, *, allow_other: bool) -> int:
    """Mount at `where`, shown as coming from `source`; the descriptor, which does not block.

    Always read-only, nosuid, nodev, with permissions checked by the kernel. Raises JobFailed.
    """
    options = "default_permissions" + (",allow_other" if allow_other else "")
    if os.geteuid() == 0:
        fd = _mount(where, source, options)
    else:
        fd = _ask_fusermount(where, source, options)
    os.set_blocking(fd, False)
    os.set_inheritable(fd, False)
    return fd


def _mount(where: str, source: str, options: str) -> int:
    try:
        fd = os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise _failed(where, f"{_DEVICE}: {error.strerror}") from error
    kind = stat.S_IFMT(os.stat(where).st_mode)
    data = f"fd={fd},rootmode={kind:o},user_id=0,group_id=0,{options}"
    libc = ctypes.CDLL(None, use_errno=True)
    flags = _MS_RDONLY | _MS_NOSUID | _MS_NODEV
    words = [os.fsencode(word) for word in (source, where, FILESYSTEM)]
    if libc.mount(*words, ctypes.c_ulong(flags), data.encode()) != 0:
        reason = os.strerror(ctypes.get_errno())
        os.close(fd)
        raise _failed(where, reason)
    return fd


def _ask_fusermount(where: str, source: str, options: str) -> int:
    program = shutil.which("fusermount3")
    if program is None:
        raise _failed(where, "install fusermount3 (the package fuse3)")
    name = source.replace("\\", "\\\\").replace(",", "\\,")
    words = f"ro,nosuid,nodev,{options},subtype={FILESYSTEM.partition('.')[2]},fsname={name}"
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        done = subprocess.run(
            [program, "-o", words[:_OPTIONS_BYTES_MAX], "--", where],
            env=os.environ | {"_FUSE_COMMFD": str(theirs.fileno())},
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        theirs.close()
        if done.returncode != 0:
            raise _failed(where, done.stderr.strip() or "fusermount3 failed")
        fds = array.array("i")
        _, ancillary, _, _ = ours.recvmsg(1, socket.CMSG_LEN(fds.itemsize))
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(data[: fds.itemsize])
    if not fds:
        raise _failed(where, "fusermount3 gave no descriptor")
    return fds[0]


def _failed(where: str, reason: str) -> JobFailed:
    return JobFailed("cannot mount", where=where, next_step=reason)
