"""A restore that is interrupted, loses a worker or its repository: nothing half made stays."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from mount.restore import RestoreProgress
from repo.errors import Interrupted, RepositoryFailed
from repo.storage.fetcher import Fetcher
from repo.types import KIB, MIB
from tests.mount.restoring import Store, leftovers, make_small
from tests.support import chattr, command, compare, loopfs, need, oddities


def _tree(store: Store, source: Path) -> None:
    """Some hundred small files, and large ones; backed up."""
    for number in range(30):
        folder = source / f"{number % 5}" / f"{number}"
        folder.mkdir(parents=True)
        for at in range(10):
            (folder / f"file-{at}").write_bytes(oddities.content(number * 10 + at, 2000))
    for seed, name in enumerate(("0/large", "4/large")):
        (source / name).write_bytes(oddities.content(1000 + seed, 12 * MIB))
    store.ingest(source)


class Saved(NamedTuple):
    """A tree and the repository that holds it."""

    store: Store
    source: Path


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """A tree that nobody changes."""
    folder = tmp_path_factory.mktemp("saved")
    store = Store(folder)
    _tree(store, folder / "source")
    return Saved(store, folder / "source")


@pytest.fixture
def own(tmp_path: Path) -> Saved:
    """A tree of the test's own."""
    store = Store(tmp_path)
    _tree(store, tmp_path / "source")
    return Saved(store, tmp_path / "source")


