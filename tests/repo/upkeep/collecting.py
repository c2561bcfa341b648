"""A repository that garbage is collected in: small segments, versions of a tree, what they hold."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ingest.session import IngestRequest, ingest
from repo import keyfile
from repo.format.manifest import Point
from repo.keys import KeyFile
from repo.repository import Repository
from repo.types import PointId
from repo.upkeep import forget
from repo.upkeep.verify import verify
from tests.crash.scenes import SMALL
from tests.support import readback

Held = dict[bytes, readback.Content]


@contextmanager
def opened(folder: Path) -> Iterator[Repository]:
    """The repository below a folder, made when it is not there; its index lies beside it."""
    key = KeyFile(folder / "key")
    options = {"index_dir": folder / "indexes"}
    if key.path.exists():
        with Repository.open(folder / "repository", key, **options) as repository:  # type: ignore[arg-type]
            yield repository
        return
    folder.mkdir(parents=True, exist_ok=True)
    keyfile.create(key.path)
    with Repository.create(folder / "repository", key, header=SMALL, **options) as repository:  # type: ignore[arg-type]
        yield repository


def plant(source: Path, version: int) -> None:
    """A version of a tree: some files change with each, some stay, some go."""
    for number in range(12):
        folder = source / f"folder {number % 4}"
        folder.mkdir(parents=True, exist_ok=True)
        seed = number if number % 3 else 1000 * version + number
        (folder / f"file {number}").write_bytes(random.Random(seed).randbytes(700 * number))
    (source / "folder 1" / "large").write_bytes(random.Random(version).randbytes(40_000))
    shutil.rmtree(source / f"of version {version - 1}", ignore_errors=True)
    (source / f"of version {version}").mkdir(exist_ok=True)
    (source / f"of version {version}" / "text").write_text(f"{version} " * 500)


def save(repository: Repository, source: Path, version: int) -> Point:
    """Make the next version of the source, and a point of it."""
    plant(source, version)
    request = IngestRequest(paths=[str(source)], streams=1)
    (point,) = ingest(repository, request).points
    return point


def versions(repository: Repository, source: Path, count: int) -> list[Point]:
    """Points of so many versions."""
    return [save(repository, source, version) for version in range(1, count + 1)]


def gone(repository: Repository, points: list[Point]) -> None:
    """Forget points."""
    assert forget.forget(repository, points) == [PointId(point.id) for point in points]


def stored_bytes(repository: Repository) -> int:
    """What all segment files take."""
    top = repository.path / "segments"
    return sum(path.stat().st_size for path in top.rglob("*") if path.is_file())


def check(repository: Repository, held: Held) -> None:
    """These points are there and hold what they held; nothing is damaged; a new index agrees."""
    assert readback.whole(repository) == held
    assert verify(repository, level="data").damages == []
    repository.rebuild_index()
    assert readback.whole(repository) == held
