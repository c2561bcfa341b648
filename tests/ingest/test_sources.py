"""What belongs to a source: exclusions, other file systems, the repository itself, rights."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from repo.types import KIB, MIB
from tests.support import command, loopfs, need, readback

POWERLESS = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
"""In front of a command: still root by number, but with no right to pass over modes."""


def plant(root: Path, *paths: str) -> Path:
    """Make files of these paths, each with its path as content."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(path)
    return root


def names(made: command.Repository) -> set[str]:
    """The paths of the newest point."""
    with readback.opened(made) as repository:
        held = readback.content(repository, repository.points()[-1])
        return {os.fsdecode(path.removeprefix(b"/")) for path in held if path}


def test_what_is_excluded_is_not_in_the_point(made: command.Repository, tmp_path: Path) -> None:
    source = plant(
        tmp_path / "source", "a.o", "keep.o", "sub/b.o", "sub/c", "cache/x", "deep/cache/y", "z"
    )
    (tmp_path / "rules").write_text("# of a file\n/cache\nz\n")
    made.run(
        "ingest", source, "--exclude-from", tmp_path / "rules", "--exclude", "*.o",
        "--exclude", "!keep.o",
    )  # fmt: skip
    assert names(made) == {"keep.o", "sub", "sub/c", "deep", "deep/cache", "deep/cache/y"}


def test_caches_that_are_tagged(made: command.Repository, tmp_path: Path) -> None:
    source = plant(tmp_path / "source", "cache/a", "cache/deep/b", "false/c", "d")
    tag = b"Signature: 8a477f597d28d172789f06886806bc55\n# comment"
    (source / "cache" / "CACHEDIR.TAG").write_bytes(tag)
    (source / "false" / "CACHEDIR.TAG").write_bytes(tag[1:])
    made.run("ingest", source, "--exclude-caches")
    assert names(made) == {"cache", "cache/CACHEDIR.TAG", "false", "false/c", "d"} | {
        "false/CACHEDIR.TAG"
    }
    made.run("ingest", source)
    assert "cache/deep/b" in names(made)


# -- file systems -------------------------------------------------------------------------------


def test_another_file_system_is_entered_unless_told_otherwise(
    made: command.Repository, tmp_path: Path
) -> None:
    source = plant(tmp_path / "source", "here/file")
    with loopfs.mounted("tmpfs", source, size_bytes=MIB) as filesystem:
        plant(filesystem.path, "there/file")
        made.run("ingest", source)
        assert "tmpfs-mounted/there/file" in names(made)
        with readback.opened(made) as repository:
            assert readback.differences(repository, repository.points()[-1], source) == []
        made.run("ingest", source, "--one-file-system")
        assert names(made) == {"here", "here/file", "tmpfs-mounted"}
        with readback.opened(made) as repository:
            root = repository.points()[-1].root
            entry = repository.tree.resolve(root, b"tmpfs-mounted")
            assert entry.absent == "another file system"
            assert not entry.node


@contextmanager
def mounted_at(kind: str, place: Path) -> Iterator[None]:
    need.root()
    place.mkdir(parents=True)
    subprocess.run([need.tool("mount"), "-t", kind, kind, place], check=True)
    try:
        yield
    finally:
        subprocess.run([need.tool("umount"), place], check=True)


def test_a_pseudo_file_system_is_not_entered_and_that_is_said(
    made: command.Repository, tmp_path: Path
) -> None:
    source = plant(tmp_path / "source", "file")
    with mounted_at("proc", source / "proc"):
        result = made.run("ingest", source)
        assert names(made) == {"file", "proc"}
    assert "proc: not entered, a proc file system" in result.err


def test_equal_inode_numbers_of_two_file_systems_are_no_hard_links(
    made: command.Repository, tmp_path: Path
) -> None:
    source = plant(tmp_path / "source", "file")
    (source / "a").mkdir()
    (source / "b").mkdir()
    inodes = []
    with (
        loopfs.mounted("tmpfs", source / "a", size_bytes=MIB) as a,
        loopfs.mounted("tmpfs", source / "b", size_bytes=MIB) as b,
    ):
        for filesystem in (a, b):
            (filesystem.path / "one").write_text(str(filesystem.path))
            os.link(filesystem.path / "one", filesystem.path / "two")
            inodes.append((filesystem.path / "one").stat().st_ino)
        assert inodes[0] == inodes[1], "the case that is to be tested"
        made.run("ingest", source)
        with readback.opened(made) as repository:
            assert readback.differences(repository, repository.points()[-1], source) == []


# -- the repository and its own source ------------------------------------------------------------


