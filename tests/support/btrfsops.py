"""The ways to change something on btrfs: each makes what it needs, and later changes it."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import socket
from collections.abc import Callable
from pathlib import Path
from struct import pack, unpack_from
from typing import Final, NamedTuple

from ingest.btrfs import ioctl
from tests.support import chattr

KIB: Final = 1024
_FICLONE: Final = 0x40049409
_FICLONERANGE: Final = 0x4020940D
_FIDEDUPERANGE: Final = 0xC0189436
_EXCHANGE, _WHITEOUT = 2, 4
_KEEP_SIZE, _PUNCH_HOLE, _ZERO_RANGE = 1, 2, 16
NOCOW: Final = 0x00800000

_libc = ctypes.CDLL(None, use_errno=True)


class Operation(NamedTuple):
    """`before` makes in an empty directory what `change` changes after the base was taken."""

    before: Callable[[Path], None]
    change: Callable[[Path], None]


OPERATIONS: Final[dict[str, Operation]] = {}


def _operation(before: Callable[[Path], None]) -> Callable[[Callable[[Path], None]], None]:
    def register(change: Callable[[Path], None]) -> None:
        OPERATIONS[change.__name__.strip("_").replace("_", "-")] = Operation(before, change)

    return register


def _check(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _rename2(old: Path, new: Path, flags: int) -> None:
    _check(_libc.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags))


def _fallocate(path: Path, mode: int, offset: int, length: int) -> None:
    fd = os.open(path, os.O_RDWR)
    try:
        _check(_libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)))
    finally:
        os.close(fd)


def write_at(path: Path, offset: int, data: bytes) -> None:
    """Overwrite a stretch of a file."""
    fd = os.open(path, os.O_WRONLY)
    try:
        os.pwrite(fd, data, offset)
    finally:
        os.close(fd)


def clone(source: Path, target: Path) -> None:
    """Make a file another one's reflink copy."""
    with source.open("rb") as old, target.open("wb") as new:
        fcntl.ioctl(new, _FICLONE, old.fileno())


def clone_range(source: Path, target: Path, start: int, length: int, to: int) -> None:
    """Clone a stretch of one file into another."""
    with source.open("rb") as old, target.open("r+b") as new:
        fcntl.ioctl(new, _FICLONERANGE, pack("=qQQQ", old.fileno(), start, length, to))


def dedupe(source: Path, target: Path, length: int) -> int:
    """Let two files of the same content share their blocks; how many bytes they share now."""
    with source.open("rb") as old, target.open("r+b") as new:
        head = pack("=QQHHI", 0, length, 1, 0, 0)
        answer = bytearray(head + pack("=qQQiI", new.fileno(), 0, 0, 0, 0))
        fcntl.ioctl(old, _FIDEDUPERANGE, answer)
    shared, status = unpack_from("=QiI", answer, len(head) + 16)[:2]
    return int(shared) if not status else 0


# -- what was there before ------------------------------------------------------------------------


def _small(directory: Path) -> None:
    (directory / "file").write_bytes(b"small")


def _file(directory: Path) -> None:
    (directory / "file").write_bytes(os.urandom(256 * KIB))


def _two(directory: Path) -> None:
    (directory / "file").write_bytes(os.urandom(128 * KIB))
    (directory / "other").write_bytes(os.urandom(128 * KIB))


def _same_two(directory: Path) -> None:
    _file(directory)
    (directory / "other").write_bytes((directory / "file").read_bytes())


def _nocow(directory: Path) -> None:
    path = directory / "file"
    path.touch()
    fd = os.open(path, os.O_RDONLY)
    chattr.change(fd, add=NOCOW)
    os.close(fd)
    path.write_bytes(os.urandom(256 * KIB))


def _preallocated(directory: Path) -> None:
    path = directory / "file"
    path.write_bytes(b"x" * 4096)
    _fallocate(path, 0, 0, 256 * KIB)


def _tagged(directory: Path) -> None:
    _small(directory)
    os.setxattr(directory / "file", "user.one", b"first")


def _linked(directory: Path) -> None:
    for name in ("a", "b"):
        (directory / name).mkdir()
    _small(directory / "a")
    os.link(directory / "a/file", directory / "b/link")


