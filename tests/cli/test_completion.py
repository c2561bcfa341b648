from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from tests.cli.run import Runner
from tools.cli import commands, completion


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_each_shell_gets_a_script(shell: str, repo: Runner) -> None:
    ran = repo("completion", shell)
    assert ran.status == 0
    assert f"_REPO_COMPLETE={shell}_complete" in ran.out


def words(repo: Runner, *typed: str) -> list[str]:
    environ = {
        "_REPO_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(("repo", *typed)),
        "COMP_CWORD": str(len(typed)),
    }
    ran = repo(environ=environ)
    assert ran.status == 0
    return [line.partition(",")[2] for line in ran.out.splitlines()]


def test_commands_options_and_values_are_completed(repo: Runner) -> None:
    assert words(repo, "") == commands.names()
    assert words(repo, "in") == ["init", "ingest"]
    assert "--recursive" in words(repo, "ls", "--rec")
    assert words(repo, "key", "l") == ["list"]
    assert words(repo, "completion", "z") == ["zsh"]


def test_bash_takes_the_script(repo: Runner) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash here")
    script = completion.script("bash")
    done = subprocess.run(
        [bash, "--norc", "-c", script + "\ncomplete -p repo"],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "-F _repo_completion repo" in done.stdout