@pytest.mark.parametrize(
    ("number", "streams", "files"),
    [
        (signal.SIGTERM, 1, 0),
        (signal.SIGTERM, 1, 150),
        (signal.SIGTERM, 2, 0),
        (signal.SIGTERM, 2, 50),
        (signal.SIGTERM, 2, 200),
        (signal.SIGINT, 2, 100),
    ],
)
def test_a_signal_ends_it_cleanly_and_the_next_one_completes_it(
    saved: Saved, tmp_path: Path, number: signal.Signals, streams: int, files: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    store, source = saved
    make_small(monkeypatch, range_bytes=512 * KIB)
    target = tmp_path / "target"
    sent = False

    def interrupt(progress: RestoreProgress) -> None:
        nonlocal sent
        if progress.files >= files and not sent:
            sent = True
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as caught:
        store.restore(target, streams=streams, on_progress=interrupt)
    assert caught.value.exit_status == 130
    assert signal.getsignal(number) is before
    assert leftovers(target) == []
    for path in target.rglob("*"):
        if path.is_file():  # what is there is whole
            assert path.read_bytes() == (source / path.relative_to(target)).read_bytes()
    assert store.restore(target, streams=streams).problems == []
    assert compare.differences(source, target) == []


def test_what_was_protected_is_protected_again_after_an_interruption(
    saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = saved.store
    need.root()
    make_small(monkeypatch)
    target = tmp_path / "target"
    store.restore(target)
    shutil.rmtree(target / "4" / "9")
    for path in (target, target / "4"):
        with _opened(path) as fd:
            chattr.change(fd, add=chattr.FLAGS["immutable"])

    def interrupt(progress: RestoreProgress) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        store.restore(target, paths=[b"4"], streams=2, on_progress=interrupt)
    for path in (target, target / "4"):
        with _opened(path) as fd:
            assert chattr.get(fd) & chattr.FLAGS["immutable"]
    chattr.release(target)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


def test_a_second_signal_does_not_wait_for_workers(
    saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = saved.store
    make_small(monkeypatch)
    pids: list[int] = []

    def interrupt(progress: RestoreProgress) -> None:
        pids[:] = [int(pid) for pid in _children()]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)  # they will not listen
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        store.restore(tmp_path / "target", streams=2, on_progress=interrupt)
    assert pids
    assert not set(map(int, _children())) & set(pids)


def _children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


def _kill_once(times: int) -> Callable[[RestoreProgress], None]:
    """Kills a worker, so many times."""
    left = times

    def kill(progress: RestoreProgress) -> None:
        nonlocal left
        children = _children()
        if left and progress.files and children:
            left -= 1
            os.kill(int(children[0]), signal.SIGKILL)

    return kill


@pytest.mark.parametrize("times", [1, 4])
def test_a_worker_that_dies_costs_nothing_but_time(
    own: Saved, tmp_path: Path, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, source = own
    make_small(monkeypatch, range_bytes=512 * KIB)
    for number in range(10):  # links, which one worker may have promised to the other
        os.link(source / "0" / "0" / "file-0", source / "4" / f"again-{number}")
    store.ingest(source)
    target = tmp_path / "target"
    summary = store.restore(target, streams=2, on_progress=_kill_once(times))
    assert summary.problems == []
    assert compare.differences(source, target) == []


def test_what_kills_every_worker_is_left_out_and_named(
    own: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, source = own
    make_small(monkeypatch)
    monkeypatch.setattr("mount.restorepool.WORKER", "tests.mount.oddworker")
    (source / "3" / "die here").touch()
    store.ingest(source)
    target = tmp_path / "target"
    summary = store.restore(target, streams=2)
    assert [(p.path, p.step) for p in summary.problems] == [(b"3", "restore")]
    assert "died 3 times" in summary.problems[0].detail
    missing = {line.split(": ")[0] for line in compare.differences(source, target)}
    assert "'3/die here'" in missing
    assert all(name.startswith("'3/") for name in missing)


@pytest.mark.parametrize("streams", [1, 2])
def test_a_failing_repository_ends_it(
    own: Saved, tmp_path: Path, streams: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, source = own
    make_small(monkeypatch)
    target = tmp_path / "target"
    (source / "2" / "fail here").touch()
    store.ingest(source)
    if streams == 2:
        monkeypatch.setattr("mount.restorepool.WORKER", "tests.mount.oddworker")
    else:
        read = Fetcher.read

        def failing(self: Fetcher, *arguments: object) -> bytes:
            if any(target.rglob("file-*")):
                raise RepositoryFailed("cannot read a segment: Input/output error")
            return read(self, *arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(Fetcher, "read", failing)
    with pytest.raises(RepositoryFailed, match="Input/output error") as caught:
        store.restore(target, streams=streams)
    assert caught.value.exit_status == 12
    assert leftovers(target) == []


def test_a_full_target_is_a_problem_of_each_file(
    saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, source = saved
    with loopfs.mounted("tmpfs", tmp_path, size_bytes=4 * MIB) as filesystem:
        target = filesystem.path / "target"
        summary = store.restore(target, paths=[b"0", b"1"])
        problems = {problem.path: problem for problem in summary.problems}
        assert problems[b"0/large"].step == "write"
        assert summary.damaged == 0
        assert not (target / "0" / "large").exists()
        assert leftovers(target) == []
        assert compare.differences(source / "1", target / "1") == []


def test_what_a_killed_restore_left_is_removed_by_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    (tmp_path / "source" / "folder").mkdir(parents=True)
    large = tmp_path / "source" / "folder" / "large"
    large.write_bytes(oddities.content(1, MIB) * 100)
    store.ingest(tmp_path / "source")
    target = tmp_path / "target"
    words = command.words("restore", "latest", "--to", target, "--streams", "1")
    process = subprocess.Popen(words, env=store.command.env)
    while not (target.exists() and leftovers(target)):
        assert process.poll() is None, "it has ended before it could be killed"
    process.kill()
    process.wait()
    assert len(leftovers(target)) == 1

    monkeypatch.setattr("mount.target._LEFT_SECONDS", -1)
    beside = [target / name for name in (".repo-restore-mine", ".repo-restore-" + "0" * 16)]
    for path in beside:
        path.write_bytes(b"")
    with beside[1].open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # another restore is at it
        assert store.restore(target).problems == []
        assert set(leftovers(target)) == {path.name for path in beside}
    assert store.restore(target).problems == []
    assert leftovers(target) == [beside[0].name]
    assert (target / "folder" / "large").read_bytes() == large.read_bytes()
