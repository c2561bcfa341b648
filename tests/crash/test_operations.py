"""The table of operations (repo/README.md): each beside each, one of them stopped in the middle."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from ingest.session import IngestRequest, ingest
from repo.upkeep.verify import verify
from tests.crash import scenes
from tests.repo.upkeep import collecting
from tests.support import command, readback, tracer
from tests.support.template import copy
from tests.support.tracer import Call


class Operation(NamedTuple):
    """A command, and the call at which it is stopped: never inside a transaction of the index.

    changes: whether it makes points, or lets them go.
    """

    words: tuple[str, ...]
    stops: Callable[[Call], bool]


def _lease(call: Call) -> bool:
    """It has just begun to rely on what is there."""
    return call.name == "unlink" and "/leases/" in call.path


def _appends(call: Call) -> bool:
    return call.name.startswith("pwritev") and "/segments/" in call.path


def _removes(call: Call) -> bool:
    return call.name == "unlink" and call.path.endswith(".removed")


def _renames_a_point(call: Call) -> bool:
    return call.name == "rename" and "/points/" in call.path


def _builds(call: Call) -> bool:
    return ".new-" in call.path and "/index" in call.path and call.name == "fdatasync"


def _adds_a_slot(call: Call) -> bool:
    return call.name == "link" and "/keys/" in call.path


OPERATIONS: Final = {
    "ingest": Operation(("ingest", "SOURCE", "--streams", "1"), _appends),
    "synth": Operation(("synth", "latest"), _lease),
    "restore": Operation(("restore", "latest", "--to", "TARGET"), _lease),
    "verify": Operation(("verify", "--data"), _lease),
    "rebuild-index": Operation(("rebuild-index",), _builds),
    "forget": Operation(("forget", "--keep-last", "2", "--yes"), _renames_a_point),
    "gc": Operation(("gc",), _removes),
    "repair": Operation(("repair",), _lease),
    "key add": Operation(("key", "add", "--new-key-file", "KEY"), _adds_a_slot),
}
FINE: Final = {0, 1, 75}
"""1: an index was rebuilt under the other; 75: a second collection. Never a wrong result."""

PAIRS: Final = [
    pytest.param(
        *pair,
        marks=() if "gc" in pair else pytest.mark.deep,
        id=f"{pair[0]} while {pair[1]}",
    )
    for pair in itertools.product(OPERATIONS, OPERATIONS)
]


class Scene(NamedTuple):
    """A repository with forgotten points to collect, and the source of its last ones."""

    original: command.Repository
    source: Path
    held: dict[bytes, readback.Content]


@pytest.fixture(scope="module")
def scene(template: command.Repository, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    folder = tmp_path_factory.mktemp("scene")
    made = scenes.many_checkpoints(template, folder / "made").original
    with readback.opened(made) as repository:
        points = collecting.versions(repository, folder / "source", 4)
        collecting.gone(repository, [*repository.points()[:1], points[0]])
        return Scene(made, folder / "source", readback.whole(repository))


def _words(operation: str, folder: Path) -> list[str]:
    stands_for = {
        "SOURCE": str(folder / "source"),
        "TARGET": str(folder / f"target of {operation}"),
        "KEY": str(folder / f"key of {operation}"),
    }
    return command.words(*(stands_for.get(w, w) for w in OPERATIONS[operation].words))


@pytest.mark.parametrize(("second", "first"), PAIRS)
def test_one_beside_the_other(scene: Scene, tmp_path: Path, second: str, first: str) -> None:
    made = copy(scene.original, tmp_path / "made")
    shutil.copytree(scene.source, tmp_path / "source")
    collecting.plant(tmp_path / "source", 9)
    others: list[subprocess.CompletedProcess[str]] = []

    def decide(call: Call) -> object:
        if OPERATIONS[first].stops(call) and not others:
            words = [*_words(second, tmp_path)]
            words = [word.replace("target of", "other target of") for word in words]
            words = [word.replace("key of", "other key of") for word in words]
            others.append(
                subprocess.run(
                    words, env=made.env, capture_output=True, encoding="utf-8", check=False,
                    timeout=60,
                )
            )  # fmt: skip
        return None

    result = tracer.run(
        _words(first, tmp_path), env=made.env, folder=made.home, under=[made.path], decide=decide
    )
    assert others, f"{first} was never stopped: {result}"
    with scenes.told(f"{second} beside it: {others[0]}", result):
        assert {result.status, others[0].returncode} <= FINE
        assert 0 in {result.status, others[0].returncode}
        with readback.opened(made) as repository:
            for point in repository.points():
                if point.id in scene.held:
                    assert readback.content(repository, point) == scene.held[point.id]
                elif not point.synthesis.points:
                    assert readback.differences(repository, point, tmp_path / "source") == []
            assert verify(repository, level="data").damages == []
            kept = readback.whole(repository)
            repository.rebuild_index()
            assert readback.whole(repository) == kept
            ingest(repository, IngestRequest(paths=[str(tmp_path / "source")], streams=1))
        made.run("gc")
        with readback.opened(made) as repository:
            assert {i: c for i, c in readback.whole(repository).items() if i in kept} == kept
