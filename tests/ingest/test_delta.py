"""Delta points: made from lists without reading the repository, and seen as fulls everywhere."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from ingest.delta import DeltaRequest, DeltaSummary, ingest_delta
from ingest.session import IngestRequest, ingest
from repo.errors import Damaged, JobFailed, UsageError
from repo.format.manifest import Point
from repo.repository import Repository
from repo.storage.fetcher import Fetcher
from repo.upkeep.diff import diff
from repo.upkeep.forget import forget, plan_by_name
from repo.upkeep.layers import Take
from repo.upkeep.synth import SynthRequest, synthesize
from repo.upkeep.verify import verify
from tests.support import command, readback
from tests.support.template import made, template

__all__ = ["made", "template"]


@pytest.fixture
def repository(made: command.Repository) -> Iterator[Repository]:
    with readback.opened(made) as repository:
        yield repository


@pytest.fixture
def source(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    for name in ("a/one", "a/two", "a/deep/er/three", "b/four", "c/five"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name)
    (source / "link").symlink_to("a/one")
    return source


def full(repository: Repository, source: Path) -> Point:
    request = IngestRequest(paths=[str(source)], source_ids=["it"], streams=1, base="none")
    (point,) = ingest(repository, request).points
    return point


def delta(
    repository: Repository,
    source: Path,
    base: Point,
    changed: list[str],
    deleted: Sequence[str] = (),
    **more: Any,
) -> DeltaSummary:
    folder = source.parent
    for name, paths in (("changed", changed), ("deleted", deleted)):
        (folder / name).write_bytes(b"".join(os.fsencode(path) + b"\0" for path in paths))
    request = DeltaRequest(
        path=str(source), base=base.id.hex(), source_id="it",
        files_from=str(folder / "changed"), deleted_from=str(folder / "deleted"), **more,
    )  # fmt: skip
    return ingest_delta(repository, request)


def shown(repository: Repository, summary: DeltaSummary) -> Point:
    return repository.point(summary.point.id.hex())


def change(source: Path) -> tuple[list[str], list[str]]:
    """Change a source in every way that lists tell of; the lists."""
    (source / "a" / "one").write_text("changed")
    (source / "a" / "two").unlink()
    shutil.rmtree(source / "b")
    (source / "new" / "folder").mkdir(parents=True)
    (source / "new" / "folder" / "file").write_text("new")
    (source / "link").unlink()
    (source / "link").write_text("no link any more")
    shutil.rmtree(source / "c")
    (source / "c").write_text("a file in the place of a directory")
    os.mkfifo(source / "pipe")
    changed = ["a/one", "a", "new", "new/folder", "new/folder/file", "link", "c", "pipe", "."]
    return changed, ["a/two", "b/four", "b", "c/five"]


def test_a_delta_shows_the_source_as_it_is(repository: Repository, source: Path) -> None:
    base = full(repository, source)
    summary = delta(repository, source, base, *change(source))
    point = shown(repository, summary)
    assert readback.differences(repository, point, source) == []
    assert summary.removed == 2  # a/two, b
    assert (
        list(diff(repository.tree, point.root, full(repository, source).root, same_source=True))
        == []
    )
    stored = repository.point(summary.point.id.hex(), stored=True)
    assert (stored.delta, stored.base) == (True, base.id)
    assert stored.root != point.root
    assert verify(repository, level="data").damages == []


def test_the_repository_is_not_read(
    repository: Repository, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = full(repository, source)

    def refuse(*_arguments: object) -> bytes:
        raise AssertionError("the repository was read")

    with monkeypatch.context() as patched:
        patched.setattr(Fetcher, "read", refuse)
        patched.setattr(type(repository.folder), "read_point", refuse)
        summary = delta(repository, source, base, *change(source))
    assert readback.differences(repository, shown(repository, summary), source) == []


def test_deltas_lie_over_deltas_and_become_a_full(repository: Repository, source: Path) -> None:
    points = [full(repository, source)]
    rng = random.Random(3)
    for _ in range(5):
        changed, deleted = _randomly(source, rng)
        points.append(delta(repository, source, points[-1], changed, deleted).point)
        point = repository.point(points[-1].id.hex())
        assert readback.differences(repository, point, source) == []
    result = synthesize(repository, SynthRequest(points=[point, *points])).point
    assert not result.delta
    assert result.statistics.files == full(repository, source).statistics.files
    forget(repository, points)
    for point_id in repository.folder.forgotten():
        repository.folder.remove_forgotten(point_id)
    assert readback.differences(repository, repository.point(result.id.hex()), source) == []


def _randomly(source: Path, rng: random.Random) -> tuple[list[str], list[str]]:
    """Change, make and remove a few things; the lists that tell of it."""
    changed: set[str] = {"."}
    deleted: set[str] = set()
    for number in range(8):
        folders = [p for p in source.rglob("*") if p.is_dir()]
        folder = rng.choice([source, *folders])
        files = sorted(p for p in folder.iterdir() if not p.is_dir())
        what = rng.randrange(4)
        if what == 0 and files:
            gone = rng.choice(files)
            gone.unlink()
            deleted.add(str(gone.relative_to(source)))
        elif what == 1 and folder != source:
            shutil.rmtree(folder)
            deleted.add(str(folder.relative_to(source)))
            folder = folder.parent
        elif what == 2:
            made = folder / f"made {number} {rng.random()}"
            made.mkdir()
            (made / "inside").write_bytes(rng.randbytes(100))
            changed |= {f"{made.relative_to(source)}/"}
        else:
            file = folder / f"file {rng.randrange(3)}"
            file.write_bytes(rng.randbytes(500))
            changed.add(str(file.relative_to(source)))
            deleted.discard(str(file.relative_to(source)))
        changed.add(str(folder.relative_to(source)))
    return sorted(changed), sorted(deleted)


def test_a_slash_at_the_end_takes_a_directory_as_a_whole(
    repository: Repository, source: Path
) -> None:
    base = full(repository, source)
    shutil.rmtree(source / "a")
    (source / "a" / "deep").mkdir(parents=True)
    (source / "a" / "deep" / "other").write_text("other")
    (source / "a" / "other").write_text("other")
    point = shown(repository, delta(repository, source, base, ["a/", "."]))
    assert readback.differences(repository, point, source) == []


def test_a_slash_alone_takes_everything(repository: Repository, source: Path) -> None:
    base = full(repository, source)
    change(source)
    summary = delta(repository, source, base, ["/"])
    assert readback.differences(repository, shown(repository, summary), source) == []


def test_what_is_gone_by_then_is_recorded_as_gone(repository: Repository, source: Path) -> None:
    base = full(repository, source)
    shutil.rmtree(source / "a")
    summary = delta(repository, source, base, ["a/one", "a/deep/er/three", "."], ["a/two"])
    assert summary.removed == 1
    assert readback.differences(repository, shown(repository, summary), source) == []


def test_what_was_deleted_and_is_there_again_is_something_new(
    repository: Repository, source: Path
) -> None:
    base = full(repository, source)
    shutil.rmtree(source / "a")
    (source / "a").mkdir()
    (source / "a" / "fresh").write_text("fresh")
    summary = delta(repository, source, base, ["."], ["a"])
    assert readback.differences(repository, shown(repository, summary), source) == []


def test_large_files_keep_their_pages(
    repository: Repository, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ingest.delta._LARGE_BYTES", 100_000)
    monkeypatch.setattr("ingest.deltatree.RANGE_BYTES", 100_000)
    monkeypatch.setattr("ingest.deltatree.EXTENT_PAGE_ROWS", 2)
    monkeypatch.setattr("ingest.deltatree._PAGE_BYTES", 80)
    base = full(repository, source)
    with (source / "large").open("wb") as file:
        file.write(random.Random(5).randbytes(700_000))
        file.truncate(3_000_000)
    point = shown(repository, delta(repository, source, base, ["large", "."]))
    assert readback.differences(repository, point, source) == []


def test_a_problem_is_recorded_and_the_base_is_kept_for_it(
    repository: Repository, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = full(repository, source)

    def fail(*_arguments: object) -> object:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("ingest.saver.open_file_stat", fail)
    summary = delta(repository, source, base, ["a/one"])
    assert [(problem.path, problem.errno) for problem in summary.problems] == [(b"a/one", 5)]
    assert readback.problems(repository, summary.point) == list(summary.problems)
    entry = repository.tree.resolve(shown(repository, summary).root, b"a/one")
    assert entry == repository.tree.resolve(base.root, b"a/one")


def test_the_base_of_a_delta_cannot_be_forgotten(repository: Repository, source: Path) -> None:
    base = full(repository, source)
    middle = delta(repository, source, base, ["a/one"]).point
    last = delta(repository, source, middle, ["a/two"]).point
    plan = plan_by_name(repository, [base, middle])
    assert plan.forgotten == []
    assert "base of the delta" in plan.judged[0].reasons[0]
    assert len(plan_by_name(repository, [base, middle, last]).forgotten) == 3
    forget(repository, [base])  # by somebody who did not look: it still counts
    assert repository.resolved(last).root.entries_below == base.root.entries_below
    assert repository.bases() == {base.id, middle.id}
    forget(repository, [last, middle])
    assert repository.bases() == set()


def test_a_base_that_is_gone_is_told(made: command.Repository, source: Path) -> None:
    with readback.opened(made) as repository:
        base = full(repository, source)
        last = delta(repository, source, base, ["a/one"]).point
        forget(repository, [base])
        repository.folder.remove_forgotten(repository.folder.forgotten()[0])
    with readback.opened(made) as repository, pytest.raises(Damaged, match="base of a delta"):
        repository.resolved(last)
    with readback.opened(made) as repository:
        (damage,) = verify(repository, level="structure").damages
        assert "base of a delta" in damage.what
        assert damage.points == [last.id.hex()]
        assert [one.id for one in plan_by_name(repository, [last]).forgotten] == [last.id]
    made.run("forget", last.id.hex(), "--yes", "--min-age", "0s")


def test_a_base_that_is_forgotten_meanwhile_takes_the_delta_with_it(
    repository: Repository, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = full(repository, source)
    original = type(repository).writer

    def forgotten_then(self: Repository, **more: Any) -> Any:
        forget(repository, [base])
        return original(self, **more)

    monkeypatch.setattr(type(repository), "writer", forgotten_then)
    with pytest.raises(JobFailed, match="forgotten meanwhile"):
        delta(repository, source, base, ["a/one"])
    assert repository.points() == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a/../b\0", "no source has"),
        (b"a/one\nb/four\n", "ended by NUL"),
        (None, "cannot be read"),
    ],
)
def test_lists_that_cannot_be_used(
    repository: Repository, source: Path, content: bytes | None, message: str
) -> None:
    base = full(repository, source)
    if content is not None:
        (source.parent / "list").write_bytes(content)
    with pytest.raises(UsageError, match=message):
        ingest_delta(
            repository,
            DeltaRequest(
                path=str(source), base=base.id.hex(), files_from=str(source.parent / "list")
            ),
        )


def test_a_part_of_a_delta_is_taken_from_a_full_only(repository: Repository, source: Path) -> None:
    base = full(repository, source)
    point = shown(repository, delta(repository, source, base, ["a/one"]))
    with pytest.raises(UsageError, match="full of it first"):
        synthesize(repository, SynthRequest(points=(), takes=[Take(point, b"a", b"/x")]))


def test_a_removal_hides_nothing_of_another_source(repository: Repository, source: Path) -> None:
    base = full(repository, source)
    (source / "a" / "one").unlink()
    point = shown(repository, delta(repository, source, base, ["a"], ["a/one"]))
    other = IngestRequest(paths=[str(source.parent / "other")], source_ids=["other"], streams=1)
    (source.parent / "other" / "a").mkdir(parents=True)
    (source.parent / "other" / "a" / "one").write_text("of the other")
    (second,) = ingest(repository, other).points
    result = synthesize(repository, SynthRequest(points=[point, second])).point
    assert repository.tree.resolve(result.root, b"a/one").size == len("of the other")


def test_the_command_line_shows_restores_copies_and_compares_deltas(
    made: command.Repository, source: Path, tmp_path: Path
) -> None:
    made.run("ingest", source, "--source-id", "it")
    base = made.run("points", "--json").events()[0]["point"]
    changed, deleted = change(source)
    (tmp_path / "changed").write_bytes(b"".join(p.encode() + b"\0" for p in changed))
    (tmp_path / "deleted").write_bytes(b"".join(p.encode() + b"\0" for p in deleted))
    lists = ["--files-from", f"{tmp_path}/changed", "--deleted-from", f"{tmp_path}/deleted"]
    summary = made.run(
        "ingest", source, "--source-id", "it", "--delta", "--base", base[:12], *lists, "--json"
    ).summary()
    assert summary["delta_of"] == base
    assert made.run("points", "--json").events()[-1]["delta_of"] == base
    assert "Delta of" in made.run("show", "latest").out
    assert made.run("find", "one", "--json").events()[0]["point"] == summary["points"][0]["point"]
    assert "file" in made.run("ls", "-R", "latest").out
    made.run("restore", "latest", "--to", tmp_path / "back", "--streams", "2")
    made.run("ingest", tmp_path / "back", "--source-id", "back")
    made.run("ingest", source, "--source-id", "it", "--base", "none")
    delta_id = summary["points"][0]["point"]
    assert made.run("diff", delta_id, "latest:back").out == ""
    assert made.run("diff", delta_id, "latest:it").out == ""
    made.run("synth", delta_id, "--relayout")
    assert made.run("verify", "--data").status == 0
    made.run("init", "-r", tmp_path / "second", "--key-file", made.key_file)
    made.run("copy", "--to", tmp_path / "second", "--to-key-file", made.key_file)
    second = made.run("points", "-r", tmp_path / "second", "--json").events()
    assert all(point["delta_of"] is None for point in second)
    for words in (
        ["--delta"], ["--delta", "--base", "auto", *lists], lists[:2],
        ["--delta", "--base", base, "--exclude", "x", *lists],
    ):  # fmt: skip
        made.run("ingest", source, *words, status=2)
