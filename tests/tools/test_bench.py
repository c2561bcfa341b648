"""The benchmark: ratios, contenders, report, and whole runs with a stand-in for the command."""

from __future__ import annotations

import os
import shutil
import stat
import sys
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from repo.errors import UsageError
from repo.types import MIB
from tests.support import need
from tools.bench import mountreads
from tools.bench.__main__ import main
from tools.bench.case import Run
from tools.bench.compare import compare, pair_ratios
from tools.bench.contender import remove_tree
from tools.bench.measure import Measurement
from tools.bench.peers import find_peers
from tools.bench.rounds import Entry
from tools.bench.targets import Target, verdict

STAND_IN = '''#!{python}
"""A stand-in for `repo`: a backup is a tar file, a mount is a folder bound to it."""
import json, os, select, signal, subprocess, sys
from pathlib import Path

where = Path(os.environ.get("REPO_LOCATION", "/nowhere"))
point = where / "point.tar"
match sys.argv[1:]:
    case ["--version"]:
        print("repo 0.0 stand-in")
    case ["--help"]:
        print("usage")
    case ["init", "--key-file", key]:
        where.mkdir()
        Path(key).write_bytes(bytes(32))
    case ["ingest", "--json", *arguments, source]:
        if "--fail" in arguments:
            sys.exit("no space left")
        if "--interrupt" in arguments:
            os.kill(os.getppid(), signal.SIGTERM)
            signal.pause()
        more = ["--exclude=lost"] if "--lose" in arguments else []
        subprocess.run(["tar", "-cf", point, *more, "-C", source, "."], check=True)
        print(json.dumps({{"event": "progress"}}))
        print(json.dumps({{"event": "summary", "files": 3, "arguments": arguments}}))
    case ["points"]:
        print(point.stat().st_size)
    case ["restore", "latest", "--to", to]:
        subprocess.run(["tar", "-xf", point, "-C", to], check=True)
    case ["mount", "latest", at, "--foreground"]:
        content = where / "content"
        content.mkdir(exist_ok=True)
        subprocess.run(["tar", "-xf", point, "-C", content], check=True)
        subprocess.run(["mount", "--bind", content, at], check=True)
        with open("/proc/self/mountinfo") as mounts:
            changes = select.poll()
            changes.register(mounts, select.POLLPRI)
            while at in mounts.read():
                changes.poll()
                mounts.seek(0)
    case other:
        sys.exit(f"what is {{other}}?")
'''


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    path = tmp_path / "stand-in"
    path.write_text(STAND_IN.format(python=sys.executable))
    path.chmod(0o755)
    return path


def bench(tmp_path: Path, stand_in: Path, *arguments: object) -> Result:
    """A whole benchmark with the stand-in; it must leave nothing but inputs behind."""
    command = ("--ours-command", stand_in, "--work", tmp_path / "work", "--runs", 1)
    result = CliRunner().invoke(main, [str(word) for word in (*arguments, *command)])
    work = tmp_path / "work"
    assert [path for path in work.glob("*") if path.name != "inputs"] == []
    return result


def entry(name: str, *runs: tuple[float, float], stored: int | None = None) -> Entry:
    """An entry with runs of so many seconds and CPU seconds."""
    return Entry(
        name,
        [Run(Measurement(spent, cpu, None, 0, b""), stored_bytes=stored) for spent, cpu in runs],
    )


# Comparing


def test_ratios_are_taken_pair_by_pair() -> None:
    # The second pair ran while the machine was busy: both took ten times as long.
    ratio = compare(entry("a", (1, 2), (10, 20), (1, 1)), entry("b", (4, 4), (40, 40), (6, 4)))
    assert ratio is not None
    assert list(ratio.pairs) == [4, 4, 6]
    assert ratio.times_faster == 4
    assert ratio.times_less_cpu == 2


SECONDS = st.floats(min_value=0.001, max_value=1000)


@given(st.lists(st.tuples(SECONDS, SECONDS, SECONDS), min_size=1))
def test_what_slows_both_of_a_pair_cancels_out(pairs: list[tuple[float, float, float]]) -> None:
    calm = pair_ratios([theirs for theirs, _, _ in pairs], [ours for _, ours, _ in pairs])
    busy = pair_ratios([t * mood for t, _, mood in pairs], [o * mood for _, o, mood in pairs])
    assert busy == pytest.approx(calm)


def test_shares_are_ours_by_theirs() -> None:
    ours, theirs = entry("a", (1, 1), stored=80), entry("b", (1, 1), stored=100)
    ours.peak_pss, theirs.peak_pss = 50, 200
    ratio = compare(ours, theirs)
    assert ratio is not None
    assert ratio.stored_share == 0.8
    assert ratio.pss_share == 0.25


