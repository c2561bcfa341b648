"""Incremental points from btrfs snapshots: exact, and right; and when they must not be exact."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ingest.btrfs import ioctl
from ingest.changes import btrfs as change_source
from ingest.session import IngestSummary
from repo.format.manifest import Point
from repo.types import KIB, MIB, SegmentClass
from repo.upkeep.verify import verify
from tests.ingest import again
from tests.ingest.btrfs.test_generation import changes, since_of
from tests.ingest.btrfs.volume import Volume, opened, progs
from tests.support import command, readback
from tests.support.btrfsops import OPERATIONS, dedupe, write_at

FUZZ_ROUNDS_KEPT = 3


class Source:
    """A source of which snapshots are ingested, one after the other."""

    def __init__(self, runs: again.Runs) -> None:
        self.runs = runs

    def right(self, snapshot: Path, **request: object) -> IngestSummary:
        """Ingest a snapshot; the point must hold what the snapshot does."""
        self.runs.source = snapshot
        request = {"source_ids": ["volume"], **request}
        summary = self.runs.run(**request)
        assert self.differences(snapshot) == []
        return summary

    def differences(self, snapshot: Path) -> list[str]:
        """What the newest point has otherwise than a snapshot."""
        point = self.runs.newest
        found = readback.differences(self.runs.repository, point, snapshot)
        if not found:
            return []
        # What stands for a nested subvolume is in no point, and the kernel makes up its times.
        standing = tuple(
            repr(b"/" + os.fsencode(path.relative_to(snapshot)))
            for path in snapshot.rglob("*")
            if path.lstat().st_ino == ioctl.PLACEHOLDER
        )
        return [line for line in found if not line.startswith(standing)]


@pytest.fixture
def source(made: command.Repository, volume: Volume) -> Iterator[Source]:
    """Runs of a repository over snapshots."""
    with readback.opened(made) as repository:
        yield Source(again.Runs(repository, volume.live))


def test_every_operation_comes_into_an_exact_point(volume: Volume, source: Source) -> None:
    for name, operation in OPERATIONS.items():
        place = volume.live / name
        place.mkdir()
        operation.before(place)
    first = source.right(volume.snapshot("one"))
    assert (first.verdict, first.change_source) == ("FULL", "none")
    for name, operation in OPERATIONS.items():
        operation.change(volume.live / name)
    second = source.right(volume.snapshot("two"))
    assert (second.verdict, second.change_source) == ("EXACT", "btrfs"), source.runs.notices
    assert 0 < second.files_reused < second.files
    third = source.right(volume.snapshot("three"))
    assert (third.verdict, third.bytes_read, third.files_reused) == ("EXACT", 0, third.files)


def test_an_index_in_doubt_is_not_believed_by_an_exact_list(volume: Volume, source: Source) -> None:
    for number in range(3):
        (volume.live / f"file {number}").write_bytes(os.urandom(5000))
    source.right(volume.snapshot("one"))
    repository = source.runs.repository
    (row,) = (r for r in repository.places.segments() if r.segment_class is SegmentClass.DATA)
    repository.folder.segment_path(row.segment_id).unlink()
    repository.close()
    second = source.right(volume.snapshot("two"))  # though nothing changed
    assert (second.verdict, second.files_reused) == ("HINT", 0), source.runs.notices
    assert verify(repository, level="structure").damages == []
    third = source.right(volume.snapshot("three"))
    assert (third.verdict, third.files_reused) == ("EXACT", 3), source.runs.notices


def test_the_rounds_of_a_fuzz(volume: Volume, source: Source) -> None:
    fuzz(volume, source, rounds=80, seed=1)


@pytest.mark.deep
@pytest.mark.parametrize("seed", range(2, 5))
def test_many_rounds_of_a_fuzz(volume: Volume, source: Source, seed: int) -> None:
    fuzz(volume, source, rounds=80, seed=seed)


def fuzz(volume: Volume, source: Source, *, rounds: int, seed: int) -> None:
    """Random operations, each round ingested by its changes and compared byte for byte; between
    rounds the file system is balanced, defragmented and deduplicated in turn.
    """
    dice = random.Random(seed)
    makers: list[Callable[[], object]] = [
        lambda: progs("balance", "start", "--full-balance", volume.root),
        lambda: progs("filesystem", "defragment", "-r", "-czstd", volume.live),
        lambda: deduplicate(volume.live),
        lambda: progs("filesystem", "sync", volume.root),
    ]
    tree = Tree(volume.live, dice)
    source.right(volume.snapshot("0"))
    for number in range(1, rounds + 1):
        for _ in range(dice.randint(1, 25)):
            tree.step()
        name = dice.choice([*OPERATIONS])
        place = volume.live / f"matrix-{number}"
        place.mkdir()
        OPERATIONS[name].before(place)
        if dice.random() < 0.3:
            source.right(volume.snapshot(f"{number}-before"))
            OPERATIONS[name].change(place)
        makers[number % len(makers)]()
        summary = source.right(volume.snapshot(str(number)))
        assert summary.verdict == "EXACT", source.runs.notices
        if number % FUZZ_ROUNDS_KEPT == 0:  # it would only grow
            name = dice.choice(sorted(os.listdir(volume.live)))
            shutil.rmtree(volume.live / name, ignore_errors=True)


def deduplicate(top: Path) -> None:
    """Let files of the same content below a directory share their blocks; two at least do."""
    for name in ("twin-a", "twin-b"):
        (top / name).write_bytes(b"the same in both" * 2048)
    first: dict[bytes, Path] = {}
    shared = 0
    for path in sorted(top.rglob("*")):
        if path.is_symlink() or not path.is_file() or path.stat().st_size < 4096:
            continue
        twin = first.setdefault(path.read_bytes(), path)
        if not path.samefile(twin):
            with suppress(OSError):  # of files without copy on write
                shared += dedupe(twin, path, path.stat().st_size)
    assert shared >= 32 * KIB


class Tree:
    """A tree that random steps change."""

    def __init__(self, root: Path, dice: random.Random) -> None:
        self._root = root
        self._dice = dice

    def step(self) -> None:
        """One change; where it cannot be made, none."""
        steps: list[Callable[[], object]] = [
            self._create, self._create, self._write, self._truncate, self._remove, self._move,
            self._make_directory, self._link, self._chmod, self._xattr, self._copy,
        ]  # fmt: skip
        try:
            self._dice.choice(steps)()
        except (OSError, IndexError):
            return

    def _some(self, *, directory: bool) -> Path:
        found = [self._root] if directory else []
        for folder, directories, files in os.walk(self._root):
            names = directories if directory else files
            found += [Path(folder, name) for name in sorted(names)]
        return self._dice.choice(found)

    def _new(self) -> Path:
        return self._some(directory=True) / f"n{self._dice.randint(0, 60)}"

    def _create(self) -> None:
        size = self._dice.choice([0, 10, 5000, 100_000])
        self._new().write_bytes(self._dice.randbytes(size))

    def _write(self) -> None:
        path = self._some(directory=False)
        stat = path.stat()
        write_at(path, self._dice.randint(0, stat.st_size), self._dice.randbytes(100))
        if self._dice.random() < 0.3:
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    def _truncate(self) -> None:
        os.truncate(self._some(directory=False), self._dice.randint(0, 60_000))

    def _remove(self) -> None:
        if self._dice.random() < 0.8:
            self._some(directory=False).unlink()
        else:
            path = self._some(directory=True)
            if path != self._root:
                shutil.rmtree(path)

    def _move(self) -> None:
        directory = self._dice.random() < 0.5
        self._some(directory=directory).rename(self._new())

    def _make_directory(self) -> None:
        self._new().mkdir()

    def _link(self) -> None:
        self._new().hardlink_to(self._some(directory=False))

    def _chmod(self) -> None:
        self._some(directory=self._dice.random() < 0.5).chmod(self._dice.choice([0o600, 0o711]))

    def _xattr(self) -> None:
        os.setxattr(
            self._some(directory=self._dice.random() < 0.5), "user.x", self._dice.randbytes(3)
        )

    def _copy(self) -> None:
        shutil.copyfile(self._some(directory=False), self._new())


@pytest.mark.parametrize(("seconds", "streams"), [(60.0, 1), (0.0, 2)])
def test_a_short_job_of_exact_changes_starts_no_process(
    volume: Volume,
    source: Source,
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
    streams: int,
) -> None:
    monkeypatch.setattr("ingest.dispatcher.ALONE_SECONDS", seconds)
    for number in range(100):
        (volume.live / f"{number}").mkdir()
        (volume.live / f"{number}" / "file").write_bytes(b"one")
    source.right(volume.snapshot("one"))
    for number in range(100):
        (volume.live / f"{number}" / "file").write_bytes(b"two")
    summary = source.right(volume.snapshot("two"), streams=2)
    assert (summary.verdict, summary.streams) == ("EXACT", streams)


# -- large files ----------------------------------------------------------------------------------


def test_of_a_large_file_only_what_changed_is_read(volume: Volume, source: Source) -> None:
    large = volume.live / "large"
    with large.open("wb") as file:
        for _ in range(100):
            file.write(os.urandom(MIB))
    source.right(volume.snapshot("one"))
    write_at(large, 50 * MIB, os.urandom(4096))
    write_at(large, 90 * MIB, os.urandom(4096))
    summary = source.right(volume.snapshot("two"))
    assert summary.verdict == "EXACT"
    assert 0 < summary.bytes_read < 5 * MIB
    os.truncate(large, 80 * MIB)
    summary = source.right(volume.snapshot("three"))
    assert summary.bytes_read < 3 * MIB


def test_without_the_kept_snapshot_a_changed_file_is_read_whole(
    volume: Volume, source: Source
) -> None:
    (volume.live / "large").write_bytes(os.urandom(80 * MIB))
    source.right(volume.snapshot("one"), keep_snapshot=False)
    assert kept(volume, "held") == []
    write_at(volume.live / "large", 50 * MIB, b"x")
    summary = source.right(volume.snapshot("two"), keep_snapshot=False)
    assert (summary.verdict, summary.bytes_read) == ("EXACT", 80 * MIB)


def test_what_was_only_read_is_not_read_again(volume: Volume, source: Source) -> None:
    for name in ("a", "b", "c"):
        (volume.live / name).mkdir()
        (volume.live / name / "file").write_bytes(os.urandom(50_000))
    source.right(volume.snapshot("one"))
    for path in volume.live.rglob("*"):
        stat = path.stat()
        os.utime(path, ns=(1, stat.st_mtime_ns))  # changes the ctime, too
    source.right(volume.snapshot("two"))
    for path in volume.live.rglob("*"):
        if path.is_file():
            assert path.read_bytes()
        else:
            assert os.listdir(path)
    assert (volume.live / "a" / "file").stat().st_atime_ns > 1, "no access time is kept"
    two = volume.root / "two"
    assert changes(volume.snapshot("two-again"), since_of(two)) != {}
    summary = source.right(volume.snapshot("three"))
    assert (summary.verdict, summary.files_reused, summary.bytes_read) == ("EXACT", 3, 0)


# -- when it must not be exact --------------------------------------------------------------------


def kept(volume: Volume, kind: str) -> list[Path]:
    return sorted((volume.root / ".repo-snapshots").glob(f".repo-{kind}-*"))


def points_of(source: Source) -> list[Point]:
    return source.runs.repository.points()


def declined(source: Source, summary: IngestSummary, why: str) -> None:
    assert summary.verdict == "HINT"
    assert [n for n in source.runs.notices if "comparing every file" in n and why in n], (
        source.runs.notices
    )


def rewound(volume: Volume, source: Source) -> Path:
    """A point is made; then the file system becomes an older image of itself, and goes on."""
    file = volume.live / "file"
    file.write_bytes(b"one")
    (volume.live / "other").write_bytes(b"other")
    volume.snapshot("before")
    image = volume.filesystem.image
    assert image is not None
    volume.filesystem.unmount()
    shutil.copyfile(image, image.with_suffix(".old"))
    volume.filesystem.mount()
    for number in range(5):
        volume.snapshot(f"time-passes-{number}")
    source.right(volume.snapshot("point"))
    volume.filesystem.unmount()
    shutil.copyfile(image.with_suffix(".old"), image)
    image.with_suffix(".old").unlink()
    volume.filesystem.mount()
    file.write_bytes(b"two")
    for number in range(20):
        volume.snapshot(f"time-passes-again-{number}")
    return volume.snapshot("after")


def test_a_file_system_that_was_rewound_is_found_out(volume: Volume, source: Source) -> None:
    after = rewound(volume, source)
    declined(source, source.right(after), "the mark left on the file system")


def test_without_the_anchor_rule_the_rewind_would_be_missed(
    volume: Volume, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    after = rewound(volume, source)
    monkeypatch.setattr(change_source, "anchor_stands", lambda *_: True)
    monkeypatch.setattr("ingest.descent.EXACT_AUDITS_MAX", 0)  # it would be found out by chance
    source.runs.source = after
    assert source.runs.run(source_ids=["volume"]).verdict == "EXACT"
    assert source.differences(after), "the trap is none"


def test_a_deleted_anchor(volume: Volume, source: Source) -> None:
    (volume.live / "file").write_bytes(b"one")
    source.right(volume.snapshot("one"))
    (anchor,) = kept(volume, "anchor")
    volume.delete(anchor)
    (volume.live / "file").write_bytes(b"two")
    declined(source, source.right(volume.snapshot("two")), "the mark left on the file system")
    (volume.live / "file").write_bytes(b"three")
    assert source.right(volume.snapshot("three")).verdict == "EXACT"


def test_the_anchor_of_the_point_before_still_serves(volume: Volume, source: Source) -> None:
    (volume.live / "file").write_bytes(b"one")
    source.right(volume.snapshot("one"))
    older = kept(volume, "anchor")
    (volume.live / "file").write_bytes(b"two")
    source.right(volume.snapshot("two"))
    (newest,) = set(kept(volume, "anchor")) - set(older)
    volume.delete(newest)
    (volume.live / "file").write_bytes(b"three")
    assert source.right(volume.snapshot("three")).verdict == "EXACT"
    assert source.runs.newest.base == source.runs.repository.points()[0].id


def test_a_forked_clone(volume: Volume, source: Source) -> None:
    (volume.live / "file").write_bytes(b"one")
    one = volume.snapshot("one")
    source.right(one)
    fork = volume.fork("fork", one)
    (fork / "file").write_bytes(b"fork")
    (volume.live / "file").write_bytes(b"live")
    declined(source, source.right(volume.snapshot("two", fork)), "of another subvolume")
    # Of the first subvolume there is an older base.
    summary = source.right(volume.snapshot("three"))
    assert (summary.verdict, summary.points[0].base) == ("EXACT", points_of(source)[0].id)


def test_a_snapshot_that_was_writable_for_a_while(volume: Volume, source: Source) -> None:
    (volume.live / "file").write_bytes(b"one")
    one = volume.snapshot("one")
    source.right(one)
    volume.set_read_only(one, to=False)
    (one / "file").write_bytes(b"changed in the snapshot")
    volume.set_read_only(one, to=True)
    declined(source, source.right(one), "was written to")
    (volume.live / "file").write_bytes(b"two")
    two = volume.snapshot("two")
    # The newest base is no base for an exact list, the one before is.
    summary = source.right(two)
    assert (summary.verdict, summary.points[0].base) == ("EXACT", points_of(source)[0].id)


def test_a_snapshot_that_was_writable_is_no_base(volume: Volume, source: Source) -> None:
    (volume.live / "file").write_bytes(b"one")
    one = volume.fork("one", volume.live)
    (one / "file").write_bytes(b"changed in the snapshot")
    volume.set_read_only(one, to=True)
    source.right(one)
    (volume.live / "file").write_bytes(b"two")
    declined(source, source.right(volume.snapshot("two")), "was written to")


def test_a_received_subvolume(volume: Volume, source: Source, tmp_path: Path) -> None:
    (volume.live / "file").write_bytes(b"one")
    (volume.live / "other").write_bytes(b"other")
    stream = tmp_path / "stream"
    received = volume.root / "received"
    received.mkdir()
    progs("send", "-f", stream, volume.snapshot("one"))
    progs("receive", "-f", stream, received)
    source.right(received / "one")
    (volume.live / "file").write_bytes(b"two")
    volume.snapshot("two")
    progs("send", "-p", volume.root / "one", "-f", stream, volume.root / "two")
    progs("receive", "-f", stream, received)
    declined(source, source.right(received / "two"), "received")


def test_an_older_snapshot_than_the_base(volume: Volume, source: Source) -> None:
    (volume.live / "file").write_bytes(b"one")
    one = volume.snapshot("one")
    (volume.live / "file").write_bytes(b"two")
    source.right(volume.snapshot("two"))
    declined(source, source.right(one), "older than the base")


def test_other_exclusions_than_those_of_the_base(volume: Volume, source: Source) -> None:
    (volume.live / "file").write_bytes(b"one")
    (volume.live / "other").write_bytes(b"other")
    source.right(volume.snapshot("one"))
    summary = source.runs.run(
        paths=[str(volume.snapshot("two"))], source_ids=["volume"], exclude=["o*"]
    )
    declined(source, summary, "left out")
    assert summary.files == 1


def test_a_snapshot_of_a_snapshot_is_of_the_same_history(volume: Volume, source: Source) -> None:
    (volume.live / "file").write_bytes(b"one")
    one = volume.snapshot("one")
    source.right(volume.snapshot("one-again", one))
    (volume.live / "file").write_bytes(b"two")
    two = volume.snapshot("two")
    assert source.right(volume.snapshot("two-again", two)).verdict == "EXACT"
    assert source.right(two).verdict == "EXACT", "the same state once more"


def test_changes_within_one_tick_of_the_clock(volume: Volume) -> None:
    """Size, times and inode may be the same in two snapshots and the content not."""
    path = volume.live / "file"
    path.write_bytes(bytes(4096))
    for number in range(40):
        write_at(path, 0, number.to_bytes(4, "little"))
        old = volume.snapshot(f"{number}-a")
        write_at(path, 0, (1000 + number).to_bytes(4, "little"))
        new = volume.snapshot(f"{number}-b")
        (found,) = changes(new, since_of(old)).values()
        assert found.names == {b"file"}
        with opened(volume.root):
            volume.delete(old)
            volume.delete(new)
