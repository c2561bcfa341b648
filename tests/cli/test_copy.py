"""`repo copy` as a user calls it: between two repositories, each with a key of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.cli.run import Runner


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """A repository with two points, and a copy of it in `there`, made by --init."""
    home = Runner(tmp_path_factory.mktemp("home"))
    home.environ |= {"REPO_LOCATION": str(home.home / "here"), "REPO_KEY_FILE": "key"}
    source = home.home / "source"
    source.mkdir()
    (source / "file").write_bytes(b"first\n" * 1000)
    assert home("init", "--key-file", "key").status == 0
    assert home("ingest", "source", "--tag", "one").status == 0
    (source / "file").write_bytes(b"second\n" * 1000)
    assert home("ingest", "source", "--tag", "two").status == 0
    made = home("copy", "--to", "there", "--init", "--to-key-file", "other", "--json", "--verify")
    assert made.status == 0, made.err
    summary = made.objects()[-1]
    assert (summary["event"], len(summary["points"]), summary["points_there"]) == ("summary", 2, 0)
    return home


def test_the_copy_restores_the_same(home: Runner) -> None:
    there = ("-r", "there", "--key-file", "other")
    assert home("restore", "latest", "--to", "out", *there).status == 0
    assert (home.home / "out" / "file").read_bytes() == b"second\n" * 1000
    assert home("verify", "--data", *there).status == 0
    here = [line["received"] for line in home("points", "--json").objects()]
    copies = home("points", "--json", *there).objects()
    assert [line["received"] for line in copies] == here
    assert [line["origin"]["point"] for line in copies] == [
        line["point"] for line in home("points", "--json").objects()
    ]
    assert "Copy of" in home("show", "latest", *there).out


def test_again_there_is_nothing_to_do(home: Runner) -> None:
    for environ in ({"REPO_TO_KEY_FILE": "other"}, {"REPO_TO_PASSWORD": "wrong"}):
        ran = home("copy", "--to", "there", environ=environ)
        assert ran.status == (0 if "REPO_TO_KEY_FILE" in environ else 11), ran.err
    ran = home("copy", "--to", "there", "--init", "--to-key-file", "other")
    assert "Copied 0 points" in ran.out
    assert "2 points there already" in ran.out


def test_a_dry_run_makes_nothing(home: Runner) -> None:
    ran = home("copy", "--to", "nowhere", "--dry-run", "--init", "--to-key-file", "other")
    assert ran.status == 10
    assert not (home.home / "nowhere").exists()


def test_points_are_chosen(home: Runner) -> None:
    third = ("--to", "third", "--init", "--to-key-file", "third.key")
    ran = home("copy", *third, "--tag", "two", "--until", "2000-01-01", "--json")
    assert ran.objects()[-1]["points"] == []
    ran = home("copy", *third, "--tag", "two", "--since", "2000-01-01", "--json")
    assert len(ran.objects()[-1]["points"]) == 1
    ran = home("copy", "latest", *third, "--json")
    assert ran.objects()[-1]["points_there"] == 1


def test_each_side_says_which_it_is(home: Runner) -> None:
    def ends(status: int, text: str, *words: str | Path) -> None:
        ran = home("copy", *words)
        assert (ran.status, text in ran.line()) == (status, True), ran.err

    other = ("--to-key-file", "other")
    ends(10, "the target: there is no repository here (", "--to", "nowhere", *other)
    ends(10, "the origin: there is no repository here (", "-r", "nowhere", "--to", "there", *other)
    ends(11, "the target: ", "--to", "there", "--to-key-file", "key")
    ends(11, "does not open with REPO_KEY_FILE", "--to", "there")
    ends(11, "the origin: ", "--to", "there", *other, "--key-file", "other")
    ends(2, "same repository", "--to", "here")
    ends(2, "no such point", "0123", "--to", "there", *other)
    ends(2, "is not a time", "--to", "there", *other, "--since", "soon")
    ends(2, "more than one key", "--to", "there", *other, "--to-password-file", "key")
    (home.home / "full").write_text("not a folder")
    ends(12, "the target: cannot make", "--to", "full/there", "--init", *other)


def test_a_damaged_origin_is_copied_as_far_as_it_goes(home: Runner, tmp_path: Path) -> None:
    shutil.copytree(home.home / "here", tmp_path / "here")
    shutil.copy(home.home / "key", tmp_path / "key")
    hurt = Runner(tmp_path)
    hurt.environ |= {"REPO_LOCATION": "here", "REPO_KEY_FILE": "key"}
    for segment in (tmp_path / "here").glob("segments/*/*"):
        data = bytearray(segment.read_bytes())
        if data[10] == 1:  # of the class data
            segment.chmod(0o600)
            data[150] ^= 1
            segment.write_bytes(data)
    ran = hurt("copy", "--to", "there", "--init", "--to-key-file", "other")
    assert ran.status == 4, ran.err
    assert "its copy is marked" in ran.err
    there = ("-r", "there", "--key-file", "other")
    assert "1 file" in hurt("points", *there).out
    assert "Lost" in hurt("show", "latest", *there).out
    restored = hurt("restore", "latest", "--to", "out", *there)
    assert restored.status == 4
    assert "is marked: 1 file" in restored.err
    assert not (tmp_path / "out" / "file").exists() or not (tmp_path / "out" / "file").read_bytes()
