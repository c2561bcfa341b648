"""A request: what a user asks of `repo ingest`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from repo.writer import COMMIT_SECONDS

LEVELS_AUTO: Final = (1, 3)
"""zstd levels of `--compression auto`: the first while the processor is what we wait for."""


@dataclass(frozen=True, kw_only=True)
class IngestRequest:
    """What a user asks for. `paths` are the sources; `levels` the zstd levels (() for raw).

    `base`: `auto` (the newest point of the source), `none` (read everything), or a point.
    `checkpoint_seconds`: what is read becomes durable so often.
    `source_ids`, `point_ids` and `lineages` are one for each path, or none at all: what the sources
    are called ("" for HOST:PATH), the ids of their points, and what the provider said of a
    snapshot when it was queued. `hooks`: the folder of the user's hooks.
    `take`: make a snapshot of what is live; `pin`: make a clone of a snapshot that others made;
    `keep_snapshot`: leave the last one in place, so that the next run reads only what changed
    inside of large files. `together`: the snapshots of all sources are made at once, or none.
    """

    paths: Sequence[str]
    source_ids: Sequence[str] = ()
    point_ids: Sequence[bytes] = ()
    lineages: Sequence[Mapping[str, str]] = ()
    exclude: Sequence[str] = ()
    exclude_from: Sequence[str] = ()
    exclude_caches: bool = False
    one_file_system: bool = False
    skip_bad_blocks: bool = False
    tags: Sequence[str] = ()
    streams: int = 0
    levels: tuple[int, ...] = LEVELS_AUTO
    base: str = "auto"
    take: bool = True
    pin: bool = True
    keep_snapshot: bool = True
    together: bool = False
    dry_run: bool = False
    hooks: str = ""
    made_by: str = "repo"
    checkpoint_seconds: float = COMMIT_SECONDS
