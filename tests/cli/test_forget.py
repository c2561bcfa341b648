"""`repo forget`, `undelete`, `pin` and `unpin` as a user calls them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.run import Runner


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    home = Runner(tmp_path_factory.mktemp("home"))
    home.environ |= {"REPO_LOCATION": str(home.home / "r"), "REPO_KEY_FILE": str(home.home / "k")}
    assert home("init", "--key-file", "k").status == 0
    source = home.home / "source"
    source.mkdir()
    for number in range(4):
        (source / "file").write_text(f"version {number}")
        assert home("ingest", "source").status == 0
    return home


@pytest.fixture
def home(original: Runner) -> Runner:
    """The repository with all its four points."""
    original("undelete", "--all")
    return original


def ids(home: Runner) -> list[str]:
    return [point["point"] for point in home("points", "--json").objects()]


def test_a_dry_run_shows_which_rule_keeps_each_point(home: Runner) -> None:
    before = ids(home)
    ran = home("forget", "--keep-last", "2", "--dry-run")
    assert ran.status == 0
    assert [line.split()[0] for line in ran.out.splitlines()[1:5]] == [i[:8] for i in before]
    assert "last 2" in ran.out
    assert "no rule keeps it" in ran.out
    assert ran.out.splitlines()[-1] == "Would forget 2 points, keep 2."
    assert ids(home) == before
    events = home("forget", "--keep-last", "2", "-n", "--json").objects()
    assert [e["reasons"] for e in events[:-1]] == [[], [], ["last 2"], ["last 1"]]
    assert events[-1]["forgotten"] == before[:2]


def test_forgotten_points_come_back(home: Runner) -> None:
    before = ids(home)
    assert home("forget", "--keep-last", "2").status == 0
    assert ids(home) == before[2:]
    assert [p["point"] for p in home("undelete", "--json").objects()] == before[:2]
    assert home("undelete", before[0][:12]).out == f"Took {before[0][:8]} back.\n"
    assert ids(home) == [before[0], *before[2:]]
    assert home("undelete", "00ff").status == 2


def test_most_of_a_source_needs_yes(home: Runner) -> None:
    before = ids(home)
    ran = home("forget", "--keep-last", "1")
    assert ran.status == 2
    assert "3 of 4 points" in ran.err
    assert "--yes" in ran.err
    assert ids(home) == before
    assert home("forget", "--keep-last", "1", "--yes").status == 0
    assert ids(home) == before[3:]


def test_points_are_forgotten_by_name_unless_they_are_pinned(home: Runner) -> None:
    before = ids(home)
    assert home("pin", before[0], "--reason", "audit").out == f"Pinned {before[0][:8]}.\n"
    assert "audit" in home("show", before[0]).out
    refused = home("forget", before[0])
    assert refused.status == 2
    assert "pinned: audit" in refused.err
    assert "pinned" in home("forget", "--keep-last", "1", "-n").out
    assert home("unpin", before[0]).out == f"Unpinned {before[0][:8]}.\n"
    assert home("forget", before[0]).status == 0
    assert ids(home) == before[1:]


def test_a_hold_is_not_taken_away(home: Runner) -> None:
    newest = ids(home)[-1]
    assert home("pin", newest, "--until", "2020-01-01").status == 2
    held = home("pin", newest, "--until", "2199-01-01", "--json")
    assert held.objects()[0]["until"].startswith("2199-01-01")
    assert home("unpin", newest).status == 2
    assert home("forget", newest).status == 2


def test_a_minimum_age_keeps_young_points(home: Runner) -> None:
    ran = home("forget", "--keep-last", "1", "--min-age", "1d", "--json")
    assert ran.objects()[-1]["forgotten"] == []
    assert home("forget", "--keep-last", "1", "--min-age", "1m").status == 2


@pytest.mark.parametrize(
    "words",
    [[], ["--keep-last", "0"], ["latest", "--keep-last", "1"], ["--keep-within", "soon"]],
    ids=" ".join,
)
def test_what_would_forget_everything_is_no_rule(home: Runner, words: list[str]) -> None:
    before = ids(home)
    assert home("forget", *words).status == 2
    assert ids(home) == before


def test_nothing_of_a_pin_is_readable_in_the_store(home: Runner, tmp_path: Path) -> None:
    newest = ids(home)[-1]
    home("pin", newest, "--reason", "a secret reason")
    held = (home.home / "r" / "points" / f"{newest}.pin").read_bytes()
    assert b"secret" not in held
