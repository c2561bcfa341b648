"""An audit: files that a base calls unchanged are read all the same, a few of them, at random.

A clock, a file system or a change source may be wrong in ways that no rule foresees. So of a
thousand files that are taken over one is read, or a part of it when it is large, and compared with
its chunk ids. One that differs means that the base's word is worth nothing.
"""

from __future__ import annotations

import os
from typing import Final

from ingest.filereader import open_file_stat, torn
from ingest.known import same_attributes
from ingest.statx import stat_fd
from repo.format.node import EXTENT_ROW, HOLE, Entry
from repo.keys import Keys
from repo.types import MIB, Kind

ONE_OF: Final = 1000
"""Of so many files that are taken over one is audited, on average."""

FILES_MAX: Final = 64
"""So many at most by one worker in one run: the cost must follow the changes, not the tree."""

WHOLE_BYTES_MAX: Final = 8 * MIB
"""Of a larger file one chunk is read."""

_NO_LIMIT: Final = (1 << 63) - 1


class Audit:
    """The audits of one worker."""

    def __init__(self, keys: Keys) -> None:
        self._chunk_id = keys.chunk_id
        self._left = FILES_MAX
        self._until_next = _random(2 * ONE_OF)

    def due_among(self, count: int) -> bool:
        """Whether one of the next so many entries may be to be read: then each is to be asked for
        by `due`. If not, they have been passed over.
        """
        if self._left and self._until_next <= count:
            return True
        self._until_next -= count
        return False

    def due(self, entry: Entry) -> bool:
        """Whether this entry, which is taken over, is one to be read."""
        self._until_next -= 1
        if self._until_next > 0 or not self._left or not _readable(entry):
            return False
        self._until_next = 1 + _random(2 * ONE_OF - 1)
        self._left -= 1
        return True

    def right(self, dirfd: int, name: bytes, entry: Entry) -> bool:
        """Whether a file is what the entry says, as far as it is read. Raises OSError.

        One that changes meanwhile is right: it is seen by the next run.
        """
        fd, stat = open_file_stat(dirfd, name)
        try:
            if stat.size != entry.size or stat.ctime_ns != entry.ctime_ns:
                return True
            good = all(self._same(fd, *part) for part in _parts(entry))
            return good or torn(stat, stat_fd(fd))
        finally:
            os.close(fd)

    def unchanged(self, dirfd: int, name: bytes, entry: Entry) -> bool:
        """The same of a file that nobody has looked at: its attributes must be those of the entry.

        Raises OSError.
        """
        fd, stat = open_file_stat(dirfd, name)
        os.close(fd)
        if stat.size != entry.size or not same_attributes(stat, entry, _NO_LIMIT, stable=True):
            return False
        return not _readable(entry) or self.right(dirfd, name, entry)

    def _same(self, fd: int, offset: int, length: int, chunk_id: bytes) -> bool:
        data = os.pread(fd, length, offset)
        while len(data) < length and (more := os.pread(fd, length - len(data), offset + len(data))):
            data += more
        if chunk_id == HOLE:
            return not data.strip(b"\0") and len(data) == length
        return self._chunk_id(data) == chunk_id


def _readable(entry: Entry) -> bool:
    """Whether an entry says of what chunks it is: the extents of very large files are elsewhere."""
    return entry.kind == Kind.FILE and entry.size > 0 and not entry.extent_level


def _parts(entry: Entry) -> list[tuple[int, int, bytes]]:
    """(offset, length, chunk id) of what is to be read: everything, or one chunk at random."""
    parts: list[tuple[int, int, bytes]] = []
    offset = 0
    for chunk_id, length in EXTENT_ROW.iter_unpack(entry.extents):
        read = min(length, WHOLE_BYTES_MAX) if chunk_id == HOLE else length
        parts.append((offset, read, chunk_id))
        offset += length
    return parts if entry.size <= WHOLE_BYTES_MAX else [parts[_random(len(parts)) - 1]]


def _random(most: int) -> int:
    """A number from 1 to `most`. Not `random`: its import costs a worker more than this."""
    return 1 + int.from_bytes(os.urandom(4), "little") % most
