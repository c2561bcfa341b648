from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from repo import errors
from tests.cli.run import PROJECT, Runner
from tools.cli import commands, failure
from tools.cli.choices import CommonOption
from tools.cli.main import cli, main

HEAVY = ("trio", "rich", "cryptography", "lmdb", "msgspec", "zstandard", "blake3", "pyfuse3")


def test_help_and_errors_import_no_command_and_nothing_heavy() -> None:
    for words in (["--help"], ["no-such-command"], ["--no-such-option"], []):
        program = (
            f"import sys; from tools.cli.main import main; status = main({words}); "
            "print(status, *sys.modules, file=sys.stderr)"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=PROJECT
        )
        loaded = set(done.stderr.splitlines()[-1].split())
        assert not loaded & set(HEAVY), words
        entries = [entry for section in commands.SECTIONS.values() for entry in section.values()]
        assert not loaded & {entry.place.partition(":")[0] for entry in entries}, words
        assert "tools.cli.main" in loaded


def test_each_listed_command_is_where_the_list_says_and_explains_itself() -> None:
    top = click.Context(cli, info_name="repo")
    for name in commands.names():
        command = cli.get_command(top, name)
        assert command is not None
        assert command.name == name
        assert command.help
        help_text = CliRunner().invoke(cli, [name, "--help"]).output
        assert f"Usage: repo {name}" in help_text
        assert max(map(len, help_text.splitlines())) <= 100


def test_every_command_takes_the_common_options() -> None:
    def visit(command: click.Command, path: str) -> None:
        common = {p.name for p in command.params if isinstance(p, CommonOption)}
        assert {"repository", "json", "quiet", "debug", "key_file"} <= common, path
        if isinstance(command, click.Group) and command is not cli:
            for name, inner in command.commands.items():
                visit(inner, f"{path} {name}")

    top = click.Context(cli, info_name="repo")
    for name in commands.names():
        command = cli.get_command(top, name)
        assert command is not None
        visit(command, name)


def test_help_has_sections(repo: Runner) -> None:
    ran = repo("--help")
    assert ran.status == 0
    for title in commands.SECTIONS:
        assert f"\n{title}:\n" in ran.out
    assert repo().status == 2


def test_version(repo: Runner) -> None:
    ran = repo("--version")
    assert ran.status == 0
    assert ran.out.startswith("repo ")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["inges"], "repo: no such command 'inges'; did you mean ingest? see repo --help"),
        (["--jsom"], "repo: no such option '--jsom'; did you mean --json? see repo --help"),
        (["ls"], "repo: missing argument 'POINT'; see repo ls --help"),
        (
            ["points", "--last", "x"],
            (
                "repo: invalid value for '--last': 'x' is not a valid integer range; "
                "see repo points --help"
            ),
        ),
    ],
)
def test_a_wrong_command_line_is_one_line_and_status_2(
    words: list[str], line: str, repo: Runner
) -> None:
    ran = repo(*words)
    assert (ran.status, ran.line(), ran.out) == (2, line, "")


def test_a_wrong_command_line_with_json_is_an_object_as_well(repo: Runner) -> None:
    ran = repo("ls", "--json")
    assert ran.status == 2
    assert ran.objects() == [
        {
            "event": "error",
            "kind": "UsageError",
            "what": "missing argument 'POINT'",
            "where": "",
            "next_step": "see repo ls --help",
            "exit_status": 2,
        }
    ]
    assert ran.line().startswith("repo: missing argument")


def _raising(error: BaseException, monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """The exit status when a command raises `error`."""

    @click.command()
    def broken() -> None:
        raise error

    monkeypatch.setattr(type(cli), "get_command", lambda *_: broken)
    return main([*words, "broken"])


@pytest.mark.parametrize(
    "kind",
    [
        errors.JobFailed,
        errors.UsageError,
        errors.Damaged,
        errors.QuiesceFailed,
        errors.SnapshotFailed,
        errors.SnapshotVanished,
        errors.NotARepository,
        errors.WrongKey,
        errors.RepositoryFailed,
        errors.TryLater,
        errors.Interrupted,
    ],
)
def test_each_error_has_its_exit_status(
    kind: type[errors.RepoError],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    error = kind("it broke", where="here", next_step="mend it")
    assert _raising(error, monkeypatch, "--json") == kind.exit_status
    shown = capsys.readouterr()
    assert shown.err == "repo: it broke (here); mend it\n"
    event = json.loads(shown.out)
    assert event["kind"] == kind.__name__
    assert event["exit_status"] == kind.exit_status
    assert (event["what"], event["where"], event["next_step"]) == ("it broke", "here", "mend it")


def test_an_interruption(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _raising(KeyboardInterrupt(), monkeypatch) == 130
    assert capsys.readouterr().err.strip() == "repo: interrupted"


def test_a_defect_is_one_line_and_a_traceback_with_debug_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _raising(ValueError("odd\nthing"), monkeypatch) == 1
    shown = capsys.readouterr()
    assert shown.err == "repo: internal error: ValueError: odd; run with --debug to see where\n"
    assert _raising(ValueError("odd"), monkeypatch, "--debug") == 1
    assert "Traceback" in capsys.readouterr().err


def test_an_error_of_the_system_names_its_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = PermissionError(13, "Permission denied", "/a\x1b[2J")
    assert _raising(error, monkeypatch) == 1
    assert capsys.readouterr().err.startswith("repo: Permission denied (/a\\x1b[2J);")


def test_of_a_group_the_failure_of_the_repository_is_told() -> None:
    inner = ExceptionGroup("inner", [ValueError("x"), errors.Damaged("rotten")])
    outer = BaseExceptionGroup("outer", [KeyboardInterrupt(), inner])
    assert failure.explain(outer).what == "rotten"
    interrupted = BaseExceptionGroup("outer", [ValueError("x"), KeyboardInterrupt()])
    assert failure.explain(interrupted).exit_status == 130
    assert failure.explain(ExceptionGroup("outer", [OSError(28, "No space left")])).exit_status == 1


def test_an_error_can_be_told_to_nobody() -> None:
    status = failure.report(errors.WrongKey("no"), json=True, debug=False, out=None, err=None)
    assert status == 11
    out = io.StringIO()
    failure.report(errors.WrongKey("no"), json=False, debug=False, out=out, err=None)
    assert out.getvalue() == ""


def test_a_closed_pipe_ends_a_listing_without_a_word(repo: Runner) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "tools.cli.main", "completion", "bash"],
        env=repo.environ,
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_options_may_stand_before_and_after_and_the_later_wins(
    repo: Runner, tmp_path: Path
) -> None:
    environ = {"REPO_PASSWORD": "x"}
    for words in (
        ["-r", "missing", "points"],
        ["points", "-r", "missing"],
        ["-r", "other", "points", "--repository", "missing"],
        ["-r", "other", "key", "-r", "missing", "list"],
    ):
        ran = repo(*words, environ=environ)
        assert ran.status == 10, ran
        assert str(tmp_path / "missing") in ran.line()


def test_nobody_to_ask_is_a_usage_error(repo: Runner) -> None:
    ran = repo("init", "-r", "x")
    assert ran.status == 2
    assert "REPO_PASSWORD_FILE" in ran.line()


def test_a_broken_configuration_stops_every_command(repo: Runner, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("repositry = 1")
    ran = repo("points", "--config", "c.toml")
    assert ran.status == 2
    assert ran.line() == "repo: unknown setting repositry (c.toml); did you mean repository?"
