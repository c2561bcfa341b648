"""`repo repair` as a user calls it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.cli.run import Runner


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """A repository with a point, and a copy of it that has another key."""
    home = Runner(tmp_path_factory.mktemp("home"))
    home.environ |= {"REPO_LOCATION": "here", "REPO_KEY_FILE": "key"}
    (home.home / "source").mkdir()
    (home.home / "source" / "file").write_bytes(bytes(range(256)) * 400)
    assert home("init", "--key-file", "key").status == 0
    assert home("ingest", "source").status == 0
    assert home("copy", "--to", "there", "--init", "--to-key-file", "other").status == 0
    return home


@pytest.fixture
def home(healthy: Runner, tmp_path: Path) -> Runner:
    """The like, of which the content is damaged."""
    shutil.copytree(healthy.home, tmp_path, dirs_exist_ok=True)
    home = Runner(tmp_path)
    home.environ |= {"REPO_LOCATION": "here", "REPO_KEY_FILE": "key"}
    for segment in (tmp_path / "here").glob("segments/*/*"):
        data = bytearray(segment.read_bytes())
        if data[10] == 1:  # of the class data
            segment.chmod(0o600)
            data[200] ^= 1
            segment.write_bytes(data)
    return home


def test_a_healthy_one_has_nothing_to_repair(healthy: Runner) -> None:
    ran = healthy("repair")
    assert (ran.status, "No damage found" in ran.out) == (0, True), ran.err


def test_damage_is_told_marked_and_no_news_any_more(home: Runner) -> None:
    assert home("verify", "--data").status == 4
    ran = home("repair", "--dry-run")
    assert (ran.status, "Something would be lost" in ran.out) == (4, True)
    assert home("verify", "--data").status == 4
    ran = home("repair")
    assert ran.status == 4
    assert "lost of point" in ran.out
    assert "\n  file\n" in ran.out
    assert "1 damaged file set aside" in ran.out
    ran = home("verify", "--data")
    assert (ran.status, "1 point marked, with 1 loss known" in ran.out) == (0, True), ran.out
    assert "1 file" in home("points").out
    assert "bytes of its content are lost" in home("show", "latest").out
    assert home("gc").status == 0
    assert "1 point marked" in home("gc").err
    assert home("synth", "latest", "--relayout", "--dry-run").status == 0
    ran = home("restore", "latest", "--to", "out")
    assert (ran.status, "is marked: 1 file" in ran.err) == (4, True)
    summary = home("repair", "--yes", "--json").objects()[-1]
    assert (summary["files_removed"], summary["files_aside"]) == (1, 0)
    assert summary["points_marked"] == 1


@pytest.mark.parametrize(
    "words",
    [
        ["--from", "source"],
        ["--from", "there", "--from-key-file", "other"],
        ["--from", "there", "--from", "source", "--from-key-file", "other"],
    ],
)
def test_what_is_found_elsewhere_heals(home: Runner, words: list[str]) -> None:
    ran = home("repair", *words)
    assert (ran.status, "found elsewhere" in ran.out) == (0, True), ran.out + ran.err
    assert home("verify", "--data").status == 0
    assert home("restore", "latest", "--to", "out").status == 0
    restored = (home.home / "out" / "file").read_bytes()
    assert restored == (home.home / "source" / "file").read_bytes()


def test_the_second_copy_says_that_it_is_the_one(home: Runner) -> None:
    ran = home("repair", "--from", "there")
    assert ran.status == 11
    assert "the second copy: it does not open with REPO_KEY_FILE" in ran.line()
    assert "--from-key-file" in ran.line()
    assert home("repair", "--from", "nowhere").status == 2
