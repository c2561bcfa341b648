"""Compare two trees: byte for byte and attribute for attribute, by an own walk.

Uses `os` alone, nothing of ingest or mount, so that no error of theirs hides itself here.
"""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from repo.types import MIB
from tests.support import chattr, need

CHATTR_MASK: Final = sum(chattr.FLAGS.values())
"""Flags compared; the others tell how a file system stores a file."""

_HOLE_READ_WHOLE: Final = 64 * MIB
"""A longer hole is compared at its ends only: 1 TiB of zeros takes minutes."""


class Options(NamedTuple):
    """holes: the layouts of SEEK_HOLE must agree. skip: aspects not compared, as they are named
    in differences ("flags", "hard links", "mtime_ns", "xattrs", ...)."""

    holes: bool
    skip: frozenset[str]


def differences(a: Path, b: Path, *, holes: bool = False, skip: Sequence[str] = ()) -> list[str]:
    """What differs in tree `b` from tree `a`, one line each; none when they are equal.

    Compared are names, kind, mode, uid, gid, size, content, mtime, link target, device number,
    xattrs (ACLs and capabilities among them), file flags, which names are hard links of one
    file, and with `holes` where the holes are.
    """
    walk = _Walk(Options(holes, frozenset(skip)))
    first = os.open(a, os.O_RDONLY | os.O_DIRECTORY)
    second = os.open(b, os.O_RDONLY | os.O_DIRECTORY)
    try:
        walk.entry(first, second, ".", ".")
        walk.hard_links()
    finally:
        os.close(first)
        os.close(second)
    return walk.found


def rsync_differences(a: Path, b: Path, *, exclude: Sequence[str] = ()) -> list[str]:
    """What rsync would do to make `b` like `a`, contents compared; none when they are equal."""
    words = [need.tool("rsync"), "-aHAXn", "--checksum", "-i", "--numeric-ids", "--delete"]
    words += [f"--exclude={pattern}" for pattern in exclude]
    done = subprocess.run([*words, f"{a}/", f"{b}/"], capture_output=True, check=False)
    lines = done.stdout.decode("utf-8", "backslashreplace").splitlines()
    if done.returncode != 0:
        lines.append(f"rsync ended with {done.returncode}: {done.stderr.decode(errors='replace')}")
    return [line for line in lines if line]


