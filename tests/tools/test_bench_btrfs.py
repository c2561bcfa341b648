"""The benchmark's cases with the real command: increments on a btrfs of its own, and resumption."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from repo.types import MIB
from tests.support import need
from tools.bench.__main__ import main
from tools.bench.manyfiles import FILE_BYTES, ManyFiles


def bench(tmp_path: Path, *arguments: object) -> tuple[Result, dict[str, Any]]:
    """A whole benchmark of the installed command; it must leave nothing but inputs behind."""
    work, target = tmp_path / "work", tmp_path / "report.json"
    options = ("--work", work, "--peers", "none", "--json", target, "--no-pss")
    result = CliRunner().invoke(main, [str(word) for word in (*arguments, *options)])
    assert [path for path in work.glob("*") if path.name != "inputs"] == []
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    assert str(tmp_path) not in mounts
    loops = subprocess.run(["losetup", "--list"], capture_output=True, text=True, check=True)
    assert str(tmp_path) not in loops.stdout
    return result, msgspec.json.decode(target.read_bytes())


def runs_of(report: dict[str, Any], case: str) -> list[dict[str, Any]]:
    (found,) = [result for result in report["results"] if result["case"] == case]
    (ours,) = found["contenders"]
    assert ours["failure"] is None
    runs: list[dict[str, Any]] = ours["runs"]
    return runs


def test_increments_read_what_changed(tmp_path: Path, source: Path) -> None:
    need.loop_devices()
    need.filesystem("btrfs")
    result, report = bench(
        tmp_path, "increment", "move", "--files", 300, "--runs", 2, "--source", source
    )
    assert result.exit_code == 0, result.output
    for case in ("increment 300", "increment 3,000"):
        for run in runs_of(report, case):
            facts = run["facts"]
            assert facts["verdict"] == "EXACT"
            assert facts["bytes_changed"] == facts["bytes_read"] == 100 * FILE_BYTES
            assert 0 < facts["plan_seconds"] < run["seconds"]
    for run in runs_of(report, "move 30"):
        assert (run["facts"]["verdict"], run["facts"]["bytes_read"]) == ("EXACT", 0)
        assert run["facts"]["files"] == 330
    assert "increment 300: repo: EXACT, plan" in result.output
    assert "times as long with ten times the files" in result.output


def test_a_first_run_is_killed_and_gone_on_with(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    with open("/dev/urandom", "rb") as noise:
        for number in range(64):
            (source / f"{number}").write_bytes(noise.read(4 * MIB))
    result, report = bench(tmp_path, "resume", "--runs", 1, "--source", source)
    assert result.exit_code == 0, result.output
    total = 64 * 4 * MIB
    for percent in (30, 60, 90):
        (run,) = runs_of(report, f"resume {percent}%")
        facts = run["facts"]
        assert total * percent // 100 <= facts["bytes_read_before"] <= total + 64 * MIB
        assert facts["bytes_source"] == total
        assert facts["bytes_read_again"] == max(
            0, facts["bytes_read_before"] + facts["bytes_read"] - total
        )
    assert "read again" in result.output


def test_a_first_run_that_ends_too_soon_is_told(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    with (source / "hole").open("wb") as file:
        file.truncate(1024 * MIB)  # which is not read
    result, _ = bench(tmp_path, "resume", "--runs", 1, "--source", source)
    assert result.exit_code == 1
    assert "ended before it could be killed" in result.output


def test_without_root_it_is_said_what_is_missing(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    result, _ = bench(tmp_path, "move", "--runs", 1, "--source", source)
    assert result.exit_code == 1
    assert "needs root" in result.output


def test_two_trees_of_many_files_are_alike(tmp_path: Path) -> None:
    trees = [ManyFiles(tmp_path / name, 250, moved_files=20) for name in ("one", "other")]
    seen: list[dict[str, bytes]] = []
    for tree in trees:
        tree.begin()
        tree.edit(100)
        tree.move()
        files = (path for path in tree.top.rglob("*") if path.is_file())
        seen.append({str(path.relative_to(tree.top)): path.read_bytes() for path in files})
    assert seen[0] == seen[1]
    assert len(seen[0]) == trees[0].files == 270
    moved = [name for name in seen[0] if "full-1" in name]
    assert len(moved) == 20
    before = {path: path.read_bytes() for path in trees[0].top.rglob("*") if path.is_file()}
    assert trees[0].edit(100) == 100 * FILE_BYTES
    assert sum(path.read_bytes() != data for path, data in before.items()) == 100
