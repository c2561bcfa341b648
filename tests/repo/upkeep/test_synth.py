"""Syntheses of points of real trees: what they hold, say of themselves, and cost."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ingest.session import IngestRequest, ingest
from repo.errors import UsageError
from repo.format.manifest import Loss, Point, Problem, pack_problems
from repo.repository import Repository
from repo.upkeep.diff import diff
from repo.upkeep.layers import Take
from repo.upkeep.synth import SynthRequest, SynthSummary, synthesize
from repo.upkeep.verify import verify
from tests.support import command, readback
from tests.support.template import made, template

__all__ = ["made", "template"]


@pytest.fixture
def repository(made: command.Repository) -> Iterator[Repository]:
    with readback.opened(made) as repository:
        yield repository


def saved(repository: Repository, source: Path, source_id: str = "") -> Point:
    request = IngestRequest(
        paths=[str(source)], source_ids=[source_id] if source_id else [], streams=1
    )
    (point,) = ingest(repository, request).points
    return point


def synthetic(repository: Repository, *points: Point, **more: Any) -> SynthSummary:
    return synthesize(repository, SynthRequest(points=points, **more))


def paths(repository: Repository, point: Point) -> set[bytes]:
    return {path.lstrip(b"/") for path in readback.content(repository, point)}


def equal(repository: Repository, one: Point, other: Point) -> bool:
    return not list(diff(repository.tree, one.root, other.root, same_source=True))


def plant(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{folder.name} {name}")
    return folder


def test_points_of_one_source_give_its_newest_state(repository: Repository, tmp_path: Path) -> None:
    source = plant(tmp_path / "source", "a/one", "a/two", "b/three")
    points = [saved(repository, source)]
    (source / "a" / "two").unlink()
    plant(source, "c/four")
    points.append(saved(repository, source))
    (source / "b" / "three").write_text("changed")
    points.append(saved(repository, source))
    summary = synthetic(repository, points[2], points[0], points[1])
    full = saved(repository, source)
    assert equal(repository, summary.point, full)
    assert readback.differences(repository, summary.point, source) == []
    assert (summary.nodes, summary.bytes_stored) == (0, 0)
    synthesis = summary.point.synthesis
    assert synthesis.points == tuple(point.id for point in reversed(points))
    assert synthesis.made_ns > points[2].received_ns
    assert summary.point.source_id == full.source_id
    assert summary.point.statistics.files == full.statistics.files == 3


def test_it_stands_right_behind_the_newest_of_what_it_was_made_from(
    repository: Repository, tmp_path: Path
) -> None:
    source = plant(tmp_path / "source", "a")
    first = saved(repository, source)
    second = saved(repository, source)
    made_from_first = synthetic(repository, first).point
    assert [point.id for point in repository.points()] == [first.id, made_from_first.id, second.id]
    assert repository.point("latest").id == second.id


def test_several_sources_lie_in_one_tree(repository: Repository, tmp_path: Path) -> None:
    one = plant(tmp_path / "one", "only one", "both/1", "both/same")
    two = plant(tmp_path / "two", "only two/deep", "both/2", "both/same")
    for folder in (one, two):
        os.link(folder / "both" / "same", folder / "link")
    points = [saved(repository, one, "one"), saved(repository, two, "two")]
    summary = synthetic(repository, *points)
    assert paths(repository, summary.point) == {
        b"", b"only one", b"only two", b"only two/deep", b"both", b"both/1", b"both/2",
        b"both/same", b"link",
    }  # fmt: skip
    assert summary.point.source_id == "synthetic:one+two"
    assert summary.point.statistics.files == 6
    assert summary.point.statistics.directories == 3
    found = repository.tree.resolve(summary.point.root, b"both/same")
    assert next(iter(repository.tree.extents(found))).length == len("two both/same")
    assert verify(repository, level="data").damages == []


def test_links_of_two_sources_never_become_one_file(repository: Repository, tmp_path: Path) -> None:
    points = []
    for name in ("one", "two"):
        source = plant(tmp_path / name, f"{name}/file")
        os.link(source / name / "file", source / name / "link")
        points.append(saved(repository, source, name))
        # As on two hosts: the same number for another file.
        tree = repository.tree
    one, two = points
    numbers = [tree.resolve(p.root, p.source_id.encode() + b"/file").inode for p in points]
    result = synthetic(repository, one, two).point
    found = [
        tree.resolve(result.root, name)
        for name in (b"one/file", b"one/link", b"two/file", b"two/link")
    ]
    assert found[0].inode == found[1].inode
    assert found[2].inode == found[3].inode
    assert [found[0].inode, found[2].inode] != numbers  # one of the two sources was changed


def test_preferred_points_win_where_they_have_something(
    repository: Repository, tmp_path: Path
) -> None:
    source = plant(tmp_path / "source", "a/changed", "a/deleted")
    old = saved(repository, source)
    (source / "a" / "deleted").unlink()
    (source / "a" / "changed").write_text("new")
    plant(source, "a/new")
    new = saved(repository, source)
    result = synthetic(repository, new, prefer=[old], rules=["--prefer old"]).point
    assert paths(repository, result) == {b"", b"a", b"a/changed", b"a/deleted", b"a/new"}
    changed = repository.tree.resolve(result.root, b"a/changed")
    assert changed == repository.tree.resolve(old.root, b"a/changed")
    assert result.source_id.startswith("synthetic:")
    assert result.synthesis.rules == ("--prefer old",)


def test_parts_are_taken_to_other_places(repository: Repository, tmp_path: Path) -> None:
    source = plant(tmp_path / "source", "etc/one", "etc/two", "var/x", "file")
    point = saved(repository, source)
    takes = [
        Take(point, b"/etc/", b"/hosts/web/etc"),
        Take(point, b"file", b"/var"),  # in the place of a directory
        Take(point, b"var/x", b"/etc/one"),
    ]
    result = synthetic(repository, point, takes=takes).point
    assert paths(repository, result) == {
        b"", b"etc", b"etc/one", b"etc/two", b"file", b"var", b"hosts", b"hosts/web",
        b"hosts/web/etc", b"hosts/web/etc/one", b"hosts/web/etc/two",
    }  # fmt: skip
    content = readback.content(repository, result)
    original = readback.content(repository, point)
    assert content[b"/etc/one"] == original[b"/var/x"]
    assert content[b"/var"] == original[b"/file"]
    assert content[b"/hosts/web/etc/two"] == original[b"/etc/two"]
    alone = synthesize(repository, SynthRequest(points=(), takes=[Take(point, b"", b"/in")])).point
    assert equal_below(repository, point, alone, b"in")
    root = synthesize(repository, SynthRequest(points=(), takes=[Take(point, b"etc", b"/")])).point
    assert paths(repository, root) == {b"", b"one", b"two"}


def equal_below(repository: Repository, point: Point, other: Point, at: bytes) -> bool:
    found = repository.tree.resolve(other.root, at)
    return found.node == point.root.node


@pytest.mark.parametrize(
    ("path", "at", "message"),
    [
        (b"none", b"/x", "no such path"),
        (b"f", b"/", "only be a directory"),
        (b"f", b"/../x", "outside"),
    ],
)
def test_parts_that_cannot_be_taken(
    repository: Repository, tmp_path: Path, path: bytes, at: bytes, message: str
) -> None:
    point = saved(repository, plant(tmp_path / "source", "f"))
    with pytest.raises(UsageError, match=message):
        synthetic(repository, point, takes=[Take(point, path, at)])
    with pytest.raises(UsageError, match="of nothing"):
        synthetic(repository)


def test_what_the_newest_could_not_read_comes_from_an_older_point(
    repository: Repository, tmp_path: Path
) -> None:
    source = plant(tmp_path / "source", "d/bad", "d/gone", "d/good")
    old = saved(repository, source)
    for name in ("bad", "gone"):
        (source / "d" / name).unlink()
    (source / "d" / "good").write_text("newer")
    new = saved(repository, source)
    writer = repository.writer()
    data = pack_problems([Problem(b"d/bad", "read", 5, "input/output error")])
    chunk = repository.keys.chunk_id(data)
    writer.put_meta(chunk, data)
    writer.commit(close=True)
    broken = msgspec.structs.replace(
        new,
        id=b"b" * 16,
        problems=(bytes(chunk),),
        problems_total=1,
        received_ns=new.received_ns + 5,
    )
    writer.publish(broken)
    result = synthetic(repository, old, broken).point
    assert paths(repository, result) == {b"", b"d", b"d/bad", b"d/good"}
    good = repository.tree.resolve(result.root, b"d/good")
    assert good == repository.tree.resolve(new.root, b"d/good")
    assert result.problems_total == 1
    assert result.statistics.files == 2


def test_what_is_known_to_be_lost_stays_marked(repository: Repository, tmp_path: Path) -> None:
    point = saved(repository, plant(tmp_path / "source", "d/lost", "d/read", "other"))
    writer = repository.writer()
    chunks = []
    for problem in (Problem(b"d/lost", "lost"), Problem(b"d/read", "read", 5)):
        data = pack_problems([problem])
        chunks.append(bytes(repository.keys.chunk_id(data)))
        writer.put_meta(repository.keys.chunk_id(data), data)
    writer.commit(close=True)
    lossy = msgspec.structs.replace(
        point, id=b"l" * 16, problems=tuple(chunks), problems_total=2,
        loss=Loss(files=1, bytes_lost=7, lists=(chunks[0],), noted_ns=5),
    )  # fmt: skip
    writer.publish(lossy)
    assert synthetic(repository, lossy).point.loss == lossy.loss
    takes = [Take(lossy, b"d", b"/in"), Take(lossy, b"other", b"/x")]
    part = synthesize(repository, SynthRequest(points=(), takes=takes)).point
    assert (part.loss.files, part.loss.noted_ns, part.problems_total) == (1, 5, 2)
    assert part.loss.lists == part.problems[1:]
    assert [(one.path, one.step) for one in readback.problems(repository, part)] == [
        (b"in/read", "read"), (b"in/lost", "lost"),
    ]  # fmt: skip


def test_a_rehearsal_stores_nothing(repository: Repository, tmp_path: Path) -> None:
    points = [saved(repository, plant(tmp_path / n, f"{n}/f", "x"), n) for n in ("one", "two")]
    before = _stored(repository)
    summary = synthetic(repository, *points, dry_run=True)
    assert summary.nodes > 0
    assert summary.point.statistics.files == 3
    assert _stored(repository) == before


def _stored(repository: Repository) -> set[Path]:
    return {file for part in ("segments", "points") for file in (repository.path / part).rglob("*")}


def test_an_unfinished_point_is_refused(repository: Repository, tmp_path: Path) -> None:
    point = saved(repository, plant(tmp_path / "source", "f"))
    with pytest.raises(UsageError, match="unfinished"):
        synthetic(repository, msgspec.structs.replace(point, unfinished=True))


def test_the_command_line(made: command.Repository, tmp_path: Path) -> None:
    source = plant(tmp_path / "source", "a/b:c", "x=y")
    for _ in range(2):
        made.run("ingest", source, "--source-id", "web:/")
    summary = made.run("synth", "latest", "latest:web:/", "--json").summary()
    assert (summary["event"], summary["nodes"], summary["files"]) == ("summary", 0, 2)
    assert made.run("diff", summary["points"][0]["point"], "latest:web:/").out == ""
    words = ["synth", "--take", "latest:web:/:a/b:c=/1", "--take", "latest:x=y=/2/z"]
    made.run(*words, "--source-id", "parts", "--tag", "t", "--dry-run")
    made.run(*words, "--source-id", "parts", "--tag", "t")
    listed = made.run("ls", "-R", "latest:parts").out.split()
    assert listed == ["1", "2/", "2/z"]
    shown = made.run("show", "latest:parts").out
    assert "Made from" in shown
    assert "--take latest:x=y=/2/z" in shown
    made.run("synth", status=2)
    made.run("synth", "--take", "latest", status=2)
    made.run("synth", "--take", "none:a=/b", status=2)
