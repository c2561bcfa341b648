"""The table of operations (repo/README.md): each beside each, one of them stopped in the middle."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from ingest.session import IngestRequest, ingest
from repo.upkeep.verify import verify
from tests.crash import scenes, tight
from tests.repo.upkeep import collecting
from tests.support import command, readback, tracer
from tests.support.template import copy
from tests.support.tracer import Call


class Operation(NamedTuple):
    """A command, and the call at which it is stopped: never inside a transaction of the index.

    script: what runs it instead of `repo`; small: with steps so small that there are many.
    """

    words: tuple[str, ...]
    stops: Callable[[Call], bool]
    script: str = ""


def _lease(call: Call) -> bool:
    """It has just begun to rely on what is there."""
    return call.name == "unlink" and "/leases/" in call.path


def _appends(call: Call) -> bool:
    return call.name.startswith("pwritev") and "/segments/" in call.path


def _removes(call: Call) -> bool:
    return call.name == "unlink" and call.path.endswith(".removed")


def _renames_a_point(call: Call) -> bool:
    return call.name == "rename" and "/points/" in call.path


def _sets_a_segment_aside(call: Call) -> bool:
    return call.name == "rename" and "/segments/" in call.path and not call.path.endswith(".open")


def _builds(call: Call) -> bool:
    return ".new-" in call.path and "/index" in call.path and call.name == "fdatasync"


def _adds_a_slot(call: Call) -> bool:
    return call.name == "link" and "/keys/" in call.path


OPERATIONS: Final = {
    "ingest": Operation(("ingest", "SOURCE", "--streams", "1"), _appends),
    "synth": Operation(("synth", "latest"), _lease),
    "relayout": Operation(("synth", "latest", "--relayout"), _appends, tight.__file__),
    "restore": Operation(("restore", "latest", "--to", "NEW"), _lease),
    "diff": Operation(("diff", "FIRST", "LAST"), _lease),
    "verify": Operation(("verify", "--data"), _lease),
    "rebuild-index": Operation(("rebuild-index",), _builds),
    "forget": Operation(("forget", "--keep-last", "2", "--yes"), _renames_a_point),
    "gc": Operation(("gc",), _removes),
    "repair": Operation(("repair",), _appends),
    "repair's end": Operation(("repair",), _sets_a_segment_aside),
    "copy from": Operation(("copy", "--to", "OTHER", "--to-key-file", "OTHER KEY"), _appends),
    "copy to": Operation(
        ("-r", "OTHER", "copy", "--key-file", "OTHER KEY", "--to", "THIS", "--to-key-file", "KEY"),
        _appends,
    ),
    "key add": Operation(("key", "add", "--new-key-file", "NEW"), _adds_a_slot),
}
"""On one repository. The other one, for copies, has points of its own of nearly the same.

