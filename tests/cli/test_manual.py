from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import click
import msgspec
import pytest

from repo import errors
from tests.cli.run import Runner
from tools.cli import commands, config, manual
from tools.cli.choices import CommonOption
from tools.cli.main import cli


def test_there_is_a_page_for_each_command_and_it_names_each_option() -> None:
    pages = dict(manual.pages())
    assert set(pages) >= {"repo.1", "repo-key.1", "repo-key-add.1"}
    top = click.Context(cli, info_name="repo")
    for name in commands.names():
        command = cli.get_command(top, name)
        assert command is not None
        page = pages[f"repo-{name}.1"]
        assert f"repo\\-{manual.escape(name)}" in pages["repo.1"]
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not isinstance(parameter, CommonOption):
                assert manual.escape(parameter.opts[-1]) in page


def test_every_exit_status_is_explained() -> None:
    listed = {number for number, _ in manual.EXIT_STATUSES}
    family = {kind.exit_status for kind in errors.RepoError.__subclasses__()}
    assert family <= listed
    assert listed - family == {0, 3, 141}


def test_the_configuration_of_the_manual_is_one(tmp_path: Path) -> None:
    paragraphs = manual.CONFIGURATION.split("\n\n")
    shown = "\n".join(p.removeprefix("\b\n") for p in paragraphs if p.startswith("\b"))
    (tmp_path / "c.toml").write_text(shown)
    loaded = config.load(config=str(tmp_path / "c.toml"), profile=None, environ={})
    named = msgspec.structs.asdict(loaded.settings)
    unset = {name for name, value in named.items() if value is None}
    assert unset == {"password_file"}
    assert all(name in shown for name in config.IngestSettings.__struct_fields__)


def test_the_variables_of_the_manual_are_those_that_are_read() -> None:
    read: set[str] = set()
    for source in Path(manual.__file__).parent.glob("*.py"):
        if source.name != "manual.py":
            read |= set(re.findall(r'"(REPO_[A-Z_]+)"', source.read_text()))
    assert read == {name for name, _ in manual.ENVIRONMENT if name.startswith("REPO_")}


def test_roff_reads_text_as_it_stands() -> None:
    assert manual.escape("a-b\\c") == r"a\-b\ec"
    assert manual.escape(".x\n'y") == "\\&.x\n\\&'y"


def test_pages_are_written_and_readable(repo: Runner, tmp_path: Path) -> None:
    ran = repo("manual", "--to", tmp_path / "man" / "man1")
    assert ran.status == 0, ran.err
    files = sorted((tmp_path / "man" / "man1").iterdir())
    assert [str(file) for file in files] == sorted(ran.out.split())
    man = shutil.which("man")
    if man is None:
        pytest.skip("no man here")
    for file in files:
        done = subprocess.run(
            [man, "--warnings", "-E", "UTF-8", "-l", "-Tutf8", str(file)],
            env={"LANG": "C.UTF-8", "MANROFFOPT": "", "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert "SYNOPSIS" in re.sub(".\b", "", done.stdout)
        assert done.stderr == ""


def test_a_folder_that_cannot_be_written(repo: Runner, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ran = repo("manual", "--to", tmp_path / "file" / "x")
    assert ran.status == 1
    assert "give another folder" in ran.line()
