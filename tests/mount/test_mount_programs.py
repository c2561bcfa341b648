"""Programs at work in a mounted point: git, sqlite, an executable, a file system in an image."""

from __future__ import annotations

import mmap
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.mounting import Mount, mounted
from tests.support import need
from tests.support.command import Repository


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("programs")


@pytest.fixture(scope="module")
def source(folder: Path) -> Path:
    """A tree with a git clone, a database, a program and an image of a file system."""
    need.fuse()
    tree = folder / "source"
    (tree / "git").mkdir(parents=True)
    _git_repository(tree / "git")
    with sqlite3.connect(tree / "data.sqlite") as database:
        database.execute("create table t (number integer, text text)")
        rows = ((number, "text " * (number % 50)) for number in range(20_000))
        database.executemany("insert into t values (?, ?)", rows)
    database.close()
    shutil.copy(need.tool("true"), tree / "program")
    (tree / "script").write_text("#!/bin/sh\necho works\n")
    (tree / "script").chmod(0o755)
    content = folder / "content"
    content.mkdir()
    for number in range(50):
        (content / f"file-{number}").write_bytes(os.urandom(10_000))
    with (tree / "image.ext4").open("wb") as image:
        image.truncate(32 << 20)
    make = need.tool("mkfs.ext4")
    subprocess.run(
        [make, "-q", "-d", content, tree / "image.ext4"], check=True, capture_output=True
    )
    return tree


def _git_repository(path: Path) -> None:
    (path / "src").mkdir()
    for number in range(40):
        (path / "src" / f"file-{number}.c").write_text(f"int f{number};\n" * 100)
    identity = ["-c", "user.name=n", "-c", "user.email=e@x"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"], ["gc", "-q"]):
        subprocess.run(
            [need.tool("git"), *identity, *words], cwd=path, check=True, capture_output=True
        )


@pytest.fixture(scope="module")
def mount(folder: Path, source: Path) -> Iterator[Mount]:
    repository = Repository.make(folder / "repo")
    repository.run("ingest", source)
    with mounted(repository, folder / "mnt") as made:
        yield made


def _git(mount: Mount, *words: str) -> str:
    return subprocess.run(
        [need.tool("git"), "-c", "safe.directory=*", *words],
        cwd=mount.path / "git",
        env=os.environ | {"GIT_OPTIONAL_LOCKS": "0"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_git_finds_a_clean_tree(mount: Mount) -> None:
    assert _git(mount, "status", "--porcelain") == ""
    assert "first" in _git(mount, "log", "--oneline")


def test_git_finds_its_objects_whole(mount: Mount) -> None:
    _git(mount, "fsck", "--full", "--strict")


@pytest.mark.parametrize("how", ["mode=ro", "immutable=1"])
def test_sqlite_answers_queries(mount: Mount, how: str) -> None:
    with sqlite3.connect(f"file:{mount.path}/data.sqlite?{how}", uri=True) as database:
        assert database.execute("select count(*), sum(number) from t").fetchone() == (
            20_000,
            sum(range(20_000)),
        )
        assert database.execute("pragma integrity_check").fetchone() == ("ok",)
    database.close()


def test_a_program_runs(mount: Mount) -> None:
    assert subprocess.run([mount.path / "program"], check=False).returncode == 0
    done = subprocess.run([mount.path / "script"], capture_output=True, text=True, check=True)
    assert done.stdout == "works\n"


@pytest.mark.parametrize("access", [mmap.ACCESS_READ, mmap.ACCESS_COPY])
def test_memory_maps_show_the_content(source: Path, mount: Mount, access: int) -> None:
    with (
        (mount.path / "data.sqlite").open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=access) as mapped,
    ):
        assert mapped[:] == (source / "data.sqlite").read_bytes()


def test_a_file_system_inside_can_be_mounted(folder: Path, mount: Mount) -> None:
    need.loop_devices()
    inner = folder / "inner"
    inner.mkdir()
    subprocess.run(["mount", "-o", "loop,ro,noload", mount.path / "image.ext4", inner], check=True)
    try:
        for path in sorted((folder / "content").iterdir()):
            assert (inner / path.name).read_bytes() == path.read_bytes()
    finally:
        subprocess.run(["umount", inner], check=True)
