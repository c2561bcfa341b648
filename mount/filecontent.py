"""File content: brings the bytes of a regular file into the target, or what differs of them."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from struct import Struct
from typing import Final, NamedTuple

from mount.chunkloader import ChunkLoader
from repo.format.node import EXTENT_ROW, HOLE, Entry
from repo.keys import Keys
from repo.tree import Tree
from repo.types import MIB

GROUP_BYTES: Final = 8 * MIB
"""Content is loaded in groups of so many bytes; a file up to this is held before it is made."""

_GROUP_ROWS: Final = 512  # fits the number of buffers that one pwritev takes (1024)
_PACKED = Struct("<Q32sQ")
_ZEROS: Final = bytes(MIB)
_PUNCH_HOLE: Final = 0x01 | 0x02  # FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE

_fallocate = ctypes.CDLL(None, use_errno=True).fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long)


class Stopped(Exception):
    """The restore is to end now."""


class Row(NamedTuple):
    """`length` bytes of a file at `offset`: a chunk, or a hole (id == HOLE)."""

    offset: int
    id: bytes
    length: int


Piece = tuple[int, memoryview]
"""(offset, data)"""


class Held(NamedTuple):
    """The content of a small file, ready to be written; `sparse`: there are holes in it."""

    pieces: Sequence[Piece]
    sparse: bool


def rows_of(tree: Tree, entry: Entry) -> Iterator[Row]:
    """The rows of a file in order. Raises Damaged, at the end if they do not cover its size."""
    offset = 0
    for extent in tree.extents(entry):
        yield Row(offset, extent.id, extent.length)
        offset += extent.length


def pack_rows(rows: Iterable[Row]) -> bytes:
    """Rows for a message."""
    return b"".join([_PACKED.pack(*row) for row in rows])


def parse_rows(data: bytes) -> list[Row]:
    """The rows in a message."""
    return [Row(*row) for row in _PACKED.iter_unpack(data)]


def grouped(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Divide rows into groups that are loaded together."""
    group: list[Row] = []
    size = 0
    for row in rows:
        data = 0 if row.id == HOLE else row.length
        if group and (size + data > GROUP_BYTES or len(group) >= _GROUP_ROWS):
            yield group
            group, size = [], 0
        group.append(row)
        size += data
    if group:
        yield group


