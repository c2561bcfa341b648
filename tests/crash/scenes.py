"""Scenes: repositories in certain states, and the commands that things happen to there."""

from __future__ import annotations

import random
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ingest.session import IngestRequest, ingest
from repo import keyfile
from repo.format.header import Header
from repo.keys import KeyFile
from repo.repository import Repository
from repo.types import KIB, RepositoryId
from tests.crash import eager
from tests.support import command, readback, tracer
from tests.support.template import copy
from tests.support.tracer import Call, Traced

SMALL = Header(
    repository_id=RepositoryId(bytes(range(16))),
    created_ns=1_600_000_000_000_000_000,
    chunk_minimum=256,
    chunk_average=1024,
    chunk_maximum=4096,
    frame_bytes=4096,
    data_segment_bytes=64 * KIB,
    meta_segment_bytes=64 * KIB,
)
"""A repository in which a small job has several frames and segments of each class."""


def small_repository(folder: Path, number: int = 0) -> command.Repository:
    """An empty one of that kind below a folder. number: gives it an id of its own."""
    made = command.Repository(folder)
    made.home.mkdir(parents=True)
    keyfile.create(made.key_file)
    header = replace(SMALL, repository_id=RepositoryId(bytes(range(number, number + 16))))
    Repository.create(made.path, KeyFile(made.key_file), header=header).close()
    return made


def plant(source: Path, seed: int) -> None:
    """A small tree; each seed has another file that no other has, and shares the rest."""
    for number in range(4):
        folder = source / f"folder {number}"
        folder.mkdir(parents=True, exist_ok=True)
        content = random.Random(number).randbytes(3000 * number)
        (folder / "same").write_bytes(content)
    (source / "folder 1" / "new").write_bytes(random.Random(100 + seed).randbytes(90_000))
    (source / "folder 2" / f"only in {seed}").write_bytes(b"%d" % seed)


class Scene(NamedTuple):
    """A repository that is copied for each try, and the command that is tried on the copy.

    `source` is what a later ingest must save wholly; `kept` what the points hold that are there.
    """

    original: command.Repository
    words: Callable[[command.Repository], list[str]]
    source: Path
    kept: list[readback.Content]

    def fresh(self, folder: Path) -> command.Repository:
        """A copy below a folder, which is made anew."""
        shutil.rmtree(folder, ignore_errors=True)
        return copy(self.original, folder)

    def traced(
        self, made: command.Repository, decide: tracer.Decide = lambda _call: None
    ) -> Traced:
        """The command of this scene on a copy, under a tracer."""
        words = self.words(made)
        return tracer.run(words, env=made.env, folder=made.home, under=[made.path], decide=decide)


def first_ingest(template: command.Repository, folder: Path) -> Scene:
    """The first ingest into a new repository, which also makes the index."""
    plant(folder / "source", 1)
    original = copy(template, folder / "original")
    return Scene(original, _ingest(folder / "source"), folder / "source", [])


def later_ingest(template: command.Repository, folder: Path) -> Scene:
    """An ingest into a repository that has a point already."""
    original, kept = _with_a_point(template, folder)
    return Scene(original, _ingest(folder / "source"), folder / "source", [kept])


def many_checkpoints(_template: command.Repository, folder: Path) -> Scene:
    """An ingest with a checkpoint after each frame, and segments that are full all the time."""
    original = small_repository(folder / "original")
    plant(folder / "source", 1)
    kept = _saved(original, folder / "source")
    plant(folder / "source", 2)

    def words(_made: command.Repository) -> list[str]:
        return [sys.executable, eager.__file__, "ingest", str(folder / "source")]

    return Scene(original, words, folder / "source", [kept])


def after_a_kill(template: command.Repository, folder: Path) -> Scene:
    """An ingest into a repository in which another one was killed: it recovers its segments."""
    original, kept = _with_a_point(template, folder)

    def frames_are_written(call: Call) -> object:
        written = call.name.startswith("pwritev") and "/segments/" in call.path
        sizes.append(written)
        return tracer.KILL if sum(sizes) == 2 else None

    sizes: list[bool] = []
    scene = Scene(original, _ingest(folder / "source"), folder / "source", [kept])
    assert scene.traced(original, frames_are_written).status < 0
    with readback.opened(original) as repository:
        assert [is_open for _, is_open in repository.folder.segments() if is_open]
    return scene


def rebuilding(template: command.Repository, folder: Path) -> Scene:
    """A rebuild of an index that is there."""
    original, kept = _with_a_point(template, folder)

    def words(_made: command.Repository) -> list[str]:
        return command.words("rebuild-index")

    return Scene(original, words, folder / "source", [kept])


Make = Callable[[command.Repository, Path], Scene]
SCENES: tuple[Make, ...] = (first_ingest, later_ingest, many_checkpoints, after_a_kill, rebuilding)


def _ingest(source: Path) -> Callable[[command.Repository], list[str]]:
    return lambda _made: command.words("ingest", source)


def _with_a_point(
    template: command.Repository, folder: Path
) -> tuple[command.Repository, readback.Content]:
    original = copy(template, folder / "original")
    plant(folder / "source", 1)
    kept = _saved(original, folder / "source")
    plant(folder / "source", 2)
    return original, kept


def _saved(made: command.Repository, source: Path) -> readback.Content:
    with readback.opened(made) as repository:
        (point,) = ingest(repository, IngestRequest(paths=[str(source)])).points
        return readback.content(repository, point)


@contextmanager
def told(what: str, result: Traced) -> Iterator[None]:
    """Tell with a failed assertion what had happened to which call."""
    try:
        yield
    except BaseException as error:
        last = "\n".join(map(str, result.calls[-3:]))
        error.add_note(f"{what}; it ended with {result.status}\n{result.err}\n{last}")
        raise


def sample(calls: list[Call], count: int) -> list[Call]:
    """So many calls spread over all of them, the first and the last included; all when 0."""
    if not 1 < count < len(calls):
        return calls
    step = (len(calls) - 1) / (count - 1)
    return [calls[round(place * step)] for place in range(count)]


def at(call: Call, answer: object) -> tracer.Decide:
    """A decision that gives an answer to the call of that number, and lets all others pass."""
    return lambda each: answer if each.number == call.number else None
