"""A small origin with damage-prone content, and targets to copy it to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from repo import keyfile
from repo.keys import KeyFile
from repo.repository import Repository
from repo.types import RepositoryId
from tests.damage import small
from tests.damage.small import Contents


@contextmanager
def target_in(home: Path) -> Iterator[Repository]:
    """A target below a folder: made when it is not there, else opened."""
    key_file = home / "key"
    if not key_file.exists():
        home.mkdir(parents=True)
        keyfile.create(key_file)
        header = replace(small.HEADER, repository_id=RepositoryId(bytes(range(16, 32))))
        path = home / "repository"
        Repository.create(path, KeyFile(key_file), header=header, index_dir=home / "i").close()
    key = KeyFile(key_file)
    with Repository.open(home / "repository", key, index_dir=home / "i") as repository:
        yield repository


def by_origin(target: Repository) -> Contents:
    """What can be read of a target, by the ids that its points had in the origin."""
    contents = small.read_back(target)
    return {
        point.origin.point.hex(): contents[point.id.hex()]
        for point in target.points()
        if point.origin.point
    }


def break_at(path: Path, offset: int) -> None:
    """Turn over a bit of a file."""
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    data[offset] ^= 16
    path.write_bytes(data)