def _tree(directory: Path) -> None:
    below = directory / "one" / "two" / "three"
    below.mkdir(parents=True)
    for place in (below, below.parent, below.parent.parent):
        _small(place)
    (directory / "elsewhere").mkdir()


def _nothing(directory: Path) -> None:
    pass


def _symlink(directory: Path) -> None:
    (directory / "link").symlink_to("target")


def _nested(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY)
    ioctl.create_subvolume(fd, b"nested")
    os.close(fd)
    _small(directory / "nested")


# -- content --------------------------------------------------------------------------------------


@_operation(_file)
def _append(directory: Path) -> None:
    with (directory / "file").open("ab") as file:
        file.write(b"more")


@_operation(_small)
def _overwrite_inline(directory: Path) -> None:
    write_at(directory / "file", 0, b"SMALL")


@_operation(_small)
def _grow_out_of_inline(directory: Path) -> None:
    (directory / "file").write_bytes(os.urandom(64 * KIB))


@_operation(_file)
def _shrink_to_inline(directory: Path) -> None:
    (directory / "file").write_bytes(b"tiny")


@_operation(_file)
def _overwrite_in_the_middle(directory: Path) -> None:
    write_at(directory / "file", 100_001, b"in the middle")


@_operation(_file)
def _overwrite_and_put_times_back(directory: Path) -> None:
    path = directory / "file"
    stat = path.stat()
    write_at(path, 4096, b"hidden")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@_operation(_file)
def _truncate(directory: Path) -> None:
    os.truncate(directory / "file", 100_000)


@_operation(_file)
def _truncate_and_extend(directory: Path) -> None:
    os.truncate(directory / "file", 100_000)
    os.truncate(directory / "file", 256 * KIB)


@_operation(_file)
def _extend_with_a_hole(directory: Path) -> None:
    os.truncate(directory / "file", 1024 * KIB)


@_operation(_file)
def _punch_a_hole(directory: Path) -> None:
    _fallocate(directory / "file", _PUNCH_HOLE | _KEEP_SIZE, 64 * KIB, 64 * KIB)


@_operation(_file)
def _punch_a_crooked_hole(directory: Path) -> None:
    _fallocate(directory / "file", _PUNCH_HOLE | _KEEP_SIZE, 1000, 100_000)


@_operation(_file)
def _zero_a_range(directory: Path) -> None:
    _fallocate(directory / "file", _ZERO_RANGE, 5000, 100_000)


@_operation(_file)
def _preallocate_behind_the_end(directory: Path) -> None:
    _fallocate(directory / "file", _KEEP_SIZE, 256 * KIB, 256 * KIB)


@_operation(_preallocated)
def _write_into_what_is_preallocated(directory: Path) -> None:
    write_at(directory / "file", 128 * KIB, os.urandom(8 * KIB))


@_operation(_two)
def _clone_a_file_over_another(directory: Path) -> None:
    clone(directory / "other", directory / "file")


@_operation(_file)
def _clone_to_a_new_name(directory: Path) -> None:
    clone(directory / "file", directory / "new")


@_operation(_two)
def _clone_a_range(directory: Path) -> None:
    clone_range(directory / "other", directory / "file", 0, 64 * KIB, 32 * KIB)


@_operation(_file)
def _clone_a_range_within(directory: Path) -> None:
    path = directory / "file"
    clone_range(path, path, 0, 64 * KIB, 128 * KIB)


@_operation(_same_two)
def _dedupe(directory: Path) -> None:
    assert dedupe(directory / "file", directory / "other", 256 * KIB) == 256 * KIB


@_operation(_nocow)
def _overwrite_without_copy_on_write(directory: Path) -> None:
    write_at(directory / "file", 50_000, os.urandom(20_000))


@_operation(_file)
def _write_through_a_mapping(directory: Path) -> None:
    with (directory / "file").open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        mapping[70_000:70_005] = b"maped"
        mapping.flush()


@_operation(_file)
def _write_directly(directory: Path) -> None:
    fd = os.open(directory / "file", os.O_WRONLY | os.O_DIRECT)
    with mmap.mmap(-1, 4096) as page:
        page[:] = b"d" * 4096
        os.pwritev(fd, [page], 8 * KIB)
    os.close(fd)


