"""A restore into an empty target: everything that was recorded is there again."""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from mount.entrymaker import EntryMaker
from mount.restore import RestoreProgress
from repo.errors import JobFailed, UsageError
from repo.types import KIB, MIB
from tests.mount.restoring import Store, leftovers, make_small
from tests.support import chattr, compare, loopfs, need, oddities


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


@pytest.fixture
def released(tmp_path: Path) -> Iterator[None]:
    """Clear the flags that keep a tree from being removed, in the end."""
    yield
    chattr.release(tmp_path)


@pytest.mark.usefixtures("released")
@pytest.mark.parametrize("streams", [1, 2])
def test_the_tree_of_oddities(
    store: Store, tmp_path: Path, streams: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    need.root()
    make_small(monkeypatch)
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    oddities.make(source)
    store.ingest(source)
    summary = store.restore(target, streams=streams)
    assert summary.problems == []
    assert summary.streams == streams
    assert compare.differences(source, target, holes=True) == []
    exclude = ["/deep", "/sparse/huge"]
    assert compare.rsync_differences(source, target, exclude=exclude) == []


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "tmpfs"])
def test_the_tree_of_oddities_on_other_file_systems(
    store: Store, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_small(monkeypatch)
    with loopfs.mounted(kind, tmp_path) as filesystem:
        source, target = filesystem.path / "source", filesystem.path / "target"
        source.mkdir()
        made = oddities.make(source)
        try:
            store.ingest(source)
            summary = store.restore(target, streams=2)
            assert summary.problems == []
            assert compare.differences(source, target, holes=True) == []
            again = store.restore(target, streams=2)
            assert (again.problems, again.bytes_written) == ([], 0)
            assert compare.differences(source, target, holes=True) == []
        finally:
            made.cleanup()
            chattr.release(filesystem.path)
            shutil.rmtree(source)


def test_what_the_target_cannot_hold_is_one_problem_of_its_kind(
    store: Store, tmp_path: Path
) -> None:
    need.root()
    source = tmp_path / "source"
    source.mkdir()
    for number in range(5):
        (source / f"{number}").write_bytes(b"x")
        os.setxattr(source / f"{number}", "user.note", b"x" * number)
        with (source / f"{number}").open("rb") as file:
            chattr.change(file.fileno(), add=chattr.FLAGS["nodump"])
    store.ingest(source)
    with loopfs.mounted("tmpfs", tmp_path, options="noswap,nr_inodes=1000") as filesystem:
        summary = store.restore(filesystem.path / "target")
        kinds = {(p.step, p.count) for p in summary.problems}
        found = sorted(path.read_bytes() for path in (filesystem.path / "target").iterdir())
    assert found == [b"x"] * 5
    assert kinds <= {("set the file flags of", 5), ("set an extended attribute of", 5)}
    assert summary.problems_total == 5 * len(kinds)


@pytest.mark.parametrize("streams", [1, 2])
def test_hard_links_across_many_directories(
    store: Store, tmp_path: Path, streams: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_small(monkeypatch)
    source, target = tmp_path / "source", tmp_path / "target"
    for number in range(40):
        (source / f"{number % 7}" / f"{number}").mkdir(parents=True)
    folders = sorted(path for path in source.glob("*/*"))
    shuffled = random.Random(1)
    for group in range(60):
        first = shuffled.choice(folders) / f"first-{group}"
        first.write_bytes(b"%d" % group * 1000)
        for again in range(shuffled.randrange(5)):
            os.link(first, shuffled.choice(folders) / f"again-{group}-{again}")
    store.ingest(source)
    summary = store.restore(target, streams=streams)
    assert summary.problems == []
    assert compare.differences(source, target) == []


def test_a_large_file_is_restored_in_ranges(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_small(monkeypatch, range_bytes=512 * KIB)
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    with (source / "large").open("wb") as file:
        file.write(oddities.content(1, 3 * MIB))
        file.seek(9 * MIB)
        file.write(oddities.content(2, 2 * MIB + 5))
        file.truncate(20 * MIB)
    (source / "large").chmod(0o4711)
    (source / "all-hole").touch()
    os.truncate(source / "all-hole", 30 * MIB)
    store.ingest(source)
    summary = store.restore(target, streams=2)
    assert summary.problems == []
    assert (summary.files, summary.bytes) == (2, 50 * MIB)
    assert 0 <= summary.bytes_written - (5 * MIB + 5) <= 64 * KIB  # up to the end of a block
    assert compare.differences(source, target, holes=True) == []
    assert leftovers(target) == []


def test_a_tree_deeper_than_descriptors_are_kept(store: Store, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    path = source
    for level in range(150):
        path /= "d"
        path.mkdir(parents=True)
        (path / "a").write_text(f"{level}")
        (path / "e").mkdir()  # after the way down: every level is come back to
        (path / "e" / "link").symlink_to("d" * 100)
    os.link(source / "d" / "a", path / "same")
    store.ingest(source)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(160, soft), hard))
    try:
        assert store.restore(target).problems == []
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert compare.differences(source, target) == []


def test_a_link_that_cannot_be_made_becomes_a_file_of_its_own(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    (source / "a").write_text("content")
    os.link(source / "a", source / "b")
    store.ingest(source)

    def too_many(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.EMLINK, "Too many links")

    with monkeypatch.context() as patched:
        patched.setattr(EntryMaker, "_link_new", too_many)
        summary = store.restore(target)
    assert [(p.path, p.step, p.errno) for p in summary.problems] == [(b"b", "link", errno.EMLINK)]
    assert (target / "b").read_text() == "content"
    assert summary.files == 2
    store.restore(target)
    assert compare.differences(source, target) == []


# -- what is chosen -------------------------------------------------------------------------------


@pytest.fixture
def nested(tmp_path: Path) -> Path:
    """A tree of some depth with attributes of its own."""
    source = tmp_path / "source"
    for name in ("a/b/c/one", "a/b/two", "a/three", "d/e/four", "five"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name)
    (source / "a").chmod(0o711)
    for path in [source, *source.rglob("*")]:
        os.utime(path, ns=(1, 10**18 + len(str(path))))
    return source


def _names(target: Path) -> set[str]:
    return {str(path.relative_to(target)) for path in target.rglob("*")}


def test_chosen_paths_are_restored_at_their_places(
    store: Store, tmp_path: Path, nested: Path
) -> None:
    store.ingest(nested)
    target = tmp_path / "target"
    summary = store.restore(target, paths=[b"/a/b/c", b"a/three", b"./five"])
    assert _names(target) == {"a", "a/b", "a/b/c", "a/b/c/one", "a/three", "five"}
    assert summary.files == 3
    for path in ("a", "a/b", "a/b/c", "five", "."):  # what was made on the way is as recorded
        found, recorded = (target / path).stat(), (nested / path).stat()
        assert (found.st_mode, found.st_mtime_ns) == (recorded.st_mode, recorded.st_mtime_ns)


def test_a_path_within_a_chosen_one_changes_nothing(
    store: Store, tmp_path: Path, nested: Path
) -> None:
    store.ingest(nested)
    store.restore(tmp_path / "target", paths=[b"a/b/two", b"a", b"a/b"])
    assert compare.differences(nested / "a", tmp_path / "target" / "a") == []
    assert {path.name for path in (tmp_path / "target").iterdir()} == {"a"}


@pytest.mark.parametrize("path", [b"", b"/", b"."])
def test_the_root_chosen_by_name_is_everything(
    store: Store, tmp_path: Path, nested: Path, path: bytes
) -> None:
    store.ingest(nested)
    store.restore(tmp_path / "target", paths=[b"five", path])
    assert compare.differences(nested, tmp_path / "target") == []


def test_directories_on_the_way_that_are_there_stay_as_they_are(
    store: Store, tmp_path: Path, nested: Path
) -> None:
    need.root()
    store.ingest(nested)
    target = tmp_path / "target"
    (target / "a").mkdir(parents=True)
    (target / "a").chmod(0o2750)
    os.chown(target / "a", 1234, 5678)
    store.restore(target, paths=[b"a/three"])
    status = (target / "a").stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o2750, 1234, 5678)
    assert compare.differences(nested / "a" / "b", target / "a", skip=[])  # nothing else came
    assert _names(target) == {"a", "a/three"}
    three = (target / "a" / "three").stat()
    assert (three.st_uid, three.st_gid) == (0, 0)  # not the group of the directory


@pytest.mark.parametrize("path", [b"nowhere", b"a/..", b"../a", b"five/x", b"a/b\0"])
def test_a_path_that_is_not_there_is_refused_before_anything_is_made(
    store: Store, tmp_path: Path, nested: Path, path: bytes
) -> None:
    store.ingest(nested)
    with pytest.raises(UsageError):
        store.restore(tmp_path / "target", paths=[b"a", path])
    assert not (tmp_path / "target").exists()


# -- the target -----------------------------------------------------------------------------------


def test_a_target_in_the_repository_is_refused(store: Store, nested: Path) -> None:
    store.ingest(nested)
    for place in (store.path, store.path / "segments" / "new"):
        with pytest.raises(UsageError, match="lies in the repository"):
            store.restore(place)


def test_a_target_that_is_a_file_is_refused(store: Store, tmp_path: Path, nested: Path) -> None:
    store.ingest(nested)
    (tmp_path / "target").touch()
    with pytest.raises(UsageError, match="not a directory"):
        store.restore(tmp_path / "target")
    with pytest.raises((UsageError, JobFailed)):
        store.restore(tmp_path / "target" / "below")


def test_a_target_of_several_new_levels_is_made(store: Store, tmp_path: Path, nested: Path) -> None:
    store.ingest(nested)
    store.restore(tmp_path / "x" / "y" / "z")
    assert compare.differences(nested, tmp_path / "x" / "y" / "z") == []


@pytest.mark.parametrize("there", [True, False])
def test_nothing_is_inherited_from_the_directory_around(
    store: Store, tmp_path: Path, nested: Path, there: bool
) -> None:
    need.root()
    store.ingest(nested)
    around = tmp_path / "around"
    around.mkdir()
    os.setxattr(around, "system.posix_acl_default", oddities.ACL_DEFAULT)
    os.chown(around, 0, 4321)
    around.chmod(0o2777)
    fd = os.open(around, os.O_RDONLY)
    chattr.change(fd, add=chattr.FLAGS["nodump"] | chattr.FLAGS["noatime"])
    os.close(fd)
    target = around / "target"
    if there:
        target.mkdir()
    summary = store.restore(target)
    assert summary.problems == []
    assert compare.differences(nested, target) == []


def test_the_umask_of_the_process_does_not_matter_and_comes_back(
    store: Store, tmp_path: Path, nested: Path
) -> None:
    (nested / "five").chmod(0o666)
    store.ingest(nested)
    before = os.umask(0o077)
    try:
        store.restore(tmp_path / "target")
    finally:
        assert os.umask(before) == 0o077
    assert compare.differences(nested, tmp_path / "target") == []


# -- what is told ---------------------------------------------------------------------------------


@pytest.mark.parametrize("streams", [1, 2])
def test_progress_ends_where_the_summary_is(
    store: Store, tmp_path: Path, nested: Path, streams: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_small(monkeypatch)
    store.ingest(nested)
    told: list[RestoreProgress] = []
    summary = store.restore(tmp_path / "target", streams=streams, on_progress=told.append)
    last = told[-1]
    assert (summary.files, summary.directories) == (5, 6)
    assert (last.files, last.directories, last.bytes) == (5, 6, summary.bytes)
    assert last.entries_expected == 11
    assert (
        last.bytes_expected
        == summary.bytes
        == sum(path.stat().st_size for path in nested.rglob("*") if path.is_file())
    )


def test_a_small_restore_starts_no_process(
    store: Store, tmp_path: Path, nested: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mount.restorepool.WORKER", "no.such.module")
    store.ingest(nested)
    assert store.restore(tmp_path / "target", streams=4).streams == 1
    make_small(monkeypatch)
    with pytest.raises(JobFailed, match="a worker ended at its start"):
        store.restore(tmp_path / "other", streams=2)
    assert leftovers(tmp_path / "other") == []


def test_a_directory_whose_content_is_not_in_the_point_is_made_empty(
    store: Store, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    (source / "store").mkdir(parents=True)
    (source / "file").touch()
    inside = Store(source / "store")
    inside.ingest(source)  # a repository leaves itself out
    inside.restore(tmp_path / "target")
    assert (tmp_path / "target" / "file").exists()
    assert list((tmp_path / "target" / "store" / "store" / "repository").iterdir()) == []