def test_the_repository_inside_its_own_source_is_left_out(
    template: command.Repository, tmp_path: Path
) -> None:
    source = plant(tmp_path / "source", "file")
    made = command.Repository(source / "inside")
    made.home.mkdir(parents=True)
    shutil.copytree(template.path, made.path)
    shutil.copy2(template.key_file, made.key_file)
    for _ in range(2):
        result = made.run("ingest", source)
        assert "inside/repository: excluded, for it is the repository's own folder" in result.err
        held = names(made)
        assert {"file", "inside/key", "inside/repository"} <= held
        assert not [name for name in held if name.startswith("inside/repository/")]


def test_an_index_elsewhere_in_the_source_is_left_out_even_when_it_is_made_anew(
    made: command.Repository, tmp_path: Path
) -> None:
    source = plant(tmp_path / "source", "file")
    index = source / "index"
    for _ in range(2):
        made.run("ingest", source, "--index-dir", index)
        assert (index / "data.mdb").exists() or list(index.glob("*/data.mdb"))
        with readback.opened(made) as repository:
            held = readback.content(repository, repository.points()[-1])
        assert not [path for path in held if path.endswith(b".mdb")]
        shutil.rmtree(index)


def test_a_source_that_is_the_repository_cannot_be_read(made: command.Repository) -> None:
    result = made.run("ingest", made.path, status=1)
    assert "no source could be read" in result.err
    assert "Traceback" not in result.err


# -- several sources ------------------------------------------------------------------------------


def test_several_sources_make_several_points_and_share_segments(
    made: command.Repository, tmp_path: Path
) -> None:
    sources = [plant(tmp_path / name, "own/" + name, "shared/file") for name in "abc"]
    data = random.Random(1).randbytes(2 * MIB)
    for source in sources:
        (source / "big").write_bytes(data)
    summary = made.run("ingest", *sources, "--streams", "2", "--json").summary()
    assert [each["source"].rpartition("/")[2] for each in summary["points"]] == ["a", "b", "c"]
    assert summary["files"] == 9
    assert 2 * MIB < summary["bytes_new"] < 2 * MIB + 100 * KIB
    assert len(list(made.path.glob("segments/*/*"))) == 2, "one of data, one of nodes"
    with readback.opened(made) as repository:
        assert len(repository.points()) == len(sources)
        for point in repository.points():
            assert readback.differences(repository, point, Path(point.source_path)) == []


@pytest.mark.parametrize("streams", ["1", "3"])
def test_each_source_says_what_was_new_of_it(
    made: command.Repository, tmp_path: Path, streams: str
) -> None:
    """Who stores a chunk first counts it; what is on disk is shared out in the same proportion."""
    shared = random.Random(1).randbytes(2 * MIB)
    for name, own in (("a", 3 * MIB), ("b", 0), ("c", MIB), ("d", 0)):
        source = plant(tmp_path / name, *(f"{n}/{m}" for n in range(9) for m in range(9)))
        (source / "own").write_bytes(random.Random(name).randbytes(own))
        if name != "c":
            (source / "shared").write_bytes(shared)
    sources = [tmp_path / name for name in "abcd"]
    summary = made.run("ingest", *sources, "--streams", streams, "--json").summary()
    points = made.run("points", "--json").events()
    new = {point["source"][-1]: point["bytes_new"] for point in points}
    assert sum(new.values()) == summary["bytes_new"]
    stored = sum(point["bytes_stored"] for point in points)
    assert abs(stored - summary["bytes_stored"]) <= len(points)
    assert 3 * MIB <= new["a"] < 5 * MIB + 100 * KIB
    assert MIB <= new["c"] < MIB + 100 * KIB
    assert max(new["b"], new["d"]) < 2 * MIB + 100 * KIB
    if streams == "1":
        assert min(new["a"] - 5 * MIB, 100 * KIB - new["b"], 100 * KIB - new["d"]) > 0
    made.run("ingest", *sources, "--streams", streams)
    assert {p["bytes_new"] for p in made.run("points", "--json").events()[4:]} == {0}


def test_a_source_inside_another(made: command.Repository, tmp_path: Path) -> None:
    source = plant(tmp_path / "source", "inner/file", "outer")
    made.run("ingest", source, source / "inner")
    with readback.opened(made) as repository:
        for point in repository.points():
            assert readback.differences(repository, point, Path(point.source_path)) == []
        assert len(repository.points()) == 2