@_operation(_file)
def _write_synchronously(directory: Path) -> None:
    fd = os.open(directory / "file", os.O_WRONLY | os.O_SYNC)
    os.pwrite(fd, b"synchronous", 9999)
    os.close(fd)


@_operation(_file)
def _write_and_leave_open_and_unlink(directory: Path) -> None:
    os.unlink(directory / "file")


@_operation(_file)
def _compress(directory: Path) -> None:
    os.setxattr(directory / "file", "btrfs.compression", b"zstd")
    (directory / "file").write_bytes(b"compressible " * 20_000)


# -- metadata -------------------------------------------------------------------------------------


@_operation(_small)
def _chmod(directory: Path) -> None:
    (directory / "file").chmod(0o4711)


@_operation(_small)
def _chown(directory: Path) -> None:
    os.chown(directory / "file", 1234, 4321)


@_operation(_small)
def _utime(directory: Path) -> None:
    os.utime(directory / "file", ns=(1, 123_456_789_012_345_678))


@_operation(_small)
def _set_an_xattr(directory: Path) -> None:
    os.setxattr(directory / "file", "user.new", b"value")


@_operation(_tagged)
def _replace_an_xattr(directory: Path) -> None:
    os.setxattr(directory / "file", "user.one", b"other")


@_operation(_tagged)
def _remove_an_xattr(directory: Path) -> None:
    os.removexattr(directory / "file", "user.one")


@_operation(_small)
def _set_an_acl(directory: Path) -> None:
    entries = [(1, 6, -1), (2, 4, 1000), (4, 4, -1), (16, 6, -1), (32, 4, -1)]
    acl = pack("<I", 2) + b"".join(pack("<HHI", t, p, i & 0xFFFFFFFF) for t, p, i in entries)
    os.setxattr(directory / "file", "system.posix_acl_access", acl)


@_operation(_small)
def _set_flags(directory: Path) -> None:
    fd = os.open(directory / "file", os.O_RDONLY)
    chattr.change(fd, add=chattr.FLAGS["nodump"])
    os.close(fd)


@_operation(_tree)
def _chmod_a_directory(directory: Path) -> None:
    (directory / "one" / "two").chmod(0o700)


@_operation(_tree)
def _set_an_xattr_of_a_directory(directory: Path) -> None:
    os.setxattr(directory / "one" / "two", "user.directory", b"value")


@_operation(_tree)
def _utime_a_directory(directory: Path) -> None:
    os.utime(directory / "one", ns=(5, 5))


# -- names ----------------------------------------------------------------------------------------


@_operation(_small)
def _rename(directory: Path) -> None:
    (directory / "file").rename(directory / "renamed")


@_operation(_tree)
def _rename_to_another_directory(directory: Path) -> None:
    (directory / "one/two/file").rename(directory / "elsewhere" / "file")


@_operation(_two)
def _rename_over_another(directory: Path) -> None:
    (directory / "file").rename(directory / "other")


@_operation(_two)
def _exchange(directory: Path) -> None:
    _rename2(directory / "file", directory / "other", _EXCHANGE)


@_operation(_tree)
def _exchange_a_file_and_a_directory(directory: Path) -> None:
    _rename2(directory / "one/file", directory / "one/two", _EXCHANGE)


@_operation(_tree)
def _exchange_two_directories(directory: Path) -> None:
    _rename2(directory / "one/two", directory / "elsewhere", _EXCHANGE)


@_operation(_small)
def _rename_and_leave_a_whiteout(directory: Path) -> None:
    _rename2(directory / "file", directory / "moved", _WHITEOUT)


@_operation(_two)
def _swap_by_three_renames(directory: Path) -> None:
    (directory / "file").rename(directory / "x")
    (directory / "other").rename(directory / "file")
    (directory / "x").rename(directory / "other")


@_operation(_file)
def _save_like_an_editor(directory: Path) -> None:
    (directory / "file.new").write_bytes(b"edited")
    (directory / "file.new").rename(directory / "file")


