"""Health: what must hold of a repository after anything whatsoever, and how it is looked at."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

from ingest.session import IngestRequest, ingest
from repo.format import layout
from repo.repository import Repository
from repo.storage.folder import Folder
from tests.support import command, readback


def leftovers(path: Path) -> list[str]:
    """What a finished command leaves behind in a repository's folder only when it was killed."""
    found = []
    for file in path.rglob("*"):
        name = file.relative_to(path).as_posix()
        top, _, rest = name.partition("/")
        if name in {layout.GC_LOCK, layout.REMOVALS, layout.RESERVE}:
            continue
        if top in ("header", "keys", "points", "segments", "index", "leases") and not (
            file.name.startswith(".") or file.suffix == ".open" or (top == "leases" and rest)
        ):
            continue
        found.append(name)
    return sorted(found)


def recovers(
    made: command.Repository,
    source: Path,
    *,
    kept: Collection[readback.Content] = (),
) -> None:
    """A repository that something happened to is healthy, and the next ingest is complete.

    `kept` are contents that its first points must have, as they had them before. Those that it
    lists besides must be like the source, or not be listed (I2). All can be read (I1), also by
    an index that is made anew (I3), before and after the next ingest.
    """
    with readback.opened(made) as repository:
        held = [readback.content(repository, point) for point in repository.points()]
        assert held[: len(kept)] == list(kept)
        for point in repository.points()[len(kept) :]:
            assert readback.differences(repository, point, source) == []
    _index_made_anew(made, held)
    with readback.opened(made) as repository:
        summary = ingest(repository, IngestRequest(paths=[str(source)], streams=1))
        assert (summary.problems, len(summary.points)) == (0, 1)
        (point,) = summary.points
        assert readback.differences(repository, point, source) == []
        held.append(readback.content(repository, point))
        assert [readback.content(repository, each) for each in repository.points()] == held
    assert leftovers(made.path) == []
    _index_made_anew(made, held)


def _index_made_anew(made: command.Repository, held: list[readback.Content]) -> None:
    """Throw the index of a copy away: what it is rebuilt from must hold the same."""
    with readback.opened(made) as repository:
        repository.rebuild_index()
        assert [readback.content(repository, each) for each in repository.points()] == held


def stored_bytes(repository: Repository) -> int:
    """What the segments of a repository take."""
    folder: Folder = repository.folder
    return sum(
        folder.segment_path(segment_id, is_open).stat().st_size
        for segment_id, is_open in folder.segments()
    )


def remove_index(made: command.Repository) -> None:
    """Delete the index, wherever the command keeps it."""
    with readback.opened(made) as repository:
        path = repository.index_path
    shutil.rmtree(path)