What is beside a repair has a segment with a damaged footer: all of it moves, and nothing is lost.
"""

FINE: Final = {0, 1, 75}
"""1: an index was rebuilt under the other; 75: a second collection. Never a wrong result."""

TELLS_OF_DAMAGE: Final = {"verify", "rebuild-index", "gc"}
"""These end with 4 where there is any."""

DANGEROUS: Final = {
    ("copy to", "copy to"),
    ("copy from", "copy from"),
    ("copy to", "rebuild-index"),
    ("copy to", "forget"),
    ("relayout", "relayout"),
    ("relayout", "rebuild-index"),
    ("relayout", "repair"),
    ("repair", "relayout"),
    ("repair", "repair"),
    ("repair", "repair's end"),
    ("ingest", "repair"),
    ("copy from", "repair's end"),
}
"""Second and first; these are tried by default, and all with `repo gc`."""

PAIRS: Final = [
    pytest.param(
        *pair,
        marks=() if "gc" in pair or pair in DANGEROUS else pytest.mark.deep,
        id=f"{pair[0]} while {pair[1]}",
    )
    for pair in itertools.product(OPERATIONS, OPERATIONS)
]


class Scene(NamedTuple):
    """Two repositories with forgotten points to collect, and the source of the last ones.

    held: what their points hold. first, last: points that every rule keeps.
    """

    original: command.Repository
    other: command.Repository
    source: Path
    held: dict[bytes, readback.Content]
    first: str
    last: str


@pytest.fixture(scope="module")
def scene(template: command.Repository, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    folder = tmp_path_factory.mktemp("scene")
    made = scenes.many_checkpoints(template, folder / "made").original
    other = scenes.small_repository(folder / "other", 1)
    with readback.opened(other) as repository:
        collecting.versions(repository, folder / "others", 3)
    with readback.opened(made) as repository:
        collecting.versions(repository, folder / "source", 4)
    # Each has content that the other one's points are to bring back to life.
    held: dict[bytes, readback.Content] = {}
    for each in (made, other):
        with readback.opened(each) as repository:
            collecting.gone(repository, repository.points()[:2])
            held |= readback.whole(repository)
    with readback.opened(made) as repository:
        *_, first, last = repository.points()
    return Scene(made, other, folder / "source", held, first.id.hex(), last.id.hex())


class Try:
    """One try: copies of all, and what is run on them."""

    def __init__(self, scene: Scene, folder: Path) -> None:
        self.scene = scene
        self.folder = folder
        self.made = copy(scene.original, folder / "made")
        self.other = copy(scene.other, folder / "other")
        self.source = folder / "source"
        shutil.copytree(scene.source, self.source)
        collecting.plant(self.source, 9)

    def hurt(self) -> None:
        """Damage a footer."""
        segment = max(self.made.path.glob("segments/*/*"), key=lambda path: path.stat().st_size)
        with open(segment, "r+b") as file:
            file.seek(-100, os.SEEK_END)
            byte = file.read(1)
            file.seek(-100, os.SEEK_END)
            file.write(bytes([byte[0] ^ 1]))

    def words(self, operation: str, number: int) -> list[str]:
        """The command of an operation. number: tells what two of a kind make apart."""
        stands_for = {
            "SOURCE": self.source,
            "NEW": self.folder / f"new {number}",
            "FIRST": self.scene.first,
            "LAST": self.scene.last,
            "THIS": self.made.path,
            "KEY": self.made.key_file,
            "OTHER": self.other.path,
            "OTHER KEY": self.other.key_file,
        }
        chosen = OPERATIONS[operation]
        words = [str(stands_for.get(word, word)) for word in chosen.words]
        return [sys.executable, chosen.script, *words] if chosen.script else command.words(*words)

    def check(self) -> None:
        """All points of both are whole, by this index and a new one, and after a collection."""
        kept = {made.path: self._whole(made, anew=True) for made in (self.made, self.other)}
        with readback.opened(self.made) as repository:
            ingest(repository, IngestRequest(paths=[str(self.source)], streams=1))
        for made in (self.made, self.other):
            made.run("gc")
            found = self._whole(made, anew=False)
            assert {i: c for i, c in found.items() if i in kept[made.path]} == kept[made.path]

    def _whole(self, made: command.Repository, *, anew: bool) -> dict[bytes, readback.Content]:
        with readback.opened(made) as repository:
            found = readback.whole(repository)
            points = repository.points()
            origins = {point.id: point.origin.point or point.id for point in points}
            assert len(set(origins.values())) == len(origins), "a point was published twice"
            for point in points:
                (made_of,) = point.synthesis.points or (point.id,)
                origin = origins.get(made_of, made_of)
                if origin in self.scene.held:
                    assert found[point.id] == self.scene.held[origin]
                else:
                    assert readback.differences(repository, point, self.source) == []
            assert verify(repository, level="data").damages == []
            if anew:
                repository.rebuild_index()
                assert readback.whole(repository) == found
        return found


@pytest.mark.parametrize(("second", "first"), PAIRS)
def test_one_beside_the_other(scene: Scene, tmp_path: Path, second: str, first: str) -> None:
    this = Try(scene, tmp_path)
    hurt = any(name.startswith("repair") for name in (first, second))
    if hurt:
        this.hurt()
    others: list[subprocess.CompletedProcess[str]] = []

    def decide(call: Call) -> object:
        if OPERATIONS[first].stops(call) and not others:
            others.append(
                subprocess.run(
                    this.words(second, 2), env=this.made.env, capture_output=True,
                    encoding="utf-8", check=False, timeout=60,
                )
            )  # fmt: skip
        return None

    result = tracer.run(
        this.words(first, 1),
        env=this.made.env,
        folder=this.made.home,
        under=[this.made.path, this.other.path],
        decide=decide,
    )
    assert others, f"{first} was never stopped: {result}"
    with scenes.told(f"{second} beside it: {others[0]}", result):
        ends = {(first, result.status), (second, others[0].returncode)}
        told = {(name, 4) for name in TELLS_OF_DAMAGE} if hurt else set()
        assert {status for _, status in ends - told} <= FINE
        assert ends & ({(first, 0), (second, 0)} | told), "one of them does its work"
        if hurt:
            this.made.run("repair")  # one that ended with 1, as others did what it was to do
        this.check()