def test_a_figure_that_is_missing_gives_no_ratio() -> None:
    ratio = compare(entry("a", (1, 0)), entry("b", (2, 0)))
    assert ratio is not None
    assert (ratio.times_less_cpu, ratio.stored_share, ratio.pss_share) == (None, None, None)


def test_who_failed_is_not_compared() -> None:
    failed = entry("b", (1, 1))
    failed.failure = "no space left"
    assert compare(entry("a", (1, 1)), failed) is None
    assert compare(entry("a"), entry("b", (1, 1))) is None


def test_verdicts() -> None:
    speed, share = Target(6, 9), Target(0.9, 0.8)
    assert [verdict(speed, value) for value in (5, 6, 9)] == [
        "below target",
        "target reached",
        "aim reached",
    ]
    assert verdict(share, 0.95, at_most=True) == "below target"
    assert verdict(share, 0.85, at_most=True) == "target reached"
    assert verdict(share, 0.8, at_most=True) == "aim reached"


# Contenders


def test_a_tree_that_withholds_permission_is_removed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir(mode=0o755)
    closed = tmp_path / "top" / "closed"
    (closed / "below").mkdir(parents=True)
    (closed / "link").symlink_to(target)
    closed.chmod(0)
    remove_tree(tmp_path / "top")
    assert not (tmp_path / "top").exists()
    assert stat.S_IMODE(target.stat().st_mode) == 0o755


def test_peers_that_are_not_installed_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "restic"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    said: list[str] = []
    found = find_peers(["restic", "borg"], tmp_path, say=said.append)
    assert [peer.name for peer in found] == ["restic"]
    assert said == ["borg is not installed and is left out"]


def test_an_unknown_peer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="kopia"):
        find_peers(["kopia"], tmp_path, say=lambda _: None)


def test_the_settings_of_a_user_do_not_reach_the_contenders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESTIC_COMPRESSION", "off")
    monkeypatch.setenv("REPO_PASSWORD", "secret")
    (peer,) = find_peers(["plain"], tmp_path, say=lambda _: None)
    environment = peer.environment()
    assert not {"RESTIC_COMPRESSION", "REPO_PASSWORD"} & environment.keys()
    assert environment["HOME"].startswith(str(tmp_path))


# Whole runs


def test_a_whole_benchmark(tmp_path: Path, source: Path, stand_in: Path) -> None:
    target = tmp_path / "report.json"
    result = bench(
        tmp_path,
        stand_in,
        *("ingest", "ingest-again", "restore", "list", "index"),
        *("--source", source, "--peers", "plain", "--chunks", 5000, "--json", target),
        *("--against-args", "--streams 1"),
    )
    assert result.exit_code == 0, result.output
    report = msgspec.json.decode(target.read_bytes())
    assert report["complete"]
    assert report["format"] == 1
    assert set(report["machine"]) >= {"cores", "memory_bytes", "kernel", "work_file_system"}
    assert report["input"]["files"] == 4
    assert report["versions"]["repo"] == "repo 0.0 stand-in"
    results = {item["case"]: item for item in report["results"]}
    assert list(results) == [
        *("ingest", "ingest-again", "restore", "list help", "list points", "index")
    ]
    assert [item["name"] for item in results["restore"]["contenders"]] == [
        *("repo", "against", "plain")
    ]
    ours, against = results["ingest"]["contenders"]
    assert ours["failure"] is None
    assert ours["median"]["stored_bytes"] > 64 * MIB
    assert ours["peak_pss"] > 0
    (run,) = ours["runs"]
    assert run["seconds"] > 0
    assert run["facts"]["event"] == "summary"
    assert against["runs"][0]["facts"]["arguments"] == ["--streams", "1"]
    (ratio,) = results["ingest"]["ratios"]
    assert ratio["peer"] == "against"
    assert ratio["stored_share"] == pytest.approx(1)
    assert len(ratio["pairs"]) == 1
    assert len(results["list help"]["contenders"][0]["runs"]) == 5
    facts = results["index"]["contenders"][0]["runs"][0]["facts"]
    assert facts["chunks"] == 5000
    assert facts["table_bytes_per_chunk"] >= 32