@_operation(_small)
def _link(directory: Path) -> None:
    (directory / "below").mkdir()
    os.link(directory / "file", directory / "below" / "link")


@_operation(_linked)
def _unlink_one_of_two(directory: Path) -> None:
    (directory / "a" / "file").unlink()


@_operation(_linked)
def _write_through_one_of_two_links(directory: Path) -> None:
    write_at(directory / "b" / "link", 0, b"LINKS")


@_operation(_linked)
def _rename_one_of_two_links(directory: Path) -> None:
    (directory / "b" / "link").rename(directory / "a" / "again")


@_operation(_linked)
def _link_five_hundred_times(directory: Path) -> None:
    # More names than one item holds: the others are INODE_EXTREF items.
    for number in range(500):
        os.link(directory / "a" / "file", directory / "b" / f"{number:03}-{'long' * 30}")


@_operation(_small)
def _unlink(directory: Path) -> None:
    (directory / "file").unlink()


@_operation(_small)
def _unlink_and_make_again(directory: Path) -> None:
    (directory / "file").unlink()
    (directory / "file").write_bytes(b"small")


@_operation(_nothing)
def _create(directory: Path) -> None:
    (directory / "new").write_bytes(b"new")


@_operation(_nothing)
def _create_without_a_name_and_link(directory: Path) -> None:
    fd = os.open(directory, os.O_TMPFILE | os.O_WRONLY, 0o600)
    os.write(fd, b"nameless")
    _check(_libc.linkat(-100, b"/proc/self/fd/%d" % fd, -100, bytes(directory / "named"), 0x400))
    os.close(fd)


@_operation(_symlink)
def _point_a_symlink_elsewhere(directory: Path) -> None:
    (directory / "link").unlink()
    (directory / "link").symlink_to("TARGET")


@_operation(_nothing)
def _make_special_files(directory: Path) -> None:
    os.mkfifo(directory / "fifo")
    os.mknod(directory / "device", 0o600 | 0o020000, os.makedev(7, 99))
    fd = os.open(directory, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(f"/proc/self/fd/{fd}/socket")  # the whole path is too long for an address
    os.close(fd)


@_operation(_nothing)
def _make_directories(directory: Path) -> None:
    (directory / "x" / "y" / "z").mkdir(parents=True)
    _small(directory / "x" / "y" / "z")


@_operation(_tree)
def _remove_a_directory(directory: Path) -> None:
    (directory / "elsewhere").rmdir()


@_operation(_tree)
def _remove_a_file_deep_down(directory: Path) -> None:
    (directory / "one/two/three/file").unlink()


@_operation(_tree)
def _rename_a_directory(directory: Path) -> None:
    (directory / "one").rename(directory / "renamed")


@_operation(_tree)
def _move_a_directory(directory: Path) -> None:
    (directory / "one/two").rename(directory / "elsewhere" / "two")


@_operation(_tree)
def _move_a_directory_and_change_inside(directory: Path) -> None:
    (directory / "one/two").rename(directory / "elsewhere" / "moved")
    (directory / "elsewhere/moved/three/file").write_bytes(b"changed on the way")


@_operation(_tree)
def _turn_a_chain_of_directories_round(directory: Path) -> None:
    (directory / "one/two/three").rename(directory / "three")
    (directory / "one/two").rename(directory / "three" / "two")
    (directory / "one").rename(directory / "three" / "two" / "one")


@_operation(_tree)
def _replace_a_directory_by_a_file(directory: Path) -> None:
    (directory / "elsewhere").rmdir()
    (directory / "elsewhere").write_bytes(b"a file now")


# -- nested subvolumes ----------------------------------------------------------------------------


@_operation(_nothing)
def _make_a_nested_subvolume(directory: Path) -> None:
    _nested(directory)


@_operation(_nested)
def _change_a_nested_subvolume(directory: Path) -> None:
    (directory / "nested" / "file").write_bytes(b"changed")


@_operation(_nested)
def _delete_a_nested_subvolume(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY)
    ioctl.destroy_subvolume(fd, b"nested")
    os.close(fd)


@_operation(_nested)
def _rename_a_nested_subvolume(directory: Path) -> None:
    (directory / "nested").rename(directory / "other")
