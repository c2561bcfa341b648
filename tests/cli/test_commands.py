"""The commands on a real repository, as a user calls them."""

from __future__ import annotations

import dataclasses
import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.cli.run import Ran, Runner
from tools.cli.main import main

SUMMARY_KEYS = [
    "event",
    "points",
    "files",
    "directories",
    "files_reused",
    "bytes_source",
    "bytes_read",
    "bytes_new",
    "bytes_stored",
    "problems",
    "change_source",
    "verdict",
    "streams",
    "seconds",
    "plan_seconds",
    "files_audited",
]


class Home(Runner):
    """A runner with a repository, a source and what came of ingesting it."""

    first: Ran
    source: Path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("home"))
    home.environ |= {"REPO_LOCATION": str(home.home / "r"), "REPO_KEY_FILE": str(home.home / "k")}
    made = home("init", "--key-file", "k", "--label", "first")
    assert made.status == 0, made.err
    home.source = home.home / "source"
    (home.source / "folder" / "inner").mkdir(parents=True)
    (home.source / "folder" / "inner" / "file").write_bytes(b"content\n" * 1000)
    (home.source / "folder" / b"latin \xe4".decode("utf-8", "surrogateescape")).write_text("x")
    (home.source / "left.tmp").write_text("left out")
    (home.source / "link").symlink_to("folder/inner/file")
    os.mkfifo(home.source / "pipe")
    home.first = home("ingest", "--json", "--exclude", "*.tmp", "--tag", "night", "source")
    assert home.first.status == 0, home.first
    return home


def test_init_makes_a_key_file_that_only_its_owner_reads(home: Home) -> None:
    assert (home.home / "k").stat().st_mode & 0o777 == 0o600


def test_init_refuses_a_used_folder_and_leaves_no_key_file_behind(home: Home) -> None:
    ran = home("init", "--key-file", "other")
    assert ran.status == 2
    assert not (home.home / "other").exists()


def test_a_new_repository_opens_with_the_key_file_and_with_the_password(repo: Runner) -> None:
    password = {"REPO_PASSWORD": "correct horse"}
    made = repo("init", "-r", "r", "--key-file", "k", "--json", environ=password)
    assert made.status == 0
    (summary,) = made.objects()
    assert summary["key_slots"] == 2
    assert summary["key_file_made"] == "k"
    for words, environ in ((["--key-file", "k"], {}), ([], password)):
        listed = repo("key", "list", "-r", "r", "--json", *words, environ=environ)
        kinds = {slot["opens_with"] for slot in listed.objects()}
        assert kinds == {"password", "key_file"}
    assert repo("points", "-r", "r", environ={"REPO_PASSWORD": "wrong"}).status == 11


def test_the_last_line_of_ingest_is_the_summary(home: Home) -> None:
    summary = home.first.objects()[-1]
    assert list(summary) == SUMMARY_KEYS
    assert summary["event"] == "summary"
    assert [set(point) for point in summary["points"]] == [{"point", "source"}]
    assert summary["problems"] == 0
    assert summary["streams"] >= 1


def test_ingest_tells_people_what_it_did(home: Home) -> None:
    ran = home("ingest", "--exclude", "*.tmp", "--source-id", "other", "source")
    assert ran.status == 0
    first, second, third = ran.out.splitlines()
    assert first.startswith("Saved ")
    assert " read, " in second
    assert third.endswith(" of other")
    assert home("ingest", "--quiet", "--source-id", "other", "source").out == ""


def test_a_dry_run_publishes_nothing(home: Home) -> None:
    before = home("points", "--json").out
    told = home("ingest", "--dry-run", "source")
    assert told.status == 0
    assert told.out.splitlines()[0].startswith("Would save ")
    assert told.out.splitlines()[-1] == "Nothing was stored"
    counted = home("ingest", "--dry-run", "--json", "source").objects()[-1]
    assert list(counted) == SUMMARY_KEYS
    assert counted["points"] == []
    assert counted["files"] > 0
    assert home("points", "--json").out == before


def test_points_are_one_object_each(home: Home) -> None:
    listed = home("points", "--json", "--tag", "night")
    (point,) = listed.objects()
    summary = home.first.objects()[-1]
    assert {"point": point["point"], "source": point["source"]} == summary["points"][0]
    assert point["tags"] == ["night"]
    assert point["received"].endswith("Z")
    table = home("points", "--last", "1").out.splitlines()
    assert len(table) == 2
    assert table[0].split()[:3] == ["POINT", "TIME", "SOURCE"]
    assert home("points", "--source", "no such").out == ""


def first_point(home: Home) -> str:
    point = home.first.objects()[-1]["points"][0]["point"]
    assert isinstance(point, str)
    return point


