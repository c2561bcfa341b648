"""A fetcher: exact reads from segment files, neighbours joined."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final, NamedTuple

from repo.errors import Damaged, RepoError
from repo.format.layout import damaged_segment_path, removed_path
from repo.storage.durable import repository_failed, repository_io
from repo.storage.folder import Folder
from repo.types import KIB, MIB, SegmentId

GAP_BYTES: Final = 64 * KIB
RUN_BYTES_MAX: Final = 8 * MIB
DESCRIPTORS_MAX: Final = 64

Request = tuple[SegmentId, int, int]
"""What to read: segment, offset, length in bytes."""


class Run(NamedTuple):
    """One read that answers several requests; `requests` are their positions in the list given."""

    segment_id: SegmentId
    offset: int
    length: int
    requests: tuple[int, ...]


def join(requests: Sequence[Request], *, gap: int, most: int) -> list[Run]:
    """The fewest reads that answer the requests, in the order of segment and offset.

    Two requests share a read when at most `gap` bytes lie between them and the read does not
    exceed `most` bytes (a single request may). Lengths and gaps are in bytes.
    """
    runs: list[Run] = []
    members: list[int] = []
    segment_id, start, end = SegmentId(b""), 0, 0
    for position in sorted(range(len(requests)), key=lambda at: requests[at]):
        wanted, offset, length = requests[position]
        joined_end = max(end, offset + length)
        near = members and wanted == segment_id and offset - end <= gap
        if near and (joined_end - start <= most or joined_end == end):
            members.append(position)
            end = joined_end
            continue
        if members:
            runs.append(Run(segment_id, start, end - start, tuple(members)))
        segment_id, start, end, members = wanted, offset, offset + length, [position]
    if members:
        runs.append(Run(segment_id, start, end - start, tuple(members)))
    return runs


class _File:
    """An open segment file; closed when it left the cache and nobody reads it any more."""

    __slots__ = ("cached", "fd", "readers")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.readers = 0
        self.cached = True


class Fetcher:
    """Reads from sealed and open segments of a folder, by any number of threads.

    Keeps up to 64 files open, the least recently used closed first. A segment that garbage
    collection removes stays readable for whoever has it open.
    """

    def __init__(self, folder: Folder, *, descriptors_max: int = DESCRIPTORS_MAX) -> None:
        self._folder = folder
        self._descriptors_max = descriptors_max
        self._files: OrderedDict[SegmentId, _File] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, segment_id: SegmentId, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset` on.

        Raises Damaged when the segment is missing or too short, RepositoryFailed when the
        operating system cannot read it.
        """
        with self._file(segment_id) as fd:
            path = self._folder.segment_path(segment_id)
            with repository_io("cannot read a segment", path):
                data = os.pread(fd, length, offset)
                while len(data) < length:
                    part = os.pread(fd, length - len(data), offset + len(data))
                    if not part:
                        raise Damaged(
                            "segment is shorter than its table says",
                            where=f"{path} at {offset + len(data)}",
                            next_step="repo verify",
                        )
                    data += part
            return data

    def read_many(
        self, requests: Sequence[Request], gap: int = GAP_BYTES, most: int = RUN_BYTES_MAX
    ) -> list[bytes]:
        """The bytes of each request, in the order given; neighbours come with one read.

        gap, most: see `join`. Raises as `read` does.
        """
        answers = [b""] * len(requests)
        for run in join(requests, gap=gap, most=most):
            data = self.read(run.segment_id, run.offset, run.length)
            if len(run.requests) == 1:
                answers[run.requests[0]] = data
                continue
            for position in run.requests:
                _, offset, length = requests[position]
                answers[position] = data[offset - run.offset : offset - run.offset + length]
        return answers

    def prefetch(self, requests: Sequence[Request]) -> None:
        """Asks the kernel to read ahead what will be wanted soon.

        Promises nothing: whatever is wrong with a segment shows when it is read.
        """
        for run in join(requests, gap=GAP_BYTES, most=RUN_BYTES_MAX):
            with suppress(RepoError, OSError), self._file(run.segment_id) as fd:
                os.posix_fadvise(fd, run.offset, run.length, os.POSIX_FADV_WILLNEED)

    def size(self, segment_id: SegmentId) -> int:
        """The present length of a segment's file in bytes; that of an open one may grow."""
        path = self._folder.segment_path(segment_id)
        with self._file(segment_id) as fd, repository_io("cannot read a segment", path):
            return os.fstat(fd).st_size

    def is_named(self, segment_id: SegmentId) -> bool:
        """Whether a segment lies under one of its names, open or closed, and is not set aside."""
        return any(
            os.path.lexists(self._folder.segment_path(segment_id, open=is_open))
            for is_open in (False, True, False)
        )

    def sync(self, segment_id: SegmentId) -> None:
        """Makes durable what somebody else has appended to an open segment so far.

        Raises Damaged when it is not there, RepositoryFailed.
        """
        path = self._folder.segment_path(segment_id)
        with self._file(segment_id) as fd, repository_io("cannot make a segment durable", path):
            os.fdatasync(fd)

    def forget(self, segment_id: SegmentId) -> None:
        """Closes the segment's file if it is open, as soon as nobody reads from it."""
        with self._lock:
            file = self._files.pop(segment_id, None)
            if file is not None:
                self._drop(file)

    def close(self) -> None:
        """Closes all files, each as soon as nobody reads from it. The fetcher stays usable."""
        with self._lock:
            while self._files:
                self._drop(self._files.popitem()[1])

    @contextmanager
    def _file(self, segment_id: SegmentId) -> Iterator[int]:
        """The descriptor of a segment, open at least as long as the block runs."""
        with self._lock:
            file = self._files.get(segment_id)
            if file is not None:
                self._files.move_to_end(segment_id)
                file.readers += 1
        if file is None:
            file = self._adopt(segment_id, self._open(segment_id))
        try:
            yield file.fd
        finally:
            with self._lock:
                file.readers -= 1
                if not file.cached and not file.readers:
                    os.close(file.fd)

    def _adopt(self, segment_id: SegmentId, fd: int) -> _File:
        """Takes a new descriptor into the cache, or the one another thread opened meanwhile."""
        with self._lock:
            file = self._files.get(segment_id)
            if file is not None:
                os.close(fd)
            else:
                file = self._files[segment_id] = _File(fd)
                while len(self._files) > self._descriptors_max:
                    self._drop(self._files.popitem(last=False)[1])
            file.readers += 1
            return file

    @staticmethod
    def _drop(file: _File) -> None:
        file.cached = False
        if not file.readers:
            os.close(file.fd)

    def _open(self, segment_id: SegmentId) -> int:
        sealed = self._folder.segment_path(segment_id)
        # The second look at the sealed name is for a segment closed between the first two.
        # The last two are for places in a segment that was set aside since they were looked up.
        aside = [
            self._folder.path / path(segment_id) for path in (damaged_segment_path, removed_path)
        ]
        for path in (sealed, self._folder.segment_path(segment_id, open=True), sealed, *aside):
            try:
                return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise repository_failed("cannot open a segment", path, error) from error
        raise Damaged(
            "segment is missing",
            where=str(sealed),
            next_step="repo verify; if the segment was removed by hand, repo rebuild-index",
        )
