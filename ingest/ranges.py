"""Ranges of a file: where its data is, and reading them past blocks that cannot be read."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import Final

from ingest.statx import Stat

BLOCK_BYTES: Final = 4096
"""What an unreadable spot of a file is narrowed down to."""


def data_ranges(fd: int, start: int, stop: int, stat: Stat) -> Iterator[tuple[int, int, bool]]:
    """Divide [start, stop) into (start, stop, is_hole), in order and without gaps.

    Asks the file system only when the file has fewer blocks than its size needs; one that knows
    no holes gives data only. Ends early when the file has shrunk below `stop`. Moves the file's
    position. Raises OSError.
    """
    if stat.blocks * 512 >= stat.size:
        if start < stop:
            yield start, stop, False
        return
    position = start
    while position < stop:
        data = _seek(fd, position, os.SEEK_DATA)
        if data is None:  # no data from here on: a hole up to the end of the file
            stop = min(stop, os.lseek(fd, 0, os.SEEK_END))
            if position < stop:
                yield position, stop, True
            return
        data = min(data, stop)
        if data > position:
            yield position, data, True
        if data == stop:
            return
        hole = _seek(fd, data, os.SEEK_HOLE)
        if hole is None:  # shrunk in this very moment
            return
        position = min(hole, stop)
        if position > data:
            yield data, position, False


def _seek(fd: int, position: int, whence: int) -> int | None:
    """The next data or hole; None when there is none before the end of the file."""
    try:
        return os.lseek(fd, position, whence)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):  # no holes known: data up to the end
            return position if whence == os.SEEK_DATA else os.lseek(fd, 0, os.SEEK_END)
        raise


def read_run(
    fd: int, view: memoryview, offset: int, *, skip_bad_blocks: bool = False
) -> tuple[int, int]:
    """Fill `view` from `offset` on: (bytes read, unreadable bytes after them).

    Fewer bytes than wanted and none unreadable: the file ends there. Without `skip_bad_blocks`
    an EIO is raised like every other OSError; with it, unreadable spots are narrowed down to
    blocks of 4 KiB and reported once something readable, or nothing any more, follows.
    """
    good = 0
    while good < len(view):
        try:
            count = os.preadv(fd, [view[good:]], offset + good)
        except OSError as error:
            if error.errno != errno.EIO or not skip_bad_blocks:
                raise
            bad = _bad_bytes(fd, offset + good, offset + len(view))
            if bad:
                return good, bad
            border = good + _to_border(offset + good)
            count = os.preadv(fd, [view[good:border]], offset + good)
        if count == 0:
            break
        good += count
    return good, 0


def read_range(fd: int, offset: int, length: int) -> tuple[bytearray, list[tuple[int, int]]]:
    """Read what can be read of a range: the bytes, and (start, stop) of unreadable blocks.

    Unreadable bytes are zeros in the result, which is shorter than `length` when the file ends
    before. Raises OSError for anything but EIO.
    """
    data = bytearray(length)
    view = memoryview(data)
    unreadable = []
    done = 0
    while done < length:
        good, bad = read_run(fd, view[done:], offset + done, skip_bad_blocks=True)
        done += good
        if bad:
            unreadable.append((offset + done, offset + done + bad))
            done += bad
        elif done < length:
            break
    view.release()
    del data[done:]
    return data, unreadable


def _to_border(position: int) -> int:
    return BLOCK_BYTES - position % BLOCK_BYTES


def _bad_bytes(fd: int, position: int, stop: int) -> int:
    """How many bytes from `position` on lie in blocks that cannot be read; 0 if the first can."""
    stop = min(stop, os.fstat(fd).st_size)
    at = position
    while at < stop:
        step = min(_to_border(at), stop - at)
        try:
            os.pread(fd, step, at)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
        else:
            break
        at += step
    return at - position
