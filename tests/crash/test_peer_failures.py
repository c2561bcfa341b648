"""What bit others: failures that other backup tools had, by their numbers, tried on this one."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from repo.format.frame import HEAD_SEALED_BYTES
from repo.format.manifest import Point, PointFile
from repo.format.segment import HEADER_BYTES, KEYS_BYTES, SegmentHeader
from repo.repository import Repository
from repo.scanner import reader_of, scan
from repo.upkeep.verify import verify
from tests.crash import forged, scenes
from tests.repo.upkeep import collecting
from tests.support import command, health, readback, tracer
from tests.support.template import copy
from tests.support.tracer import Call

NONCE_BYTES = 12


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "source"


@pytest.fixture
def small(tmp_path: Path) -> command.Repository:
    """A repository of small segments, so that a small job has several."""
    return scenes.small_repository(tmp_path / "small")


def save(made: command.Repository, source: Path, version: int, *more: str) -> str:
    """Make a version of the source and save it; the id of its point."""
    collecting.plant(source, version)
    summary = made.run("ingest", source, "--streams", "1", "--json", *more).summary()
    (point,) = summary["points"]
    return str(point["point"])


def traced(
    made: command.Repository,
    *words: str | Path,
    decide: tracer.Decide = lambda _call: None,
    calls: frozenset[str] = tracer.MUTATING,
) -> tracer.Traced:
    return tracer.run(
        command.words(*words),
        env=made.env,
        folder=made.home,
        under=[made.path],
        decide=decide,
        calls=calls,
    )


def check(made: command.Repository, sources: dict[str, Path]) -> None:
    """These points are there, and restore as their sources are; all else is whole as well."""
    with readback.opened(made) as repository:
        points = {point.id.hex(): point for point in repository.points()}
        assert points.keys() >= sources.keys()
        for name, source in sources.items():
            assert readback.differences(repository, points[name], source) == []
        assert verify(repository, level="data").damages == []
        repository.rebuild_index()
        assert len(readback.whole(repository)) == len(points)


def appends(call: Call) -> bool:
    return call.name.startswith("pwritev") and "/segments/" in call.path


def closes(call: Call) -> bool:
    return call.name == "rename" and call.path.endswith(".open")


def test_borg_9748_a_backup_after_an_interrupted_compaction(
    small: command.Repository, source: Path, tmp_path: Path
) -> None:
    """The compaction had removed data and died before the index said so; later backups did not
    store what that index still knew, restores were filled with zeros, and every status was 0.
    """
    gone = save(small, source, 1)
    shutil.copytree(source, tmp_path / "as before", symlinks=True)
    kept = save(small, source, 2)
    small.run("forget", gone, "--yes")
    undisturbed = traced(copy(small, tmp_path / "undisturbed"), "gc")
    assert undisturbed.status == 0
    first = next(
        place
        for place, call in enumerate(undisturbed.calls)
        if call.path.endswith(".removed") or (call.name == "rename" and "/segments/" in call.path)
    )
    for call in scenes.sample(undisturbed.calls[first:], 4):
        shutil.rmtree(tmp_path / "try", ignore_errors=True)
        made = copy(small, tmp_path / "try")
        result = traced(made, "gc", decide=scenes.at(call, tracer.KILL))
        with scenes.told(f"killed before call {call.number}", result):
            assert result.status in (-9, 0)
            summary = made.run("ingest", tmp_path / "as before", "--json").summary()
            assert summary["problems"] == 0
            (point,) = summary["points"]
            made.run("restore", point["point"], "--to", tmp_path / "try" / "restored")
            check(made, {point["point"]: tmp_path / "as before", kept: source})


@pytest.mark.parametrize(
    "when",
    [
        appends,
        closes,
        pytest.param(lambda call: "/points/" in call.path, id="publishes"),
        pytest.param(lambda call: "/index/" in call.path, id="indexes"),
    ],
)
def test_borg_9849_9853_a_full_repository_is_no_warning_of_a_file(
    small: command.Repository, source: Path, when: Callable[[Call], bool]
) -> None:
    """ENOSPC of the repository was told as a warning of the file that was being read, the next
    file was tried, and the archive was there. Beside it, what a file of the source cannot do is
    such a warning.
    """
    save(small, source, 1)
    collecting.plant(source, 2)
    met: list[Call] = []

    def decide(call: Call) -> object:
        if met or when(call):
            met.append(call)
            return errno.ENOSPC  # from there on the disk is full
        return None

    result = traced(small, "ingest", source, "--streams", "1", decide=decide)
    with scenes.told(f"full from {met[:1]} on", result):
        assert met
        assert result.status == 12
        assert os.strerror(errno.ENOSPC) in result.err
        assert str(source) not in result.err, "no file of the source is to blame"
        assert len(small.run("points", "--json").events()) == 1
        summary = small.run("ingest", source, "--json").summary()
        assert (summary["problems"], len(summary["points"])) == (0, 1)
        check(small, {summary["points"][0]["point"]: source})


def test_pbs_psa_2025_00019_1_a_point_that_comes_between_listing_and_marking(
    small: command.Repository, source: Path, tmp_path: Path
) -> None:
    """The collection had listed the points; a new one took over the chunks of an old one, which
    was then removed before it was marked. Tried behind each listing of the points that it makes.
    """
    old = save(small, source, 1)
    shutil.copytree(source, tmp_path / "as before", symlinks=True)
    kept = save(small, source, 2)

    def listed(call: Call) -> bool:
        return call.name == "getdents64" and call.path.endswith("/points")

    def collected(made: command.Repository, decide: tracer.Decide) -> tracer.Traced:
        calls = tracer.MUTATING | {"getdents64"}
        return traced(made, "gc", decide=decide, calls=calls)

    undisturbed = collected(copy(small, tmp_path / "undisturbed"), lambda _call: None)
    looks = [call for call in undisturbed.calls if listed(call)]
    for look in looks[1::2]:  # each listing takes two calls, of which the second finds its end
        shutil.rmtree(tmp_path / "try", ignore_errors=True)
        made = copy(small, tmp_path / "try")
        new: list[str] = []

        def decide(
            call: Call,
            at: int = look.number,
            made: command.Repository = made,
            new: list[str] = new,
        ) -> object:
            if call.number == at:
                words = ("ingest", tmp_path / "as before", "--base", "none", "--json")
                stored = made.run(*words).summary()
                assert stored["bytes_stored"] < 20_000, "nearly all was found"
                new.append(stored["points"][0]["point"])
                made.run("forget", old, "--yes")
            return None

        result = collected(made, decide)
        with scenes.told(f"a point came at call {look.number}", result):
            assert (len(new), result.status) == (1, 0)
            assert made.run("gc", "--json").summary()["chunks_lost"] == 0
            check(made, {new[0]: tmp_path / "as before", kept: source})


@pytest.mark.parametrize("when", [appends, closes])
def test_rustic_docs_144_a_collection_under_a_stopped_writer(
    small: command.Repository, source: Path, tmp_path: Path, when: Callable[[Call], bool]
) -> None:
    """The writer has found chunks that only forgotten points hold, is stopped for longer than any
    grace period, and goes on. Not inside a transaction of the index: there everybody waits for it.
    """
    points = [save(small, source, version) for version in (1, 2, 3)]
    shutil.copytree(source, tmp_path / "as before", symlinks=True)
    kept = save(small, source, 4)
    removed: list[int] = []

    def decide(call: Call) -> object:
        if when(call) and not removed:
            small.run("forget", *points, "--yes")
            removed.append(small.run("gc", "--json").summary()["chunks_dead"])
        return None

    result = traced(small, "ingest", tmp_path / "as before", "--streams", "1", decide=decide)
    with scenes.told("stopped", result):
        assert removed[0] > 0
        assert result.status == 0
        check(small, {kept: source})
    with readback.opened(small) as repository:
        (point,) = [p for p in repository.points() if p.id.hex() != kept]
        assert readback.differences(repository, point, tmp_path / "as before") == []


def test_borg_9868_a_chunk_that_two_writers_store_at_once(
    small: command.Repository, source: Path, tmp_path: Path
) -> None:
    """Two archives were made at the same time and stored a chunk twice; the compaction ended with
    a failed assertion from then on.
    """
    collecting.plant(source, 1)
    shutil.copytree(source, tmp_path / "like it", symlinks=True)
    other: list[dict[str, object]] = []

    def decide(call: Call) -> object:
        if appends(call) and not other:
            other.append(small.run("ingest", tmp_path / "like it", "--json").summary())
        return None

    result = traced(small, "ingest", source, "--streams", "1", "--json", decide=decide)
    with scenes.told("another one stored the same", result):
        assert result.status == 0
        with readback.opened(small) as repository:
            one, two = repository.points()
            held = readback.whole(repository)
            assert health.stored_bytes(repository) > 1.5 * int(str(other[0]["bytes_stored"]))
        summary = small.run("gc", "--json").summary()
        assert summary["chunks_lost"] == 0
        assert summary["bytes_freed"] > 20_000, "the second copy"
        with readback.opened(small) as repository:
            assert readback.whole(repository) == held
        small.run("forget", one.id.hex(), "--yes")
        assert small.run("gc", "--json").summary()["chunks_lost"] == 0
        with readback.opened(small) as repository:
            assert readback.whole(repository) == {two.id: held[two.id]}
            assert verify(repository, level="data").damages == []


def test_tarsnap_2011_a_nonce_is_never_used_twice(
    template: command.Repository, tmp_path: Path
) -> None:
    """The increment of the nonce had been lost in a refactoring. Here ingests with segments that
    fill up are killed again and again, and each time recovered.
    """
    scene = scenes.many_checkpoints(template, tmp_path)
    made = scene.fresh(tmp_path / "try")
    calls = scene.traced(scene.fresh(tmp_path / "undisturbed")).calls
    for call in scenes.sample(calls, 6):
        assert scene.traced(made, scenes.at(call, tracer.KILL)).status in (-9, 0)
    made.run("ingest", scene.source)
    with readback.opened(made) as repository:
        sealed = list(_sealed(repository))
    assert len(sealed) > 100
    assert len(set(sealed)) == len(sealed)
    numbers = {(salt, nonce[:4]) for salt, nonce in sealed}
    assert len(numbers) == len(sealed), "nor do their numbers repeat"


def _sealed(repository: Repository) -> Iterator[tuple[bytes, bytes]]:
    """The salt, which makes the key, and the nonce of every sealed record of a repository."""
    for segment_id, is_open in repository.folder.segments():
        assert not is_open
        read, size = reader_of(repository.fetcher, segment_id)
        found = scan(read, size, repository.keys, segment_id)
        header = SegmentHeader.parse(read(0, HEADER_BYTES), where="test")
        for frame in found.frames:
            yield header.salt, read(frame.offset, NONCE_BYTES)
            yield header.salt, read(frame.offset + HEAD_SEALED_BYTES, NONCE_BYTES)
        assert found.footer is not None
        part = found.footer.sealed
        yield part[:32], part[KEYS_BYTES : KEYS_BYTES + NONCE_BYTES]
    for point_id in repository.folder.points():
        file = PointFile.parse(repository.folder.read_point(point_id), where="test")
        yield file.salt, file.sealed[:NONCE_BYTES]


def test_restic_22057_a_client_that_forges_its_time_pushes_nothing_out(
    small: command.Repository, source: Path
) -> None:
    """Snapshots of the far future, made by whoever may only add, took the places of the real ones
    in every rule, and those were forgotten.
    """
    real = {save(small, source, version) for version in (1, 2, 3)}
    words = [sys.executable, forged.__file__, "ingest", str(source)]
    for version in range(4, 9):
        collecting.plant(source, version)
        subprocess.run(words, env=small.env, check=True, capture_output=True)
    with readback.opened(small) as repository:
        future = [p for p in repository.points() if p.id.hex() not in real]
    assert min(point.received_ns for point in future) > _newest(small, real).received_ns + 10**18
    rules = ("--keep-last", "3", "--keep-daily", "2", "--keep-within", "2d")
    small.run("forget", *rules, "--yes")
    left = {point["point"] for point in small.run("points", "--json").events()}
    assert left >= real


def _newest(made: command.Repository, names: set[str]) -> Point:
    with readback.opened(made) as repository:
        return max(
            (point for point in repository.points() if point.id.hex() in names),
            key=lambda point: point.received_ns,
        )
