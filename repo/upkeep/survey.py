"""A survey: what one segment says it holds, from its header and footer, before frames are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Final, NamedTuple

from repo.errors import Damaged, RepoError, RepositoryFailed
from repo.format import limits
from repo.format.frame import TABLE_ROW
from repo.format.segment import HEADER_BYTES, FooterFrame, SegmentHeader
from repo.index.places import SegmentRow
from repo.keys import ContainerKey, Keys
from repo.scanner import footer_frames, read_footer, read_header, reader_of
from repo.storage.fetcher import Fetcher
from repo.types import SegmentId
from repo.upkeep.damage import DISK, Findings

SEALED_BYTES_MAX: Final = 2 * limits.FRAME_PLAIN_MAX
"""What a frame may take on disk at most."""


class Survey(NamedTuple):
    """A segment with a good header. `frames`: by offset, each within `content_bytes`.

    listed: whether they come from the footer (else from the index, without chunks).
    checksums: of its blocks, () without a footer.
    """

    segment_id: SegmentId
    header: SegmentHeader
    key: ContainerKey
    frames: Sequence[FooterFrame]
    content_bytes: int
    checksums: Sequence[int]
    listed: bool


class Surveyor:
    """Surveys segments; what is wrong with them goes to the findings."""

    def __init__(
        self,
        fetcher: Fetcher,
        keys: Keys,
        findings: Findings,
        row_of: Callable[[SegmentId], SegmentRow | None],
        still_there: Callable[[], object],
    ) -> None:
        """row_of: the segment in the index. still_there: raises when the repository is not."""
        self._fetcher = fetcher
        self._keys = keys
        self._findings = findings
        self._row_of = row_of
        self._still_there = still_there

    def closed(self, segment_id: SegmentId) -> Survey | None:
        """Survey a closed segment; None when nothing of it can be read."""
        opened = self._open(segment_id)
        if opened is None:
            return None
        header, header_bytes, key, size = opened
        read, _ = reader_of(self._fetcher, segment_id)
        where = f"segment {segment_id.hex()}"
        try:
            footer = read_footer(read, size, header_bytes, where=where)
            frames = footer_frames(self._keys, segment_id, footer, where=where)
            content_bytes = footer.trailer.content_bytes
            _check_tiling(frames, content_bytes)
        except RepositoryFailed as failure:
            self.failed(failure)
            self._findings.footer(segment_id, failure.what, next_step=DISK)
        except Damaged as damage:
            self._findings.footer(segment_id, damage.what)
        else:
            return Survey(segment_id, header, key, frames, content_bytes, footer.checksums, True)
        return self._by_index(segment_id, header, key, size)

    def open(self, segment_id: SegmentId) -> Survey | None:
        """Survey an open segment as far as the index knows it, which is what is durable of it."""
        if self._row_of(segment_id) is None:
            return None
        opened = self._open(segment_id)
        if opened is None:
            return None
        header, _, key, size = opened
        return self._by_index(segment_id, header, key, size)

    def failed(self, failure: RepoError) -> None:
        """After a failed read: raise when it is not one segment that fails but all of it."""
        if isinstance(failure, RepositoryFailed):
            self._still_there()

    def _open(self, segment_id: SegmentId) -> tuple[SegmentHeader, bytes, ContainerKey, int] | None:
        try:
            read, size = reader_of(self._fetcher, segment_id)
            header, header_bytes = read_header(read, segment_id)
            key = self._keys.container(header.salt, "segment", segment_id)
            key.check_commitment(header.commitment)
        except RepositoryFailed as failure:
            self.failed(failure)
            self._findings.segment(segment_id, failure.what, next_step=DISK)
        except Damaged as damage:
            self._findings.segment(segment_id, damage.what)
        else:
            return header, header_bytes, key, size
        return None

    def _by_index(
        self, segment_id: SegmentId, header: SegmentHeader, key: ContainerKey, size: int
    ) -> Survey:
        """The frames that the index lists. Those that the file is too short for are damage."""
        row = self._row_of(segment_id)
        frames: list[FooterFrame] = []
        lost: list[int] = []
        for number, (offset, sealed, plain) in enumerate(
            TABLE_ROW.iter_unpack(row.frames) if row else ()
        ):
            if sealed and (sealed > SEALED_BYTES_MAX or offset + sealed > size):
                lost.append(number)
            elif sealed:
                frames.append(FooterFrame(number, offset, sealed, plain, b""))
        if lost:
            self._findings.cut(segment_id, lost, size)
        frames.sort(key=attrgetter("offset"))
        end = frames[-1].offset + frames[-1].sealed_bytes if frames else 0
        return Survey(segment_id, header, key, frames, end, (), False)


def _check_tiling(frames: list[FooterFrame], content_bytes: int) -> None:
    """Sort frames by offset. Damaged unless they fill the content, each with its own number."""
    frames.sort(key=attrgetter("offset"))
    end = HEADER_BYTES
    for frame in frames:
        if frame.offset != end or frame.sealed_bytes > SEALED_BYTES_MAX:
            raise Damaged("a footer's frames do not fill the segment")
        end += frame.sealed_bytes
    if end != content_bytes or len({frame.number for frame in frames}) != len(frames):
        raise Damaged("a footer's frames do not fill the segment")
