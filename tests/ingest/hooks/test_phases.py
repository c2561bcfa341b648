"""The phases around a job: what each script hears, and what its failure does."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ingest.hooks.making import HookFolder
from tests.support import command


@pytest.fixture
def hooks(tmp_path: Path) -> HookFolder:
    return HookFolder(tmp_path)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.mkdir()
    (path / "file").write_text("content")
    return path


def test_a_job_runs_its_phases(made: command.Repository, hooks: HookFolder, source: Path) -> None:
    for phase in ("pre-read", "post-ingest", "failed"):
        hooks.add(phase, "10-a", f'echo "$REPO_SOURCE $REPO_STATUS" >>{hooks.log}')
    made.run("ingest", "--hooks", hooks.path, "--source-id", "mine", source)
    told = [line for line in hooks.lines() if line.startswith("mine")]
    assert hooks.done("pre-read") == hooks.done("post-ingest") == ["10-a"]
    assert hooks.done("failed") == []
    assert told == ["mine ok", "mine ok"]


def test_a_dry_run_runs_no_hooks(made: command.Repository, hooks: HookFolder, source: Path) -> None:
    hooks.add("pre-read", "10-a")
    made.run("ingest", "--dry-run", "--hooks", hooks.path, source)
    assert hooks.lines() == []


def test_a_pre_read_script_can_forbid_the_job(
    made: command.Repository, hooks: HookFolder, source: Path
) -> None:
    hooks.add("pre-read", "10-a", "echo not today; exit 1")
    hooks.add("failed", "10-a", f'echo "$REPO_STATUS" >>{hooks.log}')
    ran = made.run("ingest", "--hooks", hooks.path, source, status=1)
    assert "a pre-read hook failed: ended with status 1: not today" in ran.err
    assert hooks.done("failed") == ["10-a"]
    assert "1" in hooks.lines()
    assert made.run("points").out == ""


def test_a_post_ingest_script_that_fails_does_not_undo_the_point(
    made: command.Repository, hooks: HookFolder, source: Path
) -> None:
    hooks.add("post-ingest", "10-a", "exit 1")
    hooks.add("post-ingest", "20-b")
    ran = made.run("ingest", "--hooks", hooks.path, source, status=3)
    assert "a post-ingest hook failed" in ran.err
    assert hooks.done("post-ingest") == ["20-b"]
    assert len(made.run("points", "--json").events()) == 1


def test_the_configuration_names_the_folder_and_the_option_wins(
    made: command.Repository, hooks: HookFolder, source: Path
) -> None:
    hooks.add("pre-read", "10-a")
    config = hooks.path.parent / "config.toml"
    config.write_text('[ingest]\nhooks = "hooks.d"\n')
    made.run("ingest", "--config", config, source)
    assert hooks.done("pre-read") == ["10-a"]
    made.run("ingest", "--config", config, "--hooks", "off", source)
    assert hooks.done("pre-read") == ["10-a"]
    ran = made.run("ingest", "--hooks", hooks.path / "nowhere", source, status=2)
    assert "there is no such folder of hooks" in ran.err
