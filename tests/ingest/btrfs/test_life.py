"""The life of a snapshot: made when it is needed, gone or kept in the end, whatever happens."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from ingest import running
from ingest.btrfs import ioctl
from ingest.snapshots import btrfs as provider
from ingest.snapshots import custody as custodies
from ingest.snapshots.custody import Custody, janitor
from ingest.snapshots.folder import FOLDER_NAME
from ingest.snapshots.snapshot import Refusal
from repo.errors import SnapshotFailed, SnapshotVanished, UsageError
from repo.types import MIB
from tests.ingest import again
from tests.ingest.btrfs import life_child
from tests.ingest.btrfs.volume import Volume, opened, progs
from tests.ingest.hooks.making import until
from tests.support import command, loopfs, readback


@pytest.fixture
def runs(made: command.Repository, volume: Volume) -> Iterator[again.Runs]:
    """Runs over the live subvolume, with a file in it."""
    (volume.live / "below").mkdir()
    (volume.live / "below" / "file").write_bytes(b"content" * 1000)
    with readback.opened(made) as repository:
        yield again.Runs(repository, volume.live)


def left(volume: Volume) -> list[str]:
    """The names of what repo keeps on the file system, without ids."""
    folder = volume.root / FOLDER_NAME
    return sorted(path.name.split("-")[1] for path in folder.iterdir()) if folder.exists() else []


def journals(runs: again.Runs) -> list[str]:
    folder = runs.repository.path / "snapshots"
    return os.listdir(folder) if folder.exists() else []


def test_a_live_subvolume_is_read_as_a_snapshot_that_is_kept(
    runs: again.Runs, volume: Volume
) -> None:
    first = runs.right()
    point = first.points[0]
    assert (point.snapshot.provider, point.snapshot.consistency) == ("btrfs", "crash")
    assert point.source_id == f"{os.uname().nodename}:{volume.live}"
    assert (left(volume), journals(runs)) == (["anchor", "held"], [])
    (volume.live / "below" / "new").write_bytes(b"new")
    second = runs.right()
    assert (second.verdict, second.files_reused) == ("EXACT", 1)
    assert (left(volume), journals(runs)) == (["anchor", "anchor", "held"], [])
    runs.right()
    assert left(volume) == ["anchor", "anchor", "held"], "no more than that stays"
    mode = (volume.root / FOLDER_NAME).stat().st_mode
    assert mode & 0o077 == 0


def test_what_is_written_while_it_is_read_is_not_in_the_point(
    runs: again.Runs, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = volume.snapshot("copy")
    meanwhile(monkeypatch, lambda: (volume.live / "below" / "file").write_bytes(b"later"))
    summary = runs.run()
    assert summary.problems == 0
    assert readback.differences(runs.repository, runs.newest, copy) == []


def test_nothing_is_taken_when_the_user_says_so(runs: again.Runs, volume: Volume) -> None:
    summary = runs.right(take=False)
    assert summary.points[0].snapshot.provider == "directory"
    assert runs.notices == []
    assert left(volume) == []


def test_a_rehearsal_leaves_nothing(runs: again.Runs, volume: Volume) -> None:
    runs.run(dry_run=True)
    assert not (volume.root / FOLDER_NAME).exists()


def test_without_the_capability_the_live_tree_is_read_and_that_is_said(
    runs: again.Runs, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider, "_privileged", lambda: False)
    summary = runs.run()
    assert summary.points[0].snapshot.provider == "directory"
    assert "CAP_SYS_ADMIN" in runs.notices[0]
    assert left(volume) == []


def test_a_failing_job_leaves_nothing(
    runs: again.Runs, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RuntimeError("in the middle")

    meanwhile(monkeypatch, fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        runs.run()
    assert (left(volume), journals(runs)) == ([], [])


def test_a_directory_in_a_subvolume_is_a_source(runs: again.Runs, volume: Volume) -> None:
    runs.source = volume.live / "below"
    assert runs.right().points[0].snapshot.provider == "btrfs"
    (volume.live / "below" / "second").write_bytes(b"2")
    assert runs.right().verdict == "EXACT"
    (volume.live / "elsewhere").write_bytes(b"not in the source")
    summary = runs.right()
    assert (summary.verdict, summary.files, summary.files_reused) == ("EXACT", 2, 2)


def test_a_subvolume_that_is_mounted_by_itself_keeps_its_snapshots_inside(
    made: command.Repository, volume: Volume, tmp_path: Path
) -> None:
    (volume.live / "file").write_bytes(b"one")
    place = tmp_path / "place"
    place.mkdir()
    device = progs("filesystem", "show", "--raw", volume.root).split("path ")[1].split()[0]
    subprocess.run(["mount", "-o", "subvol=vol", device, place], check=True)
    try:
        with readback.opened(made) as repository:
            runs = again.Runs(repository, place)
            for verdict in ("FULL", "EXACT", "EXACT"):
                summary = runs.run()
                assert (summary.verdict, summary.files) == (verdict, 1), runs.notices
            live = runs.run(take=False)
            assert live.files == 1, "the snapshots are in no point"
        assert (place / FOLDER_NAME).is_dir()
    finally:
        subprocess.run(["umount", place], check=True)


def test_the_repository_is_left_out_of_a_snapshot_too(volume: Volume, tmp_path: Path) -> None:
    env = command.environment(tmp_path)
    location = volume.live / "repository"
    (volume.live / "file").write_bytes(b"one")
    base = ["--repository", str(location), "--key-file", str(tmp_path / "key")]
    command.run(*base, "init", env=env)
    for _ in range(2):
        summary = command.run(*base, "ingest", "--json", volume.live, env=env).summary()
        assert (summary["files"], summary["problems"]) == (1, 0)
    assert summary["verdict"] == "EXACT"


# -- what lies inside -----------------------------------------------------------------------------


def nest(volume: Volume) -> None:
    with opened(volume.live) as fd:
        ioctl.create_subvolume(fd, b"nested")
        (volume.live / "nested" / "inside").write_bytes(b"inside")
        with opened(volume.live / "nested") as nested:
            ioctl.create_snapshot(fd, b"old", nested)


def test_nested_subvolumes_are_sources_of_their_own(runs: again.Runs, volume: Volume) -> None:
    nest(volume)
    summary = runs.run()
    names = {point.source_id: point for point in summary.points}
    base = f"{os.uname().nodename}:{volume.live}"
    assert set(names) == {base, f"{base}/nested"}
    nested = names[f"{base}/nested"]
    assert readback.differences(runs.repository, nested, volume.live / "nested") == []
    assert any("old: not included, it is a snapshot" in notice for notice in runs.notices)
    assert runs.run().verdict == "EXACT"


def test_nested_subvolumes_are_left_out_when_asked(runs: again.Runs, volume: Volume) -> None:
    nest(volume)
    assert len(runs.run(one_file_system=True).points) == 1
    assert any("nested: not included, it is another subvolume" in n for n in runs.notices)
    assert len(runs.run(exclude=["nested"]).points) == 1
    tree = runs.repository.tree
    assert tree.lookup(runs.newest.root, b"nested") is None
    assert tree.lookup(runs.newest.root, b"below") is not None


def test_file_systems_mounted_inside_are_sources_of_their_own(
    runs: again.Runs, volume: Volume
) -> None:
    """A snapshot has their folders only: once, their files were in no point and nobody said so."""
    inside = volume.live / "below" / "tmpfs-mounted"
    with loopfs.mounted("tmpfs", volume.live / "below") as filesystem:
        assert filesystem.path == inside
        (inside / "there").write_bytes(b"there")
        names = {point.source_id: point for point in runs.run().points}
        base = f"{os.uname().nodename}:{volume.live}"
        assert set(names) == {base, f"{base}/below/tmpfs-mounted"}
        inner = names[f"{base}/below/tmpfs-mounted"]
        assert readback.differences(runs.repository, inner, inside) == []
        assert len(runs.run(one_file_system=True).points) == 1
        assert any("not included, it is another file system" in n for n in runs.notices)
        assert len(runs.run(exclude=["tmpfs-mounted"]).points) == 1


# -- snapshots of others --------------------------------------------------------------------------


def test_an_adopted_snapshot_is_the_source_that_it_is_of(runs: again.Runs, volume: Volume) -> None:
    runs.run()
    name = runs.newest.source_id
    (volume.live / "below" / "file").write_bytes(b"changed")
    runs.source = volume.snapshot("tonight")
    summary = runs.right()
    assert (summary.points[0].source_id, summary.verdict) == (name, "EXACT")
    assert summary.points[0].source_path == str(volume.live)
    runs.source = volume.snapshot("tomorrow")
    assert runs.right(source_ids=["by name"]).points[0].source_id == "by name"


def test_an_adopted_snapshot_is_named_by_where_its_origin_lies(
    runs: again.Runs, volume: Volume
) -> None:
    runs.source = volume.snapshot("tonight") / "below"
    summary = runs.right()
    assert summary.points[0].source_id == f"{os.uname().nodename}:{volume.live}/below"


def test_without_its_origin_an_adopted_snapshot_is_named_by_lineage(
    runs: again.Runs, volume: Volume
) -> None:
    one = volume.snapshot("one")
    two = volume.snapshot("two")
    volume.delete(volume.live)
    runs.source = one
    name = runs.right().points[0].source_id
    assert "btrfs-" in name
    assert "one" not in name
    runs.source = two
    assert runs.right().points[0].source_id == name


def meanwhile(monkeypatch: pytest.MonkeyPatch, act: Any) -> None:
    """Do something when the sources are held and nothing is read yet."""
    real = running.run

    def conduct(job: Any) -> None:
        act()
        real(job)

    monkeypatch.setattr(running, "run", conduct)


def test_a_pinned_snapshot_may_be_deleted_while_it_is_read(
    runs: again.Runs, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.source = volume.snapshot("tonight")
    meanwhile(monkeypatch, lambda: volume.delete(runs.source))
    assert runs.run().problems == 0
    assert readback.differences(runs.repository, runs.newest, volume.live) == []


def test_one_that_is_not_pinned_vanishes_and_nothing_is_published(
    runs: again.Runs, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.source = volume.snapshot("tonight")
    meanwhile(monkeypatch, lambda: volume.delete(runs.source))
    with pytest.raises(SnapshotVanished) as caught:
        runs.run(pin=False)
    assert caught.value.exit_status == 7
    assert runs.repository.points() == []
    assert left(volume) == []


def test_one_that_becomes_writable_while_it_is_read_is_not_trusted(
    runs: again.Runs, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.source = volume.snapshot("tonight")

    def change() -> None:
        volume.set_read_only(runs.source, to=False)
        (runs.source / "below" / "file").write_bytes(b"changed")
        volume.set_read_only(runs.source, to=True)

    meanwhile(monkeypatch, change)
    with pytest.raises(SnapshotVanished):
        runs.run(pin=False)


# -- several sources ------------------------------------------------------------------------------


def two_more(volume: Volume) -> list[Path]:
    """Three subvolumes with a file each."""
    places = [volume.live, volume.create("second"), volume.create("third")]
    for number, place in enumerate(places):
        (place / "file").write_bytes(b"%d" % number * 1000)
    return places


@pytest.mark.parametrize("streams", [1, 2])
def test_a_snapshot_is_made_when_a_worker_comes_to_its_source(
    runs: again.Runs, volume: Volume, monkeypatch: pytest.MonkeyPatch, streams: int
) -> None:
    places = two_more(volume)
    held: list[int] = []
    meanwhile(monkeypatch, lambda: held.append(left(volume).count("snap")))
    summary = runs.run(paths=[str(place) for place in places], streams=streams)
    assert held == [1], "when reading begins there is one"
    assert [point.source_path for point in summary.points] == [str(place) for place in places]
    for point, place in zip(summary.points, places, strict=True):
        assert readback.differences(runs.repository, point, place) == []
    assert (left(volume).count("held"), left(volume).count("snap")) == (3, 0)
    assert runs.run(paths=[str(place) for place in places], streams=streams).verdict == "EXACT"


def test_worker_processes_hear_of_further_sources(
    runs: again.Runs, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = two_more(volume)
    for place in places:
        for number in range(200):
            (place / f"folder{number}").mkdir()
            (place / f"folder{number}" / "file").write_bytes(os.urandom(20_000))
    summary = runs.run(paths=[str(place) for place in places], streams=2)
    assert summary.streams == 2
    for point, place in zip(summary.points, places, strict=True):
        assert readback.differences(runs.repository, point, place) == []


def test_a_group_is_taken_together(
    runs: again.Runs, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = two_more(volume)
    held: list[int] = []
    meanwhile(monkeypatch, lambda: held.append(left(volume).count("snap")))
    assert len(runs.run(paths=[str(place) for place in places], together=True).points) == 3
    assert held == [3]


def test_a_group_that_cannot_be_taken_together_is_not_taken(
    runs: again.Runs, volume: Volume, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with pytest.raises(SnapshotFailed) as caught:
        runs.run(paths=[str(volume.live), str(elsewhere)], together=True)
    assert caught.value.exit_status == 6
    assert (left(volume), journals(runs), runs.repository.points()) == ([], [], [])


def test_a_source_that_is_not_there_ends_the_job_before_anything_is_read(
    runs: again.Runs, volume: Volume
) -> None:
    with pytest.raises(UsageError):
        runs.run(paths=[str(volume.live), str(volume.root / "nothing")])
    assert left(volume) == []


# -- death and the janitor ------------------------------------------------------------------------


def child(made: command.Repository, source: Path, fatal: int) -> subprocess.CompletedProcess[str]:
    words = ["-m", life_child.__name__, str(fatal), "ingest", "--streams", "1", str(source)]
    env = dict(made.env)
    return subprocess.run(
        [sys.executable, *words], env=env, capture_output=True, text=True, check=False
    )


def test_killed_before_any_step_nothing_is_left_after_the_next_run(
    made: command.Repository, volume: Volume
) -> None:
    (volume.live / "file").write_bytes(b"content")
    whole = child(made, volume.live, 0)
    assert whole.returncode == 0, whole.stderr
    steps = [line for line in whole.stderr.splitlines() if line.startswith("step ")]
    wanted = {"note", "create_subvolume", "create_snapshot", "publish", "rename", "close"}
    assert wanted <= {line.split()[1] for line in steps}
    with readback.opened(made) as repository:
        runs = again.Runs(repository, volume.live)
        for fatal in range(1, 100):
            (volume.live / "file").write_bytes(b"content %d" % fatal)
            killed = child(made, volume.live, fatal)
            if killed.returncode == 0:  # there are no more steps
                break
            assert killed.returncode == -signal.SIGKILL, (fatal, killed.stderr)
            runs.right()
            assert sorted(set(left(volume))) == ["anchor", "held"], killed.stderr
            assert len(left(volume)) <= 3, killed.stderr
            assert journals(runs) == [], killed.stderr
        assert fatal > 10


def test_nobody_waits_until_an_old_snapshot_is_deleted(
    runs: again.Runs, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a run that read a million files the kernel takes seconds for it."""
    runs.right()
    (older,) = (volume.root / FOLDER_NAME).glob(".repo-held-*")
    gate = os.memfd_create("gate")
    fcntl.flock(gate, fcntl.LOCK_EX)
    real = ioctl.destroy_subvolume

    def slow(folder_fd: int, name: bytes) -> None:
        with open(f"/proc/{test}/fd/{gate}", "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
        real(folder_fd, name)

    test = os.getpid()
    monkeypatch.setattr(ioctl, "destroy_subvolume", slow)
    assert runs.right().verdict == "EXACT"
    assert older.exists()
    fcntl.flock(gate, fcntl.LOCK_UN)
    until(lambda: not older.exists(), lambda: "it was never deleted")
    os.close(gate)


def test_killed_while_it_deletes_an_old_snapshot_the_next_run_does(
    runs: again.Runs, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.right()
    with monkeypatch.context() as patches:
        patches.setattr(ioctl, "destroy_subvolume", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        runs.right()
    assert left(volume) == ["anchor", "anchor", "held", "held"]
    runs.right()
    assert left(volume) == ["anchor", "anchor", "held"]


def test_the_janitor_leaves_alone_what_lives(runs: again.Runs, volume: Volume) -> None:
    custody = Custody(runs.repository.path, take=True, pin=True, keep=True)
    held = custody.hold(str(volume.live), no_hooks, pytest.fail)
    assert left(volume) == ["anchor", "snap"]
    assert janitor(runs.repository.path) == 0
    assert left(volume) == ["anchor", "snap"]
    assert held.alive()
    custody.close()
    assert (left(volume), journals(runs)) == ([], [])


def test_the_janitor_waits_for_a_file_system_to_come_back(
    made: command.Repository, volume: Volume
) -> None:
    (volume.live / "file").write_bytes(b"content")
    killed = child(made, volume.live, 6)
    assert killed.returncode == -signal.SIGKILL
    before = left(volume)
    assert before != []
    volume.filesystem.unmount()
    with readback.opened(made) as repository:
        assert janitor(repository.path) == 0
        assert len(os.listdir(repository.path / "snapshots")) == 1
        volume.filesystem.mount()
        assert janitor(repository.path) == len(before)
    assert left(volume) == []


def test_the_janitor_of_another_machine_touches_nothing(
    made: command.Repository, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = child(made, volume.live, 6)
    assert killed.returncode == -signal.SIGKILL
    before = left(volume)
    monkeypatch.setattr("ingest.snapshots.journal._machine", lambda: "elsewhere")
    with readback.opened(made) as repository:
        assert janitor(repository.path) == 0
    assert left(volume) == before


def test_a_folder_of_that_name_that_is_not_ours_is_not_used(
    runs: again.Runs, volume: Volume
) -> None:
    (volume.root / FOLDER_NAME).mkdir()
    os.chown(volume.root / FOLDER_NAME, 1000, 1000)
    summary = runs.run()
    assert summary.points[0].snapshot.provider == "directory"
    assert "not a snapshot folder of repo" in runs.notices[0]
    (volume.root / FOLDER_NAME).rmdir()
    (volume.root / FOLDER_NAME).symlink_to(volume.live)
    assert runs.right().points[0].snapshot.provider == "directory"


def no_hooks() -> Any:
    return nullcontext(False)


def test_other_file_systems_are_read_in_place(made: command.Repository, tmp_path: Path) -> None:
    with loopfs.mounted("ext4", tmp_path, size_bytes=64 * MIB) as filesystem:
        (filesystem.path / "file").write_bytes(b"content")
        with readback.opened(made) as repository:
            runs = again.Runs(repository, filesystem.path)
            assert runs.right().points[0].snapshot.provider == "directory"
            assert runs.notices == []
            assert not isinstance(custodies.PROVIDERS[0].hold(str(filesystem.path), None), Refusal)  # type: ignore[arg-type]
