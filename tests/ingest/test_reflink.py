"""A block image file as a source: read from a clone, and only where it changed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from ingest import running, session
from ingest.extents import Extent, differing, mapped
from ingest.snapshots.custody import Custody, janitor
from ingest.snapshots.folder import FOLDER_NAME
from repo.errors import SnapshotVanished, UsageError
from repo.types import KIB, MIB
from tests.ingest import again
from tests.support import command, loopfs, readback
from tests.support.btrfsops import clone, write_at

SIZE = 80 * MIB


@pytest.fixture(params=["xfs", "btrfs"])
def volume(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    with loopfs.mounted(request.param, tmp_path, size_bytes=600 * MIB) as filesystem:
        yield filesystem.path


@pytest.fixture
def image(volume: Path) -> Path:
    """An image with data, a hole, and data."""
    path = volume / "images" / "disk.img"
    path.parent.mkdir()
    with path.open("wb") as file:
        file.write(os.urandom(30 * MIB))
        file.seek(60 * MIB)
        file.write(os.urandom(SIZE - 60 * MIB))
    os.setxattr(path, "user.label", b"disk")
    path.chmod(0o640)
    return path


@pytest.fixture
def runs(made: command.Repository, image: Path) -> Iterator[again.Runs]:
    with readback.opened(made) as repository:
        yield again.Runs(repository, image)


def right(runs: again.Runs, image: Path, **request: object) -> session.IngestSummary:
    """Ingest; the point holds one file, which is the image as it is now."""
    summary = runs.run(**request)
    tree, root = runs.repository.tree, runs.newest.root
    (entry,) = tree.entries(root)
    assert (entry.name, entry.size) == (os.fsencode(image.name), image.stat().st_size)
    assert (entry.mode, entry.mtime_ns) == (0o640, image.stat().st_mtime_ns)
    assert (b"user.label", b"disk") in entry.xattrs
    found = b"".join(
        bytes(e.length) if e.is_hole else bytes(tree.content(e)) for e in tree.extents(entry)
    )
    assert found == image.read_bytes()
    return summary


def kept(volume: Path) -> list[str]:
    return [name.split("-")[1] for name in os.listdir(volume / FOLDER_NAME)]


def test_only_what_changed_is_read(runs: again.Runs, image: Path, volume: Path) -> None:
    first = right(runs, image)
    assert (first.verdict, first.bytes_read) == ("FULL", SIZE - 30 * MIB)
    assert runs.newest.source_id == f"{os.uname().nodename}:{image}"
    assert kept(volume) == ["held"]
    write_at(image, 10 * MIB, os.urandom(4 * KIB))
    write_at(image, 40 * MIB, os.urandom(4 * KIB))
    second = right(runs, image)
    assert (second.verdict, second.change_source) == ("EXACT", "reflink")
    assert 8 * KIB <= second.bytes_read < 4 * MIB
    assert right(runs, image).bytes_read == 0
    assert kept(volume) == ["held"]
    os.truncate(image, 50 * MIB)
    os.truncate(image, 70 * MIB)
    assert right(runs, image).bytes_read < 22 * MIB


def test_without_the_older_clone_it_is_read_whole(
    runs: again.Runs, image: Path, volume: Path
) -> None:
    right(runs, image, keep_snapshot=False)
    assert kept(volume) == []
    write_at(image, 10 * MIB, b"changed")
    summary = right(runs, image)
    assert summary.bytes_read >= SIZE - 30 * MIB
    assert any("clone of the base was not kept" in notice for notice in runs.notices)
    (held,) = (volume / FOLDER_NAME).iterdir()
    write_at(held / image.name, 0, b"who does that?")
    write_at(image, 20 * MIB, b"changed again")
    assert right(runs, image).bytes_read >= SIZE - 30 * MIB
    assert any("clone of the base was changed" in notice for notice in runs.notices)


def test_what_is_written_meanwhile_is_not_read(
    runs: again.Runs, image: Path, volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = volume / "copy"
    clone(image, copy)
    real = running.run

    def conduct(job: Any) -> None:
        write_at(image, 0, os.urandom(MIB))
        real(job)

    monkeypatch.setattr(running, "run", conduct)
    assert runs.run().problems == 0
    (entry,) = runs.repository.tree.entries(runs.newest.root)
    first = next(iter(runs.repository.tree.extents(entry)))
    assert bytes(runs.repository.tree.content(first)) == copy.read_bytes()[: first.length]


def test_a_clone_that_is_removed_meanwhile(
    runs: again.Runs, image: Path, volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = running.run

    def conduct(job: Any) -> None:
        real(job)
        (held,) = (volume / FOLDER_NAME).iterdir()
        (held / image.name).unlink()

    monkeypatch.setattr(running, "run", conduct)
    with pytest.raises(SnapshotVanished):
        runs.run()
    assert runs.repository.points() == []


def test_the_janitor_removes_clones(runs: again.Runs, image: Path, volume: Path) -> None:
    repository = runs.repository.path
    custody = Custody(repository, take=True, pin=True, keep=True)
    custody.hold(str(image), lambda: nullcontext(False), pytest.fail)
    assert (janitor(repository), kept(volume)) == (0, ["snap"])
    os.close(custody._journal._fd)  # as when the process dies
    custody._journal._fd = -1
    assert (janitor(repository), kept(volume)) == (1, [])
    custody.close()


def test_where_nothing_is_cloned_a_file_is_no_source(
    made: command.Repository, tmp_path: Path
) -> None:
    with loopfs.mounted("ext4", tmp_path, size_bytes=64 * MIB) as filesystem:
        (filesystem.path / "image").write_bytes(b"content")
        with readback.opened(made) as repository:
            runs = again.Runs(repository, filesystem.path / "image")
            with pytest.raises(UsageError, match="no directory"):
                runs.run()
            assert "cannot clone files" in runs.notices[0]
        assert not (filesystem.path / FOLDER_NAME).exists()


def test_maps_of_clones_differ_where_the_content_does(image: Path) -> None:
    copy = image.with_name("copy")
    clone(image, copy)
    with image.open("rb") as one, copy.open("rb") as two:
        assert differing(_map(one.fileno()), _map(two.fileno()), SIZE, SIZE) == []
        write_at(copy, 5 * MIB, b"x")
        ((start, stop),) = differing(_map(one.fileno()), _map(two.fileno()), SIZE, SIZE) or []
        assert start <= 5 * MIB < stop
        assert stop - start <= 64 * KIB


def _map(fd: int) -> list[Extent]:
    found = mapped(fd, side=0)
    assert found is not None
    return found


def test_ranges_by_hand() -> None:
    one = [Extent(0, 100, (5,)), Extent(100, 200, (9,))]
    assert differing(one, one, 200, 200) == []
    assert differing(one, one, 200, 150) == []
    assert differing(one, one, 200, 300) == [(200, 300)]
    other = [Extent(0, 50, (5,)), Extent(60, 100, (5,)), Extent(100, 200, (8,))]
    assert differing(one, other, 200, 200) == [(50, 60), (100, 200)]
    assert differing([], [Extent(0, 200, ())], 200, 200) == []
    assert differing([Extent(0, 10, b"abc")], [Extent(0, 10, b"abd")], 10, 10) == [(0, 10)]
    assert differing(one, [], 0, 0) == []
