"""diff, find and versions, as a user calls them on a repository of three points."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cli.run import Runner


class Home(Runner):
    """A runner with a repository of three points of one source."""

    source: Path
    points: list[str]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("home"))
    home.environ |= {"REPO_LOCATION": str(home.home / "r"), "REPO_KEY_FILE": str(home.home / "k")}
    assert home("init", "--key-file", "k").status == 0
    home.source = home.home / "source"
    (home.source / "folder" / "inner").mkdir(parents=True)
    for name in ("one.conf", "two.conf", b"latin \xe4".decode("utf-8", "surrogateescape")):
        (home.source / "folder" / name).write_text(name, errors="surrogateescape")
    (home.source / "folder" / "inner" / "file").write_text("content")
    home.points = [_ingested(home)]
    (home.source / "folder" / "one.conf").write_text("changed")
    (home.source / "folder" / "two.conf").chmod(0o600)
    (home.source / "folder" / "inner").rename(home.source / "inner")
    (home.source / "new\nline").write_text("")
    home.points.append(_ingested(home))
    (home.source / "folder" / "one.conf").unlink()
    home.points.append(_ingested(home))
    return home


def _ingested(home: Home) -> str:
    ran = home("ingest", "source", "--source-id", "it", "--json")
    assert ran.status == 0, ran
    return str(ran.objects()[-1]["points"][0]["point"])


def test_equal_points_print_nothing(home: Home) -> None:
    for words in ([], ["--json"], ["-R"]):
        ran = home("diff", home.points[0], home.points[0][:9], *words)
        assert (ran.status, ran.out, ran.err) == (0, "", "")


def test_each_difference_is_a_line(home: Home) -> None:
    ran = home("diff", home.points[0], home.points[1])
    assert ran.status == 0
    assert ran.out.splitlines() == [
        "M folder/one.conf",
        "m folder/two.conf  (mode)",
        "> folder/inner -> inner/",
        "+ new\\nline",
    ]
    assert ran.err == "1 added, 1 changed, 1 metadata, 1 moved\n"


def test_differences_as_json(home: Home) -> None:
    ran = home("diff", home.points[0], home.points[1], "--json")
    *differences, summary = ran.objects()
    assert [(one["change"], one["path"]) for one in differences] == [
        ("changed", "folder/one.conf"),
        ("metadata", "folder/two.conf"),
        ("moved", "inner"),
        ("added", "new\nline"),
    ]
    assert differences[2]["old_path"] == "folder/inner"
    assert differences[1]["before"]["mode"] == "0644"
    assert summary == {
        "event": "summary", "added": 1, "removed": 0, "changed": 1, "metadata": 1, "moved": 1,
    }  # fmt: skip


def test_a_path_limits_a_diff(home: Home) -> None:
    ran = home("diff", home.points[0], home.points[1], "/folder/one.conf")
    assert ran.out == "M folder/one.conf\n"
    assert home("diff", home.points[0], home.points[1], "nowhere").status == 2


def test_recursive_lists_what_came_and_went(home: Home) -> None:
    ran = home("diff", home.points[1], home.points[0], "-R", "inner")
    assert ran.status == 2  # it is in one of them only
    other = home.home / "other"
    (other / "inner").mkdir(parents=True)
    (other / "inner" / "file").write_text("")
    assert home("ingest", "other", "--source-id", "other").status == 0
    ran = home("diff", home.points[2], "latest:other", "-R")
    assert "- folder/" in ran.out
    assert "- folder/two.conf" in ran.out.splitlines()


def test_find_lists_versions_with_their_newest_point(home: Home) -> None:
    ran = home("find", "*.conf", "--json", "--source", "it")
    assert [(one["point"], one["path"]) for one in ran.objects()] == [
        (home.points[2], "folder/two.conf"),
        (home.points[1], "folder/one.conf"),
        (home.points[0], "folder/one.conf"),
        (home.points[0], "folder/two.conf"),
    ]
    ran = home("find", "inner/", "--point", home.points[0])
    assert [line.split()[-1] for line in ran.out.splitlines()] == ["folder/inner/"]
    ran = home("find", "latin*", "--json", "--point", "latest:it")
    assert ran.objects()[0]["path_base64"]
    assert home("find", "nothing like it").out == ""
    assert home("find", "/").status == 2


def test_versions_of_a_path(home: Home) -> None:
    ran = home("versions", "folder/one.conf", "--json")
    assert [one["points"] for one in ran.objects()] == [[home.points[0]], [home.points[1]]]
    by_host = home("versions", os.fspath(home.source / "folder" / "two.conf"), "--json")
    assert [len(one["points"]) for one in by_host.objects()] == [1, 2]
    table = home("versions", "folder/one.conf")
    assert len(table.out.splitlines()) == 3
    assert home("versions", "never/there").status == 2