def test_show_explains_a_point(home: Home) -> None:
    point = first_point(home)
    ran = home("show", point[:8])
    assert ran.status == 0
    shown = dict(line.split(None, 1) for line in ran.out.splitlines() if line[0] != " ")
    assert shown["Point"] == point
    assert shown["Tags"] == "night"
    assert shown["Problems"] == "none"
    assert datetime.fromisoformat(shown["Received"]).utcoffset() is not None
    (explained,) = home("show", "--json", point).objects()
    (listed,) = home("points", "--json", "--tag", "night").objects()
    assert explained.items() >= listed.items()


def test_ls_lists_names(home: Home) -> None:
    point = first_point(home)
    assert home("ls", point).out.splitlines() == ["folder/", "link@", "pipe|"]
    assert home("ls", point, "/folder/").out.splitlines() == ["inner/", "latin \\xe4"]
    assert home("ls", point, "folder/inner/file").out == "folder/inner/file\n"
    assert home("ls", "-R", point).out.splitlines() == [
        "folder/",
        "folder/inner/",
        "folder/inner/file",
        "folder/latin \\xe4",
        "link@",
        "pipe|",
    ]


def test_ls_lists_details(home: Home) -> None:
    lines = home("ls", "-l", first_point(home)).out.splitlines()
    assert [line.split()[0][0] for line in lines] == ["d", "l", "p"]
    assert lines[1].endswith("link -> folder/inner/file")
    (line,) = home("ls", "-l", first_point(home), "folder/inner/file").out.splitlines()
    assert "7.81 KiB" in line


def test_ls_for_programs_names_every_file_exactly(home: Home) -> None:
    objects = home("ls", "-R", "--json", first_point(home)).objects()
    by_path = {entry["path"]: entry for entry in objects}
    assert by_path["folder/inner/file"]["size"] == 8000
    assert by_path["link"]["target"] == "folder/inner/file"
    assert by_path["pipe"]["kind"] == "fifo"
    assert by_path["folder/latin \ufffd"]["path_base64"] == "Zm9sZGVyL2xhdGluIOQ="
    mtime = by_path["folder/inner/file"]["mtime"]
    stat = (home.source / "folder/inner/file").stat()
    assert mtime.endswith(f"{stat.st_mtime_ns % 10**9:09}Z")


def test_what_is_not_there(home: Home) -> None:
    for words in (["ls", "latest", "none"], ["show", "0000"], ["ls", "latest:none"]):
        ran = home(*words)
        assert ran.status == 2
        assert ran.line().startswith("repo: no such ")
    odd = home("ls", "--json", "latest", b"\xff".decode("utf-8", "surrogateescape"))
    assert odd.objects()[0]["where"] == "\ufffd"


def test_stats(home: Home) -> None:
    (held,) = home("stats", "--json", "--chunks").objects()
    assert held["bytes_stored"] == sum(held["bytes_by_class"].values()) > 0
    assert held["bytes_chunks"] >= 8001
    assert {source["source"] for source in held["sources"]} >= {"other"}
    assert "SOURCE" in home("stats").out


def test_an_index_is_built_anew(home: Home) -> None:
    (before,) = home("stats", "--json").objects()
    ran = home("rebuild-index", "--json")
    assert ran.status == 0
    assert ran.objects()[-1]["chunks"] == before["chunks"]


def test_keys_come_and_go(repo: Runner) -> None:
    repo.environ |= {"REPO_LOCATION": str(repo.home / "r"), "REPO_KEY_FILE": str(repo.home / "k")}
    assert repo("init", "--key-file", "k").status == 0
    last = repo("key", "list", "--json").objects()[0]["slot"]
    refused = repo("key", "remove", last)
    assert refused.status == 2
    assert "last key slot" in refused.line()
    added = repo("key", "add", "--new-key-file", "k2", "--label", "second", "--json")
    (slot,) = added.objects()
    assert slot["label"] == "second"
    assert repo("key", "remove", last[:6], "--key-file", "k2").status == 0
    assert repo("key", "list").status == 11
    assert repo("key", "list", "--key-file", "k2").out.splitlines()[1].split()[1:3] == [
        "key",
        "file",
    ]
    nobody = repo("key", "add", "--key-file", "k2")
    assert nobody.status == 2
    assert "--new-key-file" in nobody.line()
    two = repo("key", "add", "--new-key-file", "a", "--new-password-file", "b")
    assert two.status == 2


