"""Oddities: a tree that holds every kind of entry, name, attribute and content a source may have.

`make(root)` makes what the file system and the user's rights allow; what they do not is told by
name in `Oddities.missing`. Everything is reproducible: same tree, same bytes.
"""

from __future__ import annotations

import errno
import os
import random
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from repo.types import KIB, MIB, TIB
from tests.support import chattr

_NOT_HERE: Final = frozenset(
    {
        errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.ENOTTY, errno.EINVAL, errno.ENOENT,
        errno.ENOSYS, errno.ENAMETOOLONG, errno.EFBIG, errno.EILSEQ, errno.ENOSPC, errno.E2BIG,
    }
)  # fmt: skip
"""What a file system or a lack of rights answers; anything else is a failure of the test."""

NAMES: Final = (
    b"not-utf8-\xff\xfe\x80", b"latin-\xe4\xf6\xfc", b"n" * 255, "\N{SNOWMAN}".encode() * 85,
    b"new\nline", b"tab\there", b"-leading-dash", b"--", b"-", b" leading and trailing ", b"...",
    b"..hidden", b"~", b"#", b"back\\slash", b"quote'\"`$(x)", b"glob*?[a]{b}", b"!negated",
    b"\x01\x7f control", b"%s%n", b"a", b"a.b", b"a-b", b"a0", b"A", b"nul", b"CON", b":",
    b"e\xcc\x81", b"\xc3\xa9",
)  # fmt: skip
"""File names; some sort differently with and without a separator after them."""

BORDERS: Final = (64 * KIB, 256 * KIB, MIB)
LARGE_BORDER: Final = 64 * MIB
"""Sizes where a chunk, a frame or a range task begins; each with one byte less and more."""

FILE_MODES: Final = (
    0o000, 0o200, 0o444, 0o600, 0o755, 0o777, 0o1644, 0o2755, 0o4755, 0o6711, 0o7777
)  # fmt: skip
DIRECTORY_MODES: Final = (0o000, 0o111, 0o500, 0o1777, 0o2775, 0o7777)

TIMES_NS: Final = {
    b"time-before-1970": -1_234_567_890_123_456_789 // 10,
    b"time-just-before-1970": -1,
    b"time-1970": 0,
    b"time-nanosecond": 1_700_000_000_000_000_001,
    b"time-after-2038": 2**31 * 10**9 + 999_999_999,
    b"time-2200": 7_258_118_400_123_456_789,
}

CAPABILITY: Final = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)
"""security.capability: cap_net_raw, effective and permitted."""


def acl(*entries: tuple[int, int, int]) -> bytes:
    """A POSIX ACL as its xattr holds it: (tag, permissions, id) rows, sorted by tag."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


_NOBODY: Final = 0xFFFFFFFF
ACL_ACCESS: Final = acl(
    (0x01, 6, _NOBODY), (0x02, 4, 1234), (0x02, 0, 5678), (0x04, 4, _NOBODY), (0x08, 6, 4321),
    (0x10, 6, _NOBODY), (0x20, 0, _NOBODY),
)  # fmt: skip
ACL_DIRECTORY: Final = acl(
    (0x01, 7, _NOBODY), (0x02, 1, 1234), (0x04, 5, _NOBODY), (0x10, 5, _NOBODY), (0x20, 1, _NOBODY)
)
ACL_DEFAULT: Final = acl(
    (0x01, 7, _NOBODY), (0x02, 5, 1234), (0x04, 5, _NOBODY), (0x10, 5, _NOBODY), (0x20, 1, _NOBODY)
)


XATTRS: Final = {
    b"user.plain": b"value",
    b"user.empty": b"",
    b"user.binary": bytes(range(256)),
    b"user." + b"n" * 250: b"long name",
    b"user.not-utf8-\xff": b"x",
    b"trusted.root": b"only root sees it",
    b"security.capability": CAPABILITY,
    b"system.posix_acl_access": ACL_ACCESS,
}
XATTR_SIZES: Final = (3000, 15_000, 65_536)


def content(seed: int, size: int) -> bytes:
    """`size` bytes that neither repeat nor compress; the same for the same seed."""
    return random.Random(seed).randbytes(size)


class Oddities:
    """The tree that was made. `missing`: what could not be, with the reason."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.missing: dict[str, str] = {}

    def cleanup(self) -> None:
        """Clear what would keep the tree from being removed."""
        chattr.release(self.root)


