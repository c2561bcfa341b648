"""`repo stats`: what the repository holds, and what deduplication and compression save."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import click

from repo.types import SegmentClass
from tools.cli import human
from tools.cli.group import RepoCommand
from tools.cli.invocation import Invocation, pass_invocation
from tools.cli.output import Column

if TYPE_CHECKING:
    from repo.format.manifest import Point
    from repo.repository import Repository

COLUMNS = (
    Column("source", style="cyan", folds=True),
    Column("points", right=True),
    Column("first"),
    Column("last"),
    Column("last size", right=True),
    Column("as copies", right=True),
    Column("new", right=True),
)


@dataclass
class Held:
    """What the segment files hold. Sizes are bytes on disk, footers included."""

    segments: int = 0
    segments_open: int = 0
    bytes_by_class: dict[SegmentClass, int] = field(default_factory=dict)
    chunks: int = 0
    bytes_index: int = 0

    @property
    def bytes_stored(self) -> int:
        """Bytes of all segments."""
        return sum(self.bytes_by_class.values())


@dataclass
class SourceSums:
    """The points of one source, summed up."""

    points: int = 0
    first_ns: int = 0
    last_ns: int = 0
    bytes_last: int = 0
    bytes_as_copies: int = 0
    bytes_new: int = 0


@click.command(cls=RepoCommand)
@click.option(
    "--chunks", is_flag=True, help="Sum up the chunks as well; this reads the whole index."
)
@pass_invocation
def stats(run: Invocation, chunks: bool) -> None:
    """Show what the repository holds and saves.

    "As copies" is what the points would take as plain copies of their sources, "new" what a
    source brought in that was not there before.
    """
    with run.open() as repository:
        points = repository.points(on_damage=lambda damage: run.notice(str(damage)))
        held = measure(repository)
        bytes_chunks = _bytes_of_chunks(repository) if chunks else None
    sums = sum_up(points)
    if run.console.json:
        run.console.emit(_as_json(points, held, sums, bytes_chunks))
        return
    run.console.fields(_fields(points, held, bytes_chunks))
    if sums:
        run.console.result("")
        run.console.table(COLUMNS, [_row(source, total) for source, total in sums.items()])


def measure(repository: Repository) -> Held:
    """Size up the segments and the index."""
    places = repository.places
    held = Held(chunks=places.count(), bytes_index=places.size_bytes())
    for row in places.segments():
        kind = SegmentClass(row.segment_class)
        size = repository.fetcher.size(row.segment_id)
        held.segments += 1
        held.segments_open += not row.closed
        held.bytes_by_class[kind] = held.bytes_by_class.get(kind, 0) + size
    return held


def sum_up(points: Iterable[Point]) -> dict[str, SourceSums]:
    """Sums by source; the points come oldest first."""
    sums: dict[str, SourceSums] = {}
    for point in points:
        total = sums.setdefault(point.source_id, SourceSums(first_ns=point.received_ns))
        total.points += 1
        total.last_ns = point.received_ns
        total.bytes_last = point.statistics.bytes_source
        total.bytes_as_copies += point.statistics.bytes_source
        total.bytes_new += point.statistics.bytes_new
    return sums


def _bytes_of_chunks(repository: Repository) -> int:
    return sum(place.length for _, place in repository.places.rows())


def _fields(points: list[Point], held: Held, bytes_chunks: int | None) -> Iterator[tuple[str, str]]:
    as_copies = sum(point.statistics.bytes_source for point in points)
    segments = human.plural(held.segments, "segment")
    if held.segments_open:
        segments += f", {held.segments_open} of them being written"
    yield "Points", human.count(len(points))
    yield "As copies", human.size(as_copies)
    yield "Stored", f"{human.size(held.bytes_stored)} in {segments}{_times(as_copies, held)}"
    for kind, size in sorted(held.bytes_by_class.items()):
        yield f"  {kind.name.lower()}", human.size(size)
    chunks = human.count(held.chunks)
    if bytes_chunks is not None:
        mean = human.size(bytes_chunks / held.chunks) if held.chunks else "-"
        chunks += f", {human.size(bytes_chunks)} before compression, {mean} on average"
    yield "Chunks", chunks
    # Of few chunks the file's own pages would be what is divided.
    many = held.chunks >= 10_000
    each = f", {held.bytes_index / held.chunks:.0f} B a chunk" if many else ""
    yield "Index", human.size(held.bytes_index) + each


def _times(as_copies: int, held: Held) -> str:
    if not held.bytes_stored or as_copies <= held.bytes_stored:
        return ""
    return f": {as_copies / held.bytes_stored:.1f} times less"


def _row(source: str, total: SourceSums) -> tuple[str, ...]:
    return (
        human.printable(source),
        human.count(total.points),
        human.local_time(total.first_ns),
        human.local_time(total.last_ns),
        human.size(total.bytes_last),
        human.size(total.bytes_as_copies),
        human.size(total.bytes_new),
    )


def _as_json(
    points: list[Point], held: Held, sums: dict[str, SourceSums], bytes_chunks: int | None
) -> dict[str, object]:
    return {
        "event": "summary",
        "points": len(points),
        "bytes_as_copies": sum(point.statistics.bytes_source for point in points),
        "bytes_stored": held.bytes_stored,
        "bytes_by_class": {k.name.lower(): size for k, size in held.bytes_by_class.items()},
        "segments": held.segments,
        "segments_open": held.segments_open,
        "chunks": held.chunks,
        "bytes_chunks": bytes_chunks,
        "bytes_index": held.bytes_index,
        "sources": [
            {
                "source": source,
                "points": total.points,
                "first": human.utc_time(total.first_ns),
                "last": human.utc_time(total.last_ns),
                "bytes_last": total.bytes_last,
                "bytes_as_copies": total.bytes_as_copies,
                "bytes_new": total.bytes_new,
            }
            for source, total in sums.items()
        ],
    }