def test_a_password_is_added_from_a_file_or_a_command(repo: Runner, tmp_path: Path) -> None:
    repo.environ |= {"REPO_LOCATION": str(repo.home / "r"), "REPO_KEY_FILE": str(repo.home / "k")}
    assert repo("init", "--key-file", "k").status == 0
    (tmp_path / "p").write_text("one\n")
    assert repo("key", "add", "--new-password-file", "p").status == 0
    del repo.environ["REPO_KEY_FILE"]
    assert repo("points", "--password-command", "echo one").status == 0
    assert repo("points", environ={"REPO_PASSWORD": "two"}).status == 11


def test_verify_finds_nothing_in_what_is_whole(home: Home) -> None:
    for words in ([], ["--data"]):
        ran = home("verify", *words)
        assert ran.status == 0, ran
        assert ran.out.splitlines()[-1].startswith("No damage found")
    keyless = home("verify", "--keyless", "--json", environ={"REPO_KEY_FILE": ""})
    assert keyless.status == 0
    assert keyless.objects()[-1]["damages"] == 0
    assert home("verify", "--keyless", "--data").status == 2


def test_verify_names_what_suffers(home: Home) -> None:
    segments = sorted((home.home / "r" / "segments").glob("*/*"), key=lambda p: p.stat().st_mtime)
    whole = {path: path.read_bytes() for path in segments}
    for path, content in whole.items():
        path.chmod(0o600)
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    try:
        told = home("verify", "--data")
        listed = home("verify", "--data", "--json")
    finally:
        for path, content in whole.items():
            path.write_bytes(content)
    assert told.status == listed.status == 4
    assert "damage: " in told.out
    assert "next: " in told.out
    *damages, summary = [event for event in listed.objects() if event["event"] != "progress"]
    assert summary["damages"] == len(damages) > 0
    assert {event["event"] for event in damages} == {"damage"}


def test_restore_brings_back_the_tree_and_then_only_what_differs(home: Home) -> None:
    point, target = first_point(home), home.home / "back"
    first = home("restore", point, "--to", target, "--json")
    assert first.status == 0, first
    summary = first.objects()[-1]
    assert summary["point"] == point
    assert summary["problems"] == summary["damaged"] == 0
    inner = Path("folder/inner/file")
    assert (target / inner).read_bytes() == (home.source / inner).read_bytes()
    assert (target / inner).stat().st_mtime_ns == (home.source / inner).stat().st_mtime_ns
    assert os.readlink(target / "link") == "folder/inner/file"
    assert not (target / "left.tmp").exists()
    (target / "mine").write_text("stays")
    again = home("restore", "--to", target, point)
    assert again.status == 0
    assert "had their content already: 0 B written" in again.out
    assert again.out.splitlines()[-1] == f"Point {point[:8]} is in {target}"
    assert (target / "mine").exists()


def test_restore_of_a_path_puts_it_at_its_place(home: Home) -> None:
    target = home.home / "part"
    ran = home("restore", first_point(home), "/folder/inner", "--to", target, "--quiet")
    assert (ran.status, ran.out, ran.err) == (0, "", "")
    assert [str(path.relative_to(target)) for path in sorted(target.rglob("*"))] == [
        "folder",
        "folder/inner",
        "folder/inner/file",
    ]
    missing = home("restore", first_point(home), "none", "--to", home.home / "nothing")
    assert missing.status == 2
    assert not (home.home / "nothing").exists()


def test_restore_tells_its_problems(
    monkeypatch: pytest.MonkeyPatch, home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    from mount import restore

    def engine(_repository: object, _point: object, **_asked: object) -> Any:
        fields: dict[str, Any] = {f.name: 0 for f in dataclasses.fields(restore.RestoreSummary)}
        found = {"problems": problems, "problems_total": 3 * len(problems), "damaged": damaged}
        return restore.RestoreSummary(**fields | found)

    monkeypatch.setattr(restore, "restore", engine)
    in_this_process(monkeypatch, home)
    words = ["restore", first_point(home), "--to", "x"]
    problems, damaged = [restore.Problem(b"a", "write", 28, "No space left on device", 3)], 0
    assert main(words) == 3
    told = capsys.readouterr().err
    assert told == "repo: cannot write a: No space left on device (and 2 more alike)\n"
    damaged = 1
    assert main([*words, "--json"]) == 4
    problem, summary = map(json.loads, capsys.readouterr().out.splitlines())
    assert (problem["event"], problem["path"], problem["count"]) == ("problem", "a", 3)
    assert summary["damaged"] == 1


def test_a_damaged_point_is_told_and_the_others_are_listed(home: Home) -> None:
    home("ingest", "--quiet", "--source-id", "broken", "source")
    (point,) = home("points", "--json", "--source", "broken").objects()
    (file,) = (home.home / "r" / "points").glob(f"**/{point['point']}*")
    content = file.read_bytes()
    file.chmod(0o600)
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        ran = home("points", "--json")
    finally:
        file.unlink()
    assert ran.status == 4
    assert point["point"] not in {listed["point"] for listed in ran.objects()}
    assert point["point"][:8] in ran.err


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--streams", "0"], "'0' is not auto or 1..1024"),
        (["--streams", "many"], "'many' is not auto or 1..1024"),
        (["--compression", "99"], "'99' is not auto, off or 1..19"),
        (["--base", "x"], "no such point"),
        (["--source-id", "x", "source", "source"], "--source-id"),
        (["no-such-source"], "no-such-source"),
    ],
)
def test_what_ingest_refuses(words: list[str], what: str, home: Home) -> None:
    ran = home("ingest", *words, *([] if words[-1].startswith("no-") else ["source"]))
    assert ran.status == 2
    assert what in ran.line()