def make(
    root: Path, *, many: int = 300, large: bool = False, huge: bool = True, deep: bool = True
) -> Oddities:
    """Make the tree in `root`, which must exist.

    many: entries of the large directory. large: also files around 64 MiB (200 MiB in all).
    huge: also a sparse file of 1 TiB, which programs without SEEK_DATA read for hours.
    deep: also paths longer than PATH_MAX, of which rsync and tar know nothing.
    """
    made = Oddities(root)
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        maker = _Maker(fd, made.missing)
        maker.sizes(large=large)
        maker.sparse(huge=huge)
        maker.links()
        maker.symlinks()
        maker.special()
        maker.names()
        maker.modes()
        maker.owners()
        maker.attributes()
        maker.many(many)
        maker.protected()
        if deep:
            maker.deep()
        maker.times()
        maker.flags()
    finally:
        os.close(fd)
    return made


class _Maker:
    """Makes each family of oddities in a directory of its own below `top`."""

    def __init__(self, top: int, missing: dict[str, str]) -> None:
        self._top = top
        self.missing = missing

    # -- primitives --

    @contextmanager
    def _folder(self, name: bytes) -> Iterator[int]:
        os.mkdir(name, 0o755, dir_fd=self._top)
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=self._top)
        try:
            yield fd
        finally:
            os.close(fd)

    @contextmanager
    def _file(self, folder: int, name: bytes, data: bytes = b"") -> Iterator[int]:
        fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=folder)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            yield fd
        finally:
            os.close(fd)

    def _plain(self, folder: int, name: bytes, data: bytes = b"") -> None:
        with self._file(folder, name, data):
            pass

    @contextmanager
    def _may(self, what: str) -> Iterator[None]:
        """Around what not every file system or user can do; notes it when it cannot be done."""
        try:
            yield
        except OSError as error:
            if error.errno not in _NOT_HERE:
                raise
            self.missing[what] = os.strerror(error.errno)

    # -- families --

    def sizes(self, *, large: bool) -> None:
        with self._folder(b"sizes") as folder:
            sizes = {0, 1, 511, 512, 4095, 4096, 4097, 100_000, 3 * MIB + 17}
            for border in BORDERS + (LARGE_BORDER,) * large:
                sizes |= {border - 1, border, border + 1}
            for size in sorted(sizes):
                self._plain(folder, b"%d" % size, content(size, size))
            self._plain(folder, b"zeros", bytes(300_000))
            self._plain(folder, b"repeating", b"all work and no play\n" * 50_000)
            self._plain(folder, b"copy-of-100000", content(100_000, 100_000))

    def sparse(self, *, huge: bool) -> None:
        with self._folder(b"sparse") as folder:
            layouts: dict[bytes, tuple[int, tuple[int, ...]]] = {
                b"hole-at-start": (2 * MIB + 64 * KIB, (2 * MIB,)),
                b"hole-in-middle": (3 * MIB, (0, 3 * MIB - 64 * KIB)),
                b"hole-at-end": (2 * MIB, (0,)),
                b"hole-at-odd-end": (2 * MIB + 123, (0,)),
                b"only-hole": (5 * MIB, ()),
                b"many-holes": (4 * MIB, tuple(range(0, 4 * MIB, 256 * KIB))),
            }
            if huge:
                layouts[b"huge"] = (TIB, (0, TIB // 2, TIB - 64 * KIB))
            for name, (size, places) in layouts.items():
                with self._file(folder, name) as fd, self._may(f"sparse {name.decode()}"):
                    os.ftruncate(fd, size)
                    for place in places:
                        os.pwrite(fd, content(place, 64 * KIB), place)

    def links(self) -> None:
        with self._folder(b"links-1") as here, self._folder(b"links-2") as there:
            self._plain(here, b"file", content(1, 5000))
            os.symlink(b"file", b"symlink", dir_fd=here)
            os.mkfifo(b"fifo", dir_fd=here)
            for name in (b"file", b"symlink", b"fifo"):
                for folder, prefix in ((here, b"again-"), (there, b"other-")):
                    os.link(
                        name,
                        prefix + name,
                        src_dir_fd=here,
                        dst_dir_fd=folder,
                        follow_symlinks=False,
                    )
            self._plain(here, b"same-content-no-link", content(1, 5000))
            for name in (b"empty-1", b"empty-2"):
                self._plain(there, name)
            os.link(b"empty-1", b"empty-3", src_dir_fd=there, dst_dir_fd=there)

    def symlinks(self) -> None:
        with self._folder(b"symlinks") as folder:
            targets = {
                b"relative": b"../sizes/1",
                b"absolute": b"/etc/passwd",
                b"dangling": b"nowhere/at/all",
                b"to-directory": b"../sizes",
                b"to-itself": b"to-itself",
                b"upwards": b"../../../../../../../..",
                b"not-utf8": b"\xff\xfe/\x80",
                b"newline": b"a\nb",
                b"slashes": b"a//b/./",
                b"length-1023": b"t" * 1023,
            }
            for name, target in targets.items():
                os.symlink(target, name, dir_fd=folder)
            with self._may("symlink of 4095 bytes"):
                os.symlink(b"l" * 4095, b"length-4095", dir_fd=folder)
            for name in (b"relative", b"dangling"):
                when = (5, 1_600_000_000_123_456_789)
                os.utime(name, ns=when, dir_fd=folder, follow_symlinks=False)
            with self._may("trusted xattr of a symlink"):
                path = b"/proc/self/fd/%d/dangling" % folder
                os.setxattr(path, b"trusted.link", b"of the link", follow_symlinks=False)
            with self._may("owner of a symlink"):
                os.chown(b"absolute", 1234, 5678, dir_fd=folder, follow_symlinks=False)

    def special(self) -> None:
        with self._folder(b"special") as folder:
            os.mkfifo(b"fifo", 0o640, dir_fd=folder)
            os.mknod(b"socket", stat.S_IFSOCK | 0o751, dir_fd=folder)
            devices = {
                b"char": (stat.S_IFCHR, 1, 3),
                b"char-whiteout": (stat.S_IFCHR, 0, 0),
                b"char-large-numbers": (stat.S_IFCHR, 4095, 0xFFFFF),
                b"block": (stat.S_IFBLK, 7, 300),
            }
            for name, (kind, major, minor) in devices.items():
                with self._may(f"device {name.decode()}"):
                    os.mknod(name, kind | 0o604, os.makedev(major, minor), dir_fd=folder)
            for name in (b"fifo", b"socket", b"char-whiteout"):
                path = b"/proc/self/fd/%d/%s" % (folder, name)
                with self._may("trusted xattr of a special file"):
                    os.setxattr(path, b"trusted.special", b"value", follow_symlinks=False)

    def names(self) -> None:
        with self._folder(b"names") as folder:
            for number, name in enumerate(NAMES):
                with self._may(f"name {name!r}"):
                    self._plain(folder, name, b"%d" % number)
            for name in (b"dir\nectory", b"dir-\xff", b"b", b"b.c"):
                with self._may(f"name {name!r}"):
                    os.mkdir(name, dir_fd=folder)

    def modes(self) -> None:
        with self._folder(b"modes") as folder:
            for mode in (
                0o000,
                0o200,
                0o444,
                0o600,
                0o755,
                0o777,
                0o1644,
                0o2755,
                0o4755,
                0o6711,
                0o7777,
            ):
                with self._file(folder, b"file-%04o" % mode, b"mode") as fd:
                    os.fchmod(fd, mode)
            for mode in DIRECTORY_MODES:
                name = b"directory-%04o" % mode
                os.mkdir(name, dir_fd=folder)
                os.chmod(name, mode, dir_fd=folder)

    def owners(self) -> None:
        with self._folder(b"owners") as folder:
            for uid, gid in ((65534, 65534), (123_456_789, 987_654_321), (0xFFFFFFFE, 0xFFFFFFFE)):
                name = b"%d" % uid
                self._plain(folder, name)
                with self._may(f"owner {uid}"):
                    os.chown(name, uid, gid, dir_fd=folder)
                    os.chmod(name, 0o6755, dir_fd=folder)

    def attributes(self) -> None:
        with self._folder(b"attributes") as folder:
            for number, (name, value) in enumerate(XATTRS.items()):
                here = self._file(folder, b"xattr-%d" % number, b"content")
                with here as fd, self._may(f"xattr {name[:30]!r}"):
                    os.setxattr(fd, name, value)
            with self._file(folder, b"xattr-several") as fd, self._may("xattr b'user.plain'"):
                for number in range(20):
                    os.setxattr(fd, b"user.%d" % number, b"v" * number)
            for size in XATTR_SIZES:
                here = self._file(folder, b"xattr-big-%d" % size)
                with here as fd, self._may(f"xattr of {size} bytes"):
                    os.setxattr(fd, b"user.big", content(size, size))
            os.mkdir(b"directory", dir_fd=folder)
            below = os.open(b"directory", os.O_RDONLY, dir_fd=folder)
            try:
                with self._may("xattr of a directory"):
                    os.setxattr(below, b"user.directory", b"value")
                with self._may("ACL of a directory"):
                    os.setxattr(below, b"system.posix_acl_access", ACL_DIRECTORY)
                    os.setxattr(below, b"system.posix_acl_default", ACL_DEFAULT)
                self._plain(below, b"inherits")
                os.mkdir(b"inherits-too", dir_fd=below)
            finally:
                os.close(below)

    def deep(self) -> None:
        """A path of more than PATH_MAX (4096) bytes."""
        with self._folder(b"deep") as folder:
            fd = os.dup(folder)
            try:
                for level in range(18):
                    name = b"%02d-" % level + b"d" * 240
                    os.mkdir(name, dir_fd=fd)
                    below = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
                    os.close(fd)
                    fd = below
                self._plain(fd, b"at the bottom", b"deep content")
                os.symlink(b"at the bottom", b"link", dir_fd=fd)
                os.mkfifo(b"fifo", dir_fd=fd)
            finally:
                os.close(fd)

    def many(self, count: int) -> None:
        with self._folder(b"many") as folder:
            for number in range(count):
                self._plain(folder, b"entry-%d" % number, b"%d" % (number % 7))

    def protected(self) -> None:
        with self._folder(b"flags") as folder:
            for word in chattr.FLAGS:
                self._plain(folder, word.encode(), b"flagged")
                os.mkdir(b"directory-" + word.encode(), dir_fd=folder)
                self._plain(folder, b"directory-" + word.encode() + b"/file")

    def times(self) -> None:
        """After everything else is made: a new entry gives its directory a new time."""
        with self._folder(b"times") as folder:
            for name in TIMES_NS:
                self._plain(folder, name)
                os.mkdir(b"directory-" + name, dir_fd=folder)
            # A directory of btrfs lists what it held when it was opened: open it again.
            top = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=self._top)
            try:
                self._times_below(top, 1_111_111_111_000_000_000)
            finally:
                os.close(top)
            for name, when in TIMES_NS.items():
                os.utime(name, ns=(1_500_000_000_000_000_000, when), dir_fd=folder)
                os.utime(b"directory-" + name, ns=(1, when), dir_fd=folder)
        os.utime(self._top, ns=(1, 1_222_222_222_222_222_222))

    def _times_below(self, folder: int, when: int) -> int:
        """Give everything below a time of its own, none of which tells when it was made."""
        for name in sorted(os.listdir(folder)):
            when += 1_000_000_001
            mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                with suppress(PermissionError):
                    below = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=folder)
                    try:
                        when = self._times_below(below, when)
                    finally:
                        os.close(below)
            with suppress(PermissionError):
                os.utime(name, ns=(1, when), dir_fd=folder, follow_symlinks=False)
        return when

    def flags(self) -> None:
        """Last: they protect what they are set on."""
        for word, flag in chattr.FLAGS.items():
            for path in (f"flags/{word}", f"flags/directory-{word}"):
                fd = os.open(path, os.O_RDONLY, dir_fd=self._top)
                try:
                    with self._may(f"flag {word}"):
                        chattr.change(fd, add=flag)
                finally:
                    os.close(fd)
