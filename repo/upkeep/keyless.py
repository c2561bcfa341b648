"""A keyless check: everything that checksums tell about a repository without its key.

Headers, key slots, points and footers carry checksums of their own, and a footer those of each
64 KiB block of its segment: whoever holds a copy can check it, and learns nothing.
"""

from __future__ import annotations

import os
import time
from functools import partial

from repo.errors import Damaged, RepoError, RepositoryFailed
from repo.format.manifest import PointFile
from repo.format.segment import BLOCK_BYTES
from repo.scanner import read_footer, read_header, reader_of
from repo.storage.fetcher import Fetcher
from repo.storage.folder import Folder
from repo.types import PointId, RepositoryId, SegmentId
from repo.upkeep.damage import COPY, DISK, Findings
from repo.upkeep.report import (
    OnNotice,
    OnProgress,
    VerifyProgress,
    VerifyReport,
    no_notice,
    no_progress,
)
from repo.upkeep.smallfiles import SmallFiles
from repo.upkeep.stretch import Checked, Pool, Stretch, check_blocks, stretches


def verify_keyless(
    path: str | os.PathLike[str],
    *,
    streams: int = 0,
    on_progress: OnProgress = no_progress,
    on_notice: OnNotice = no_notice,
) -> VerifyReport:
    """Check a repository by its checksums alone. `streams`: threads, 0 for one per processor.

    Segments that are still open have no checksums yet: they are passed over, with a notice.
    Raises NotARepository, or RepositoryFailed when the folder as a whole cannot be read.
    """
    check = _Keyless(Folder.open(path), streams, on_progress)
    started = time.monotonic()
    points = check.files()
    closed, opened = check.segments()
    if opened:
        on_notice(f"{opened} open segments are passed over: no job has closed them yet")
    return VerifyReport(
        level="keyless",
        damages=check.findings.damages,
        segments=closed,
        open_segments=opened,
        frames=0,
        chunks=0,
        points=points,
        bytes_read=check.bytes_read,
        seconds=time.monotonic() - started,
    )


class _Keyless:
    """One check of one folder."""

    def __init__(self, folder: Folder, streams: int, on_progress: OnProgress) -> None:
        self.findings = Findings()
        self.bytes_read = 0
        self._folder = folder
        self._files = SmallFiles(folder, self.findings)
        self._fetcher = Fetcher(folder)
        self._streams = streams or len(os.sched_getaffinity(0))
        self._on_progress = on_progress
        self._repository_id: RepositoryId | None = None

    def files(self) -> int:
        """Check header, key slots and points; how many points there are."""
        header = self._files.header()
        self._repository_id = None if header is None else header.repository_id
        self._files.key_slots()
        count = 0
        for point_id in self._folder.points():
            self._files.point(point_id, self._point)
            count += 1
        for point_id in self._folder.points(unfinished=True):
            self._files.checkpoint(point_id, partial(self._point, unfinished=True))
        return count

    def _point(self, point_id: PointId, *, unfinished: bool = False) -> None:
        data = self._folder.read_point(point_id, unfinished=unfinished)
        file = PointFile.parse(data, where="")
        if file.point_id != point_id:
            raise Damaged("a point lies under another's name")
        self._check_owner(file.repository_id, "a point")

    def _check_owner(self, repository_id: RepositoryId, what: str) -> None:
        if self._repository_id not in {None, repository_id}:
            raise Damaged(f"{what} belongs to another repository")

    def segments(self) -> tuple[int, int]:
        """Check every closed segment, block by block; how many are closed and how many open."""
        listing = list(self._folder.segments())
        closed = [segment_id for segment_id, is_open in listing if not is_open]
        with Pool(self._streams) as pool:
            for done, segment_id in enumerate(closed):
                self._report(done, len(closed))
                self._segment(segment_id, pool)
            pool.drain()
        self._fetcher.close()
        self._report(len(closed), len(closed))
        return len(closed), len(listing) - len(closed)

    def _segment(self, segment_id: SegmentId, pool: Pool) -> None:
        where = f"segment {segment_id.hex()}"
        try:
            read, size = reader_of(self._fetcher, segment_id)
            header, header_bytes = read_header(read, segment_id)
            self._check_owner(header.repository_id, "a segment")
        except (Damaged, RepositoryFailed) as error:
            if not self._folder.segment_path(segment_id).exists():
                return  # garbage collection took it meanwhile
            self._failed(error)
            self.findings.segment(segment_id, error.what, next_step=_next_step(error))
            return
        try:
            footer = read_footer(read, size, header_bytes, where=where)
        except (Damaged, RepositoryFailed) as error:
            self._failed(error)
            self.findings.footer(segment_id, error.what, next_step=_next_step(error))
            return
        content_bytes = footer.trailer.content_bytes
        for stretch in stretches(segment_id, content_bytes, footer.checksums, ()):
            work = partial(check_blocks, self._fetcher, stretch)
            pool.submit(work, partial(self._take, stretch))

    def _take(self, stretch: Stretch, checked: Checked) -> None:
        self.bytes_read += checked.bytes_read
        what, next_step = f"{BLOCK_BYTES // 1024} KiB do not match their checksum", COPY
        if checked.failure is not None:
            self._failed(checked.failure)
            what, next_step = checked.failure.what, _next_step(checked.failure)
        for offset in checked.bad_blocks:
            self.findings.block(stretch.segment_id, offset, what, next_step=next_step)

    def _failed(self, error: RepoError) -> None:
        if isinstance(error, RepositoryFailed):
            self._files.still_there()

    def _report(self, done: int, of: int) -> None:
        self._on_progress(
            VerifyProgress(
                doing="checking segments",
                items=done,
                items_expected=of,
                bytes_read=self.bytes_read,
                bytes_expected=None,
                damages=len(self.findings.damages),
            )
        )


def _next_step(error: RepoError) -> str:
    return DISK if isinstance(error, RepositoryFailed) else COPY
