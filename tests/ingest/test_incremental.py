"""Incremental by base: what did not change is taken over, and nothing else is."""

from __future__ import annotations

import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from repo.format import limits
from repo.format.node import Entry
from repo.types import KIB
from tests.ingest import again
from tests.support import command, loopfs, need, readback, tracer

FOLDERS = 12


def content(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Some folders in folders, each with small files and one of several chunks."""
    top = tmp_path / "source"
    for number in range(FOLDERS):
        folder = top / f"{number % 3}" / f"{number}"
        folder.mkdir(parents=True)
        (folder / "large").write_bytes(content(300 * KIB, number))
        for small in range(4):
            (folder / f"small{small}").write_bytes(content(200 * small, number))
        (folder / "link").symlink_to("small1")
    (top / "0" / "0" / "hard").hardlink_to(top / "1" / "1" / "large")
    return top


@pytest.fixture
def runs(
    made: command.Repository, source: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[again.Runs]:
    """Runs over the source, of which the first is done."""
    again.without_racy_guard(monkeypatch)
    with again.runs(made, source) as runs:
        first = runs.right()
        assert (first.verdict, first.change_source, first.files_reused) == ("FULL", "none", 0)
        yield runs


def test_what_did_not_change_is_taken_over_whole(runs: again.Runs) -> None:
    root = runs.newest.root
    summary = runs.right()
    assert (summary.verdict, summary.change_source) == ("HINT", "walk")
    assert summary.files_reused == summary.files
    assert (summary.bytes_read, summary.bytes_new, summary.bytes_stored) == (0, 0, 0)
    assert runs.newest.root == root, "not one node is new"
    assert runs.newest.base == runs.repository.points()[0].id


def test_no_unchanged_file_is_opened(made: command.Repository, source: Path) -> None:
    """As the kernel sees it, and with the guard that a user has."""
    made.run("ingest", source)
    again.outlive_the_racy_guard(source)
    made.run("ingest", source)
    changed = source / "0" / "3" / "small2"
    changed.write_bytes(b"other")
    opened: list[str] = []
    result = tracer.run(
        command.words("ingest", source, "--streams", "2"),
        env=made.env,
        folder=made.home,
        under=[source],
        calls=tracer.READING,
        decide=lambda call: opened.append(call.path),
    )
    assert result.status == 0
    others = {path for path in opened if Path(path).is_file()} - {str(changed)}
    # One of a thousand is audited, by chance.
    audited = re.search(r"(\d+) of them audited", result.out)
    assert len(others) == (int(audited[1]) if audited else 0) <= 2
    assert str(changed) in opened


# -- the ways to change something ------------------------------------------------------------------


def rewrite(folder: Path) -> None:
    status = (folder / "small3").stat()
    (folder / "small3").write_bytes(content(600, 99))
    os.utime(folder / "small3", ns=(status.st_atime_ns, status.st_mtime_ns))


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def exchange(folder: Path) -> None:
    (folder / "small1").rename(folder / "other")
    (folder / "small2").rename(folder / "small1")
    (folder / "other").rename(folder / "small2")


def become_directory(folder: Path) -> None:
    (folder / "small1").unlink()
    (folder / "small1").mkdir()
    (folder / "small1" / "below").write_bytes(b"below")


def become_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_bytes(b"was a directory")


def retarget(folder: Path) -> None:
    (folder / "link").unlink()
    (folder / "link").symlink_to("small2")


def punch(folder: Path) -> None:
    with (folder / "large").open("r+b") as file:
        file.truncate(100 * KIB)
        file.truncate(300 * KIB)


CHANGES: dict[str, Callable[[Path], object]] = {
    "rewrite with its old mtime": rewrite,
    "append": lambda folder: append(folder / "small1"),
    "truncate": lambda folder: os.truncate(folder / "large", 10),
    "a hole in place of content": punch,
    "mode": lambda folder: (folder / "small1").chmod(0o600),
    "owner": lambda folder: os.chown(folder / "small1", 5, 6),
    "mtime": lambda folder: os.utime(folder / "small1", (1, 1)),
    "xattr": lambda folder: os.setxattr(folder / "small1", "user.x", b"y"),
    "xattr of a directory": lambda folder: os.setxattr(folder, "user.x", b"y"),
    "mode of a directory": lambda folder: folder.chmod(0o711),
    "new file": lambda folder: (folder / "new").write_bytes(b"new"),
    "new folder": lambda folder: (folder / "folder" / "below").mkdir(parents=True),
    "removed file": lambda folder: (folder / "small1").unlink(),
    "removed folder": shutil.rmtree,
    "renamed file": lambda folder: (folder / "small1").rename(folder / "a"),
    "files exchanged": exchange,
    "another file in its place": lambda folder: os.replace(folder / "small2", folder / "small3"),
    "file becomes folder": become_directory,
    "folder becomes file": become_file,
    "symlink": retarget,
    "hard link": lambda folder: (folder / "hard").hardlink_to(folder / "small1"),
    "fifo": lambda folder: os.mkfifo(folder / "fifo"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_seen(runs: again.Runs, name: str) -> None:
    need.root()
    CHANGES[name](runs.source / "1" / "4")
    before = runs.newest
    summary = runs.right()
    assert summary.files_reused >= summary.files - 7
    assert runs.newest.root != before.root
    for folder in (b"0", b"2"):
        now, then = (runs.repository.tree.lookup(p.root, folder) for p in (runs.newest, before))
        assert now == then is not None, "what did not change is the same by id"


def test_many_changes_run_after_run(runs: again.Runs) -> None:
    """A fuzz: random changes, each point byte for byte like the source."""
    rng = random.Random(4)
    names = [name for name in CHANGES if "hole" not in name]
    for round_ in range(12):
        folders = [path for path in sorted(runs.source.glob("*/*")) if path.is_dir()]
        for _ in range(rng.randrange(4)):
            folder = rng.choice(folders)
            try:
                CHANGES[rng.choice(names)](folder)
            except (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError):
                continue  # an earlier change has taken what this one needs
        if round_ % 3 == 0:
            move = rng.choice(folders)
            if move.exists():
                move.rename(runs.source / f"moved{round_}")
        runs.right(streams=1 + round_ % 2)


# -- moves ----------------------------------------------------------------------------------------


def node_of(runs: again.Runs, path: bytes) -> Entry:
    return runs.repository.tree.resolve(runs.newest.root, path)


@pytest.mark.parametrize("to", ["moved", "2/moved", "new/below/moved"])
def test_a_moved_directory_is_not_read_again(runs: again.Runs, to: str) -> None:
    before = node_of(runs, b"1/4"), node_of(runs, b"0")
    (runs.source / to).parent.mkdir(parents=True, exist_ok=True)
    (runs.source / "1" / "4").rename(runs.source / to)
    (runs.source / "0").rename(runs.source / "zero")
    summary = runs.right()
    assert (summary.bytes_read, summary.files_reused) == (0, summary.files)
    assert node_of(runs, to.encode()).node == before[0].node, "its subtree is the same by id"
    assert node_of(runs, b"zero").node == before[1].node


def test_directories_that_change_places(runs: again.Runs) -> None:
    one, two, other = (runs.source / name for name in ("1", "2", "other"))
    one.rename(other)
    two.rename(one)
    other.rename(two)
    assert runs.right().bytes_read == 0


# -- large directories ----------------------------------------------------------------------------


def test_a_directory_of_pages_changes_page_by_page(runs: again.Runs) -> None:
    many = runs.source / "many"
    many.mkdir()
    count = 2 * limits.PAGE_ENTRIES_MAX + 500
    for number in range(count):
        (many / f"{number:05}").write_bytes(b"%d" % (number // 7))
    for number in range(300):
        (many / f"folder{number:03}").mkdir()
    runs.right(streams=2)
    pages = runs.repository.tree.node(node_of(runs, b"many")).listed.pages
    assert len(pages) > 3
    assert runs.right().bytes_stored == 0
    (many / "05000").write_bytes(b"other")
    (many / "05001x").write_bytes(b"new")
    (many / "04999").unlink()
    (many / "folder007" / "below").write_bytes(b"below")
    summary = runs.right()
    assert summary.bytes_read == len(b"other" + b"new" + b"below")
    now = runs.repository.tree.node(node_of(runs, b"many")).listed.pages
    assert sum(a.id != b.id for a, b in zip(pages, now, strict=True)) == 1
    shutil.rmtree(many)
    runs.right()


def test_a_directory_grows_beyond_a_page_and_shrinks_again(runs: again.Runs) -> None:
    many = runs.source / "many"
    many.mkdir()

    def make(first: int, last: int) -> None:
        for number in range(first, last):
            (many / f"{number:05}").touch()

    make(0, 100)
    runs.right()
    make(100, limits.PAGE_ENTRIES_MAX + 100)
    assert runs.right().files_reused > 100
    for number in range(50, limits.PAGE_ENTRIES_MAX + 50):
        (many / f"{number:05}").unlink()
    assert runs.right().bytes_read == 0


# -- what a base is not believed ------------------------------------------------------------------


def test_a_file_that_changed_just_before_the_base_is_read_again(
    made: command.Repository, source: Path
) -> None:
    """It may have changed once more within one tick of the clock, after it was read."""
    with again.runs(made, source) as runs:
        runs.right()
        assert runs.right().files_reused == 0
        again.outlive_the_racy_guard(source)
        assert runs.right().files_reused == 0, "the base was made too early"
        summary = runs.right()
        assert summary.files_reused == summary.files


def test_other_exclusions_are_heeded_in_unchanged_directories(runs: again.Runs) -> None:
    def names(**request: object) -> set[bytes]:
        runs.run(**request)
        return {entry.name for entry in runs.repository.tree.entries(node_of(runs, b"1/4"))}

    everything = names()
    assert names(exclude=["small1"]) == everything - {b"small1"}
    assert names(exclude=["small2"]) == everything - {b"small2"}
    (runs.source / "1" / "4" / "CACHEDIR.TAG").write_bytes(
        b"Signature: 8a477f597d28d172789f06886806bc55"
    )
    assert names(exclude_caches=True) == {b"CACHEDIR.TAG"}
    assert names() == everything | {b"CACHEDIR.TAG"}
    runs.right()


def test_a_source_whose_clock_jumps_back(runs: again.Runs) -> None:
    """The base is from the future: nothing that is written then looks older than it."""
    later = runs.newest
    changed = runs.source / "1" / "4" / "small3"
    ctime = changed.stat().st_ctime_ns
    assert ctime < later.base_record.taken_ns
    rewrite(changed.parent)
    assert changed.stat().st_ctime_ns != ctime
    assert runs.right().bytes_read > 0


def test_a_file_system_inside_a_source(
    runs: again.Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = runs.source / "1" / "mounted"
    inside.mkdir()
    with loopfs.mounted("tmpfs", tmp_path) as filesystem:
        for number in range(3):
            (filesystem.path / f"{number}").write_bytes(content(1000, number))
        loopfs.bind(filesystem.path, inside)
        try:
            runs.right()
            assert runs.newest.base_record.volumes == 1
            assert runs.right().bytes_read == 0
        finally:
            loopfs.unbind(inside)
    summary = runs.right()
    assert summary.files == summary.files_reused


def test_the_same_source_through_another_mountpoint(
    made: command.Repository, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need.root()
    again.without_racy_guard(monkeypatch)
    other = tmp_path / "other"
    other.mkdir()
    with again.runs(made, source) as runs:
        runs.right(source_ids=["the source"])
        loopfs.bind(source, other)
        try:
            runs.source = other
            summary = runs.right(source_ids=["the source"])
        finally:
            loopfs.unbind(other)
    assert summary.files_reused == summary.files


def test_an_overlay_whose_files_are_copied_up(
    made: command.Repository, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its inode numbers change when a file is written to, and with each mount."""
    again.without_racy_guard(monkeypatch)
    with loopfs.overlay(source, tmp_path) as merged, again.runs(made, merged) as runs:
        runs.right()
        summary = runs.right()
        assert summary.files_reused == summary.files
        append(merged / "1" / "4" / "small1")
        (merged / "1" / "4" / "small2").chmod(0o600)
        summary = runs.right()
        assert summary.files - summary.files_reused in range(2, 4)


# -- which base -----------------------------------------------------------------------------------


def test_the_base_can_be_chosen(runs: again.Runs) -> None:
    first = runs.newest
    (runs.source / "1" / "4" / "small3").write_bytes(b"other")
    runs.right()
    assert runs.right(base=first.id.hex()).bytes_read == len(b"other")
    assert runs.newest.base == first.id
    summary = runs.right(base="none")
    assert (summary.verdict, summary.files_reused) == ("FULL", 0)
    assert runs.newest.base == b""


def test_another_source_is_no_base_by_itself(runs: again.Runs, tmp_path: Path) -> None:
    runs.source = runs.source / "1"
    assert runs.right().verdict == "FULL"
    assert runs.right().verdict == "HINT"


def test_two_sources_in_one_job(runs: again.Runs) -> None:
    paths = [str(runs.source), str(runs.source / "1")]
    assert runs.run(paths=paths).verdict == "FULL", "the weakest word"
    summary = runs.run(paths=paths)
    assert (summary.verdict, summary.bytes_read) == ("HINT", 0)
    for point, path in zip(summary.points, paths, strict=True):
        assert readback.differences(runs.repository, point, Path(path)) == []