class FileContent:
    """Writes and compares the content of files; for one thread."""

    def __init__(
        self, loader: ChunkLoader, tree: Tree, keys: Keys, stopped: Callable[[], bool]
    ) -> None:
        self.loader = loader
        self._tree = tree
        self._chunk_id = keys.chunk_id
        self._stopped = stopped

    def load(self, entry: Entry) -> Held | None:
        """The content of a file that is small enough to be held; None for a larger one.

        Of files that are one chunk the caller has told the loader. Raises Damaged.
        """
        size, extents = entry.size, entry.extents
        if len(extents) == EXTENT_ROW.size and not entry.extent_level:
            chunk_id, length = EXTENT_ROW.unpack(extents)
            if length == size and chunk_id != HOLE:
                return Held([(0, self.loader.chunk(chunk_id, length))], sparse=False)
        if size > GROUP_BYTES:
            return None
        rows = list(self.rows(entry))
        return Held(self._pieces(rows), any(row.id == HOLE for row in rows))

    def fill(self, fd: int, entry: Entry, held: Held | None) -> int:
        """Write the content of a new, empty file, `held` being what `load` gave.

        Returns the bytes written. Raises OSError; Damaged and Stopped with a part written.
        """
        if held is None:
            os.ftruncate(fd, entry.size)
            return self.write(fd, self.rows(entry))
        if held.sparse:
            os.ftruncate(fd, entry.size)
        return _write(fd, held.pieces)

    def rows(self, entry: Entry) -> Iterator[Row]:
        """The rows of a file. Raises Damaged."""
        return rows_of(self._tree, entry)

    def _pieces(self, rows: Sequence[Row]) -> list[Piece]:
        """The data of a group of rows. Raises Damaged."""
        data = [row for row in rows if row.id != HOLE]
        chunk = self.loader.chunk
        with self.loader.expecting([row.id for row in data]):
            return [(row.offset, chunk(row.id, row.length)) for row in data]

    def write(self, fd: int, rows: Iterable[Row]) -> int:
        """Write the data of rows into a file that has its size. Returns the bytes written.

        Raises OSError; Damaged and Stopped with a part written.
        """
        written = 0
        for group in grouped(rows):
            if self._stopped():
                raise Stopped
            written += _write(fd, self._pieces(group))
        return written

    def check(self, rows: Iterable[Row]) -> bool:
        """Read all data of rows to see that it can be; whether there was any row.

        Raises Damaged, Stopped.
        """
        found = False
        for group in grouped(rows):
            if self._stopped():
                raise Stopped
            self._pieces(group)
            found = True
        return found

    def differing(self, fd: int, rows: Iterable[Row]) -> Iterator[Row]:
        """Those rows whose content or hole the open file does not have. Raises OSError, Damaged."""
        status = os.fstat(fd)
        sparse = status.st_blocks * 512 < status.st_size
        for row in rows:
            if row.id == HOLE:
                if _next(fd, row.offset, os.SEEK_DATA) < row.offset + row.length:
                    yield row
            elif sparse and _next(fd, row.offset, os.SEEK_HOLE) < row.offset + row.length:
                yield row  # it may read as the same zeros, but was data
            elif self._chunk_id(_read(fd, row.offset, row.length)) != row.id:
                yield row
            elif self._stopped():
                raise Stopped

    def update(self, fd: int, rows: Iterable[Row]) -> int:
        """Write rows and punch those that are holes. Returns the bytes written. Raises as `write`.

        The caller has seen that all data can be read.
        """
        written = 0
        for group in grouped(rows):
            if self._stopped():
                raise Stopped
            for row in group:
                if row.id == HOLE:
                    _punch(fd, row.offset, row.length)
            written += _write(fd, self._pieces(group))
        return written


def _write(fd: int, pieces: Sequence[Piece]) -> int:
    """Write pieces at their offsets, neighbours with one call. Returns their length."""
    written = 0
    run: list[memoryview] = []
    start = end = 0
    for offset, data in pieces:
        if run and offset != end:
            written += _write_run(fd, start, run)
            run = []
        if not run:
            start = end = offset
        run.append(data)
        end += len(data)
    return written + (_write_run(fd, start, run) if run else 0)


def _write_run(fd: int, offset: int, views: list[memoryview]) -> int:
    """Write buffers one behind the other; short writes go on."""
    total = sum(map(len, views))
    done = os.pwritev(fd, views, offset)
    if done < total:
        rest = memoryview(b"".join(views))
        while done < total:
            done += os.pwrite(fd, rest[done:], offset + done)
    return total


def _read(fd: int, offset: int, length: int) -> bytes:
    """The bytes at an offset; fewer at the end of the file."""
    data = os.pread(fd, length, offset)
    while len(data) < length and (more := os.pread(fd, length - len(data), offset + len(data))):
        data += more
    return data


def _next(fd: int, offset: int, whence: int) -> int:
    """Where the next data or hole begins; far away when there is none."""
    try:
        return os.lseek(fd, offset, whence)
    except OSError as error:
        if error.errno == errno.ENXIO:  # nothing up to the end of the file
            return 1 << 63
        raise


def _punch(fd: int, offset: int, length: int) -> None:
    """Make a hole; zeros where the file system has none. Raises OSError."""
    if _fallocate(fd, _PUNCH_HOLE, offset, length) == 0:
        return
    number = ctypes.get_errno()
    if number not in (errno.EOPNOTSUPP, errno.ENOSYS):
        raise OSError(number, os.strerror(number))
    stop = min(offset + length, os.fstat(fd).st_size)
    for at in range(offset, stop, len(_ZEROS)):
        os.pwrite(fd, _ZEROS[: min(len(_ZEROS), stop - at)], at)