class _Walk:
    def __init__(self, options: Options) -> None:
        self.found: list[str] = []
        self._options = options
        self._links_a: dict[tuple[int, int], list[str]] = {}
        self._links_b: dict[tuple[int, int], list[str]] = {}

    def _differ(self, path: str, aspect: str, a: object, b: object) -> None:
        if a != b and aspect not in self._options.skip:
            self.found.append(f"{path!a}: {aspect}: {_short(a)} is {_short(b)}")

    def entry(self, above_a: int, above_b: int, name: str, path: str) -> None:
        a = os.stat(name, dir_fd=above_a, follow_symlinks=False)
        b = os.stat(name, dir_fd=above_b, follow_symlinks=False)
        kind = stat.S_IFMT(a.st_mode)
        if kind != stat.S_IFMT(b.st_mode):
            self._differ(path, "kind", _kind(a.st_mode), _kind(b.st_mode))
            return
        self._differ(path, "mode", oct(stat.S_IMODE(a.st_mode)), oct(stat.S_IMODE(b.st_mode)))
        self._differ(path, "uid", a.st_uid, b.st_uid)
        self._differ(path, "gid", a.st_gid, b.st_gid)
        self._differ(path, "mtime_ns", a.st_mtime_ns, b.st_mtime_ns)
        self._differ(path, "xattrs", _xattrs(above_a, name), _xattrs(above_b, name))
        if kind != stat.S_IFDIR:
            if a.st_nlink > 1:
                self._links_a.setdefault((a.st_dev, a.st_ino), []).append(path)
            if b.st_nlink > 1:
                self._links_b.setdefault((b.st_dev, b.st_ino), []).append(path)
        if kind == stat.S_IFLNK:
            target_a = os.readlink(name, dir_fd=above_a)
            self._differ(path, "link target", target_a, os.readlink(name, dir_fd=above_b))
        elif kind in (stat.S_IFCHR, stat.S_IFBLK):
            self._differ(path, "rdev", a.st_rdev, b.st_rdev)
        elif kind == stat.S_IFREG:
            self._differ(path, "size", a.st_size, b.st_size)
            self._opened(above_a, above_b, name, path, self._file)
        elif kind == stat.S_IFDIR:
            self._opened(above_a, above_b, name, path, self._directory)

    def _opened(self, above_a: int, above_b: int, name: str, path: str, compare: Any) -> None:
        """Open the entry on both sides, compare what needs that, close."""
        a, b = _open(above_a, name), _open(above_b, name)
        try:
            if a is None or b is None:
                self._differ(path, "readable", a is not None, b is not None)
                return
            self._differ(path, "flags", _flags(a), _flags(b))
            compare(a, b, path)
        finally:
            for fd in (a, b):
                if fd is not None:
                    os.close(fd)

    def _directory(self, a: int, b: int, path: str) -> None:
        names_a, names_b = set(os.listdir(a)), set(os.listdir(b))
        for name in sorted(names_a | names_b):
            below = name if path == "." else f"{path}/{name}"
            if name not in names_b:
                self._differ(below, "exists", True, False)
            elif name not in names_a:
                self._differ(below, "exists", False, True)
            else:
                self.entry(a, b, name, below)

    def _file(self, a: int, b: int, path: str) -> None:
        size = min(os.fstat(a).st_size, os.fstat(b).st_size)
        if self._options.holes:
            self._differ(path, "holes", _data(a), _data(b))
        if "content" in self._options.skip:
            return
        for start, stop in _ranges_to_read(a, size):
            for offset in range(start, stop, MIB):
                length = min(MIB, stop - offset)
                content_a, content_b = os.pread(a, length, offset), os.pread(b, length, offset)
                if content_a != content_b:
                    pairs = enumerate(zip(content_a, content_b, strict=False))
                    common = next((at for at, (x, y) in pairs if x != y), 0)
                    self.found.append(f"{path!a}: content: differs at byte {offset + common}")
                    return

    def hard_links(self) -> None:
        """The same names must be links of one file on both sides."""
        groups_a = {tuple(sorted(paths)) for paths in self._links_a.values() if len(paths) > 1}
        groups_b = {tuple(sorted(paths)) for paths in self._links_b.values() if len(paths) > 1}
        for group in sorted(groups_a ^ groups_b):
            self._differ(
                group[0], "hard links", group in groups_a and group, group in groups_b and group
            )


def _open(above: int, name: str) -> int | None:
    try:
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=above)
    except PermissionError:
        return None


def _flags(fd: int) -> int:
    try:
        return chattr.get(fd) & CHATTR_MASK
    except OSError:
        return 0


def _xattrs(above: int, name: str) -> dict[str, bytes] | str:
    path = f"/proc/self/fd/{above}/{name}"
    try:
        return {
            attribute: os.getxattr(path, attribute, follow_symlinks=False)
            for attribute in sorted(os.listxattr(path, follow_symlinks=False))
        }
    except PermissionError:
        return "not readable"
    except OSError as error:
        if error.errno == errno.ENOTSUP:  # the file system has none
            return {}
        raise


def _data(fd: int) -> list[tuple[int, int]]:
    """The (start, stop) ranges with data."""
    found = []
    position, size = 0, os.fstat(fd).st_size
    while position < size:
        try:
            start = os.lseek(fd, position, os.SEEK_DATA)
        except OSError:  # ENXIO: no more data
            break
        position = os.lseek(fd, start, os.SEEK_HOLE)
        found.append((start, position))
    return found


def _ranges_to_read(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """All data of `fd`, and its holes: whole, or their first and last MiB when very long."""
    position = 0
    for start, stop in [*_data(fd), (size, size)]:
        if start - position > _HOLE_READ_WHOLE:
            yield position, position + MIB
            yield start - MIB, min(stop, size)
        elif position < min(stop, size):
            yield position, min(stop, size)
        position = stop


def _kind(mode: int) -> str:
    return stat.filemode(mode)[0]


def _short(value: object) -> str:
    text = ascii(value)
    return text if len(text) < 300 else f"{text[:300]}... ({len(text)} characters)"