def in_this_process(monkeypatch: pytest.MonkeyPatch, home: Home) -> None:
    """Let `main` be called here as if from the home."""
    for name, value in home.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(home.home)
    monkeypatch.setattr("repo.hardening.harden_process", lambda: False)


def asked(monkeypatch: pytest.MonkeyPatch, home: Home, *words: str, **result: Any) -> Any:
    """Run ingest in this process with an engine that only remembers what it was asked."""
    from ingest import session

    requests: list[Any] = []

    def engine(_repository: object, request: Any, **_listeners: object) -> Any:
        requests.append(request)
        fields = {field.name: 0 for field in dataclasses.fields(session.IngestSummary)}
        named = {"points": [], "failed": [], "verdict": "FULL", "change_source": "none"}
        return session.IngestSummary(**{**fields, **named, **result})

    monkeypatch.setattr(session, "ingest", engine)
    in_this_process(monkeypatch, home)
    status = main(["ingest", *words])
    return status, requests[0]


def test_problems_mean_status_3(
    monkeypatch: pytest.MonkeyPatch, home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    assert asked(monkeypatch, home, "source")[0] == 0
    assert asked(monkeypatch, home, "source", problems=1)[0] == 3
    assert asked(monkeypatch, home, "source", failed=["x: gone"])[0] == 3
    assert "repo: not backed up: x: gone" in capsys.readouterr().err


def test_the_options_of_ingest_reach_the_engine(
    monkeypatch: pytest.MonkeyPatch, home: Home
) -> None:
    words = ["--exclude-caches", "--one-file-system", "--tag", "a", "--tag", "b", "--dry-run"]
    words += ["--streams", "3", "--compression", "5", "--exclude", "x", "--source-id", "s", "p"]
    _, request = asked(monkeypatch, home, *words)
    assert request.paths == ("p",)
    assert (request.exclude_caches, request.one_file_system, request.dry_run) == (True, True, True)
    assert (request.tags, request.exclude, request.source_ids) == (("a", "b"), ("x",), ("s",))
    assert (request.streams, request.levels) == (3, (5,))
    _, request = asked(monkeypatch, home, "--compression", "off", "--streams", "auto", "p")
    assert (request.streams, request.levels) == (0, ())
    assert (request.take, request.pin, request.keep_snapshot) == (True, True, True)
    _, request = asked(monkeypatch, home, "--take", "never", "--pin", "never", "p")
    assert (request.take, request.pin, request.keep_snapshot) == (False, False, True)
    _, request = asked(monkeypatch, home, "--keep-snapshot", "never", "p")
    assert (request.take, request.pin, request.keep_snapshot) == (True, True, False)


def test_the_configuration_of_ingest_is_added_to(
    monkeypatch: pytest.MonkeyPatch, home: Home
) -> None:
    (home.home / "c.toml").write_text(
        '[ingest]\nexclude = ["a"]\ntags = ["t"]\nstreams = 2\ncompression = "off"\n'
        "exclude_caches = true\n"
    )
    _, request = asked(monkeypatch, home, "--config", "c.toml", "--exclude", "b", "p")
    assert request.exclude == ("a", "b")
    assert request.tags == ("t",)
    assert request.streams == 2
    assert request.levels == ()
    assert request.exclude_caches
    _, request = asked(monkeypatch, home, "--config", "c.toml", "--streams", "auto", "p")
    assert request.streams == 0


def test_json_is_all_there_is_on_stdout(home: Home) -> None:
    for words in (["points"], ["ls", "latest"], ["stats"], ["show", "latest"], ["key", "list"]):
        ran = home(*words, "--json")
        assert ran.status == 0, ran
        assert ran.objects()
        assert all(isinstance(json.loads(line), dict) for line in ran.out.splitlines())