def test_mounts_are_measured(tmp_path: Path, source: Path, stand_in: Path) -> None:
    need.root()
    target = tmp_path / "report.json"
    result = bench(
        tmp_path,
        stand_in,
        *("mount-find", "mount-tar", "mount-sequential"),
        *("--source", source, "--peers", "plain", "--json", target),
    )
    assert result.exit_code == 0, result.output
    results = msgspec.json.decode(target.read_bytes())["results"]
    assert [item["case"] for item in results] == [
        *("mount-find", "mount-tar", "mount-sequential large")
    ]
    for item in results:
        for contender in item["contenders"]:
            assert contender["runs"][0]["remark"] is None


def test_mounts_are_read_again_anywhere_and_slowly(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need.fuse()
    monkeypatch.setattr(mountreads, "RANDOM_SECONDS", 0.2)
    monkeypatch.setattr(mountreads, "SLOW_MILLISECONDS", 50)
    target = tmp_path / "report.json"
    words = ["mount-tar-again", "mount-random", "mount-slow", "--peers", "none", "--runs", "1"]
    words += ["--source", str(source), "--work", str(tmp_path / "work"), "--json", str(target)]
    result = CliRunner().invoke(main, [*words, "--no-pss"])
    assert result.exit_code == 0, result.output
    results = msgspec.json.decode(target.read_bytes())["results"]
    runs = {item["case"]: item["contenders"][0]["runs"][0] for item in results}
    assert list(runs) == [
        *("mount-tar-again", "mount-random 1", "mount-random 4", "mount-slow ahead"),
        "mount-slow plain",
    ]
    assert runs["mount-random 4"]["facts"]["reads"] > 0
    assert runs["mount-random 4"]["facts"]["request_read"] > 0
    assert runs["mount-slow plain"]["seconds"] > 0.05


def test_a_restore_that_lacks_something_is_told(
    tmp_path: Path, source: Path, stand_in: Path
) -> None:
    result = bench(
        tmp_path,
        stand_in,
        *("restore", "--no-pss", "--peers", "none", "--source", source, "--ours-args=--lose"),
    )
    assert result.exit_code == 0
    assert "repo: 3 of 4 files" in result.output


def test_who_fails_drops_out_and_the_others_go_on(
    tmp_path: Path, source: Path, stand_in: Path
) -> None:
    result = bench(
        tmp_path,
        stand_in,
        *("ingest", "restore", "--no-pss", "--peers", "none", "--source", source),
        "--against-args=--fail",
    )
    assert result.exit_code == 1
    assert "ingest: against dropped out" in result.output
    assert "no space left" in result.output
    assert "restore 1/1: repo" in result.output


def test_an_interruption_reports_what_is_done_and_cleans_up(
    tmp_path: Path, source: Path, stand_in: Path
) -> None:
    target = tmp_path / "report.json"
    result = bench(
        tmp_path,
        stand_in,
        *("ingest", "restore", "--peers", "none", "--source", source, "--json", target),
        "--against-args=--interrupt",
    )
    assert result.exit_code == 130
    report = msgspec.json.decode(target.read_bytes())
    assert not report["complete"]
    (only,) = report["results"]
    assert [len(item["runs"]) for item in only["contenders"]] == [1, 0]


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("restores",), 2, "restores"),
        (("--json", "/no/such/folder/report.json"), 2, "cannot be written"),
        (("--peers", "kopia"), 2, "no peer is called"),
        (("--ours-command", "/no/such/repo"), 2, "cannot be run"),
        (("--source", "/no/such/source"), 2, "not a directory"),
    ],
)
def test_what_cannot_work_is_said_at_once(
    tmp_path: Path, stand_in: Path, arguments: tuple[str, ...], status: int, words: str
) -> None:
    command = ("--ours-command", str(stand_in), "--work", str(tmp_path / "work"), *arguments)
    result = CliRunner().invoke(main, command)
    assert result.exit_code == status
    assert words in result.output


@pytest.mark.deep
@pytest.mark.parametrize("peer", ["restic", "borg"])
def test_a_real_peer_does_the_same_work(
    tmp_path: Path, source: Path, stand_in: Path, peer: str
) -> None:
    if shutil.which(peer) is None:
        pytest.skip(f"needs {peer}")
    target = tmp_path / "report.json"
    result = bench(
        tmp_path,
        stand_in,
        *("ingest", "ingest-again", "restore", "list", "--no-pss"),
        *("--source", source, "--peers", peer, "--json", target),
    )
    assert result.exit_code == 0, result.output
    for item in msgspec.json.decode(target.read_bytes())["results"]:
        assert [contender["name"] for contender in item["contenders"]] == ["repo", peer]
        assert all(contender["runs"][0]["remark"] is None for contender in item["contenders"])
        assert [ratio["peer"] for ratio in item["ratios"]] == [peer]
    assert not os.path.exists(tmp_path / "work" / "inputs")