def test_two_ingests_at_the_same_time(made: command.Repository, tmp_path: Path) -> None:
    sources = [tmp_path / "a", tmp_path / "b"]
    for seed, source in enumerate(sources):
        for number in range(40):
            folder = source / f"{number}"
            folder.mkdir(parents=True)
            (folder / "own").write_bytes(random.Random(seed * 100 + number).randbytes(30 * KIB))
            (folder / "shared").write_bytes(random.Random(number).randbytes(200 * KIB))
    for _ in range(2):
        commands = [
            subprocess.Popen(
                command.words("ingest", source, "--streams", "2"),
                env=made.env,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for source in sources
        ]
        outcomes = [process.communicate(timeout=command.SECONDS_MAX)[0] for process in commands]
        assert [process.returncode for process in commands] == [0, 0], outcomes
    with readback.opened(made) as repository:
        assert len(repository.points()) == 4
        for point in repository.points():
            assert readback.differences(repository, point, Path(point.source_path)) == []
        before = readback.whole(repository)
        assert repository.rebuild_index() == ()
        assert readback.whole(repository) == before


# -- sources that cannot be read ------------------------------------------------------------------


@pytest.mark.parametrize("what", ["missing", "file", "missing/deeper", "loop"])
def test_a_source_that_is_no_directory_is_a_usage_error(
    made: command.Repository, tmp_path: Path, what: str
) -> None:
    plant(tmp_path / "good", "file")
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    result = made.run("ingest", tmp_path / "good", tmp_path / what, status=2)
    assert str(tmp_path / what) in result.err
    with readback.opened(made) as repository:
        assert repository.points() == []


def powerless(made: command.Repository, *arguments: str | Path) -> tuple[int, str]:
    """Run `repo` without root's rights."""
    need.root()
    need.tool("setpriv")
    words = [*POWERLESS, *command.words(*arguments)]
    done = subprocess.run(words, env=made.env, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_files_and_directories_that_may_not_be_read(
    made: command.Repository, tmp_path: Path
) -> None:
    source = plant(tmp_path / "source", "good", "closed", "dir/inside", "sub/closed", "sub/good")
    (source / "pipe").touch()
    for path in ("closed", "dir", "sub/closed"):
        (source / path).chmod(0)
    status, text = powerless(made, "ingest", source)
    assert status == 3, text
    assert names(made) == {"good", "sub", "sub/good", "pipe"}
    with readback.opened(made) as repository:
        point = repository.points()[-1]
        found = {
            (each.path, each.step, each.errno) for each in readback.problems(repository, point)
        }
        assert found == {(b"closed", "open", 13), (b"dir", "list", 13), (b"sub/closed", "open", 13)}
        assert point.problems_total == 3
    for path in ("closed", "dir", "sub/closed"):
        assert f"{path}: " in text
    made.run("ingest", source)
    assert "dir/inside" in names(made)


def test_files_that_may_not_be_read_in_a_directory_of_pages(
    made: command.Repository, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(9000):
        (source / f"{number:04}").write_bytes(b"%d" % (number % 50))
        if number % 300 == 7:
            (source / f"{number:04}").chmod(0)
    status, text = powerless(made, "ingest", source, "--streams", "2")
    assert status == 3, text
    closed = {b"%04d" % number for number in range(9000) if number % 300 == 7}
    with readback.opened(made) as repository:
        point = repository.points()[-1]
        assert {each.path for each in readback.problems(repository, point)} == closed
        held = {entry.name for entry in repository.tree.entries(point.root)}
        assert held == {b"%04d" % number for number in range(9000)} - closed
        for name in sorted(held)[::50]:
            assert repository.tree.lookup(point.root, name) is not None


def test_very_many_directories_that_may_not_be_read(
    made: command.Repository, tmp_path: Path
) -> None:
    """More than are kept for the last try at the end: once, the first ones were tried for ever."""
    source = plant(tmp_path / "source", "good")
    for number in range(1100):
        (source / f"{number:04}").mkdir(mode=0)
    status, text = powerless(made, "ingest", source)
    assert status == 3, text
    with readback.opened(made) as repository:
        point = repository.points()[-1]
        found = sorted(each.path for each in readback.problems(repository, point))
        assert found == [b"%04d" % number for number in range(1100)]
    assert names(made) == {"good"}


def test_a_source_whose_root_may_not_be_read(made: command.Repository, tmp_path: Path) -> None:
    good = plant(tmp_path / "good", "file")
    closed = plant(tmp_path / "closed", "file")
    closed.chmod(0)
    status, text = powerless(made, "ingest", good, closed)
    assert status == 2, text
    assert f"{closed}' is not readable" in text
    with readback.opened(made) as repository:
        assert repository.points() == []
