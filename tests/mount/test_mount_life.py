"""The life of a mount: how it begins, how it ends, and what is left when it dies."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mount import mountpoint
from repo.storage import lease
from repo.storage.folder import Folder
from tests.mount.mounting import ADAPTERS, Mount, clean_up, mounted, wait_for_end
from tests.support import command, need
from tests.support.command import Repository

CONTENT = b"content of the only file\n" * 1000


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    need.fuse()
    folder = tmp_path_factory.mktemp("life")
    (folder / "source").mkdir()
    (folder / "source" / "file").write_bytes(CONTENT)
    made = Repository.make(folder / "repo")
    made.run("ingest", folder / "source")
    return made


@pytest.fixture
def at(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "mnt"
    path.mkdir()
    yield path
    clean_up(path)


def _leases(repository: Repository) -> list[str]:
    return [info.purpose for info in lease.live(Folder.open(repository.path))]


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_mount_is_ready_when_the_command_returns(
    repository: Repository, at: Path, adapter: str
) -> None:
    done = repository.run("mount", "latest", at, "--adapter", adapter)
    assert f"repo umount {at}" in done.out
    assert (at / "file").read_bytes() == CONTENT
    assert _leases(repository) == [f"mount {at}"]
    repository.run("umount", at)
    assert list(at.iterdir()) == []
    assert _leases(repository) == []


def test_how_to_unmount_is_told_for_a_shell(repository: Repository, tmp_path: Path) -> None:
    at = tmp_path / "a b$c"
    at.mkdir()
    try:
        told = repository.run("mount", "latest", at).out.splitlines()[-1]
        assert told == f"Unmount it with: repo umount '{at}'"
    finally:
        clean_up(at)


def test_a_log_that_cannot_be_written_is_said_at_once(repository: Repository, at: Path) -> None:
    done = repository.run("mount", "latest", at, "--log-file", at / "no" / "log", status=2)
    assert done.err.startswith("repo: cannot write the log: No such file or directory")
    assert mountpoint.mount_at(at) is None


def test_json_tells_where(repository: Repository, at: Path) -> None:
    done = repository.run("mount", "latest", at, "--json")
    assert json.loads(done.out) == {"event": "mounted", "at": str(at)}


def _foreground(repository: Repository, at: Path, *options: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        command.words("mount", "latest", at, "--foreground", *options),
        env=repository.env | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("Mounted")
    return process


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_unmounts(
    repository: Repository, at: Path, adapter: str, number: signal.Signals
) -> None:
    process = _foreground(repository, at, "--adapter", adapter)
    assert (at / "file").read_bytes() == CONTENT
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert mountpoint.mount_at(at) is None
    assert _leases(repository) == []


def test_a_signal_lets_the_last_user_finish(repository: Repository, at: Path) -> None:
    process = _foreground(repository, at)
    with (at / "file").open("rb") as file:
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        said = process.stderr.readline()
        assert "in use" in said
        while mountpoint.mount_at(at) is not None:
            pass
        assert file.read() == CONTENT
    process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_an_umount_from_outside_ends_the_process(
    repository: Repository, at: Path, adapter: str
) -> None:
    process = _foreground(repository, at, "--adapter", adapter)
    subprocess.run([need.tool("fusermount3"), "-u", at], check=True)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert _leases(repository) == []


def test_umount_says_who_is_in_the_way(repository: Repository, at: Path) -> None:
    with mounted(repository, at) as mount:
        holder = subprocess.Popen(["sleep", "1000"], cwd=at)
        try:
            done = repository.run("umount", at, status=75)
            assert f"sleep (pid {holder.pid})" in done.err
            assert (at / "file").read_bytes() == CONTENT
            repository.run("umount", at, "--lazy")
            assert not mount.is_there
        finally:
            holder.kill()
            holder.wait()


def test_a_killed_mount_stays_dead_until_it_is_taken_away(repository: Repository, at: Path) -> None:
    with mounted(repository, at) as mount:
        mount.kill()
        # An empty folder would pass for the content, and a mirror of it would be wiped.
        with pytest.raises(OSError, match="not connected"):
            list(at.iterdir())
        done = repository.run("mount", "latest", at, status=2)
        assert f"repo umount {at}" in done.err
        assert _leases(repository) == []
        repository.run("umount", at)
        repository.run("mount", "latest", at)
        assert (at / "file").read_bytes() == CONTENT


def test_a_mountpoint_is_used_once(repository: Repository, at: Path) -> None:
    with mounted(repository, at):
        assert "mounted here already" in repository.run("mount", "latest", at, status=2).err
        assert (at / "file").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("point", "place", "said"),
    [
        ("latest", "missing", "make the folder first"),
        ("latest", "file", "is a file"),
        ("nonsense", "mnt", "no such point"),
    ],
)
def test_what_cannot_be_mounted_is_said_at_once(
    repository: Repository, tmp_path: Path, at: Path, point: str, place: str, said: str
) -> None:
    (tmp_path / "file").write_bytes(b"")
    done = repository.run("mount", point, tmp_path / place, status=2)
    assert said in done.err
    assert "Traceback" not in done.err
    assert mountpoint.mount_at(at) is None


@pytest.mark.parametrize("place", ["", "..", "leases"])
def test_a_mount_does_not_hide_the_repository(repository: Repository, place: str) -> None:
    at = repository.path / place
    done = repository.run("mount", "latest", at, status=2)
    assert "would hide what it needs itself" in done.err
    assert mountpoint.mount_at(at) is None


def test_without_a_folder_the_default_one_is_needed(repository: Repository) -> None:
    done = repository.run("mount", "latest", status=2, env={"USER": "nobody-of-this-name"})
    assert "/run/media" in done.err


def test_umount_of_what_is_no_mount(repository: Repository, at: Path) -> None:
    assert "no backup is mounted here" in repository.run("umount", at, status=2).err
    assert "no backup is mounted here" in repository.run("umount", "/proc", status=2).err


def test_statistics_are_told(repository: Repository, at: Path) -> None:
    with mounted(repository, at) as mount:
        assert (at / "file").read_bytes() == CONTENT
        told = json.loads(repository.run("mount", "--stats", at, "--json").out)
        assert told["frames_demanded"] >= 2
        assert told["pid"] == mount.pid
        assert "frames_demanded" in repository.run("mount", "--stats", at).out
        os.kill(mount.pid, signal.SIGUSR1)
        while "frames_demanded" not in mount.log():
            pass


TAKE_THE_NAMES = """
import os, selectors, socket, subprocess, sys, threading
os.seteuid(65534)
selector = selectors.DefaultSelector()
for number in range(1, 400):
    held = socket.socket(socket.AF_UNIX)
    held.bind(f"\\0repo-mount-0:{number}")
    held.listen()
    selector.register(held, selectors.EVENT_READ)
os.seteuid(0)

def lie():
    while True:
        for key, _ in selector.select():
            with key.fileobj.accept()[0] as connection:
                connection.send(b'{"pid": 1}')

threading.Thread(target=lie, daemon=True).start()
mount, statistics = sys.argv[1:].copy(), sys.argv[1:].copy()
statistics[statistics.index("latest")] = "--stats"
sys.exit(subprocess.run(mount).returncode or subprocess.run(statistics).returncode)
"""


def test_who_has_taken_the_name_for_statistics_keeps_nobody_from_mounting(
    repository: Repository, at: Path
) -> None:
    need.root()
    # In a network of its own: these names are common to all processes of one.
    inside = [need.tool("unshare"), "--net", sys.executable, "-c", TAKE_THE_NAMES]
    done = subprocess.run(
        [*inside, *command.words("mount", "latest", at)],
        env=repository.env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "repo: the mount does not answer" in done.stderr  # nor do strangers for it
    assert (at / "file").read_bytes() == CONTENT
    repository.run("umount", at)


def test_a_mount_that_nobody_was_told_of_does_not_stay(repository: Repository, at: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            command.words("mount", "latest", at),
            env=repository.env,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert "No space left" in done.stderr
    assert mountpoint.mount_at(at) is None


def test_a_service_manager_is_told(repository: Repository, at: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(60)
        repository.env["NOTIFY_SOCKET"] = str(tmp_path / "notify")
        try:
            process = _foreground(repository, at)
        finally:
            del repository.env["NOTIFY_SOCKET"]
        assert manager.recv(100) == b"READY=1"
        process.terminate()
        assert process.wait(60) == 0
        process.communicate()


def test_the_background_holds_no_terminal(repository: Repository, at: Path) -> None:
    # Whoever reads the command's output sees its end although the mount goes on.
    process = subprocess.Popen(
        command.words("mount", "latest", at),
        env=repository.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out
    assert os.getsid(Mount(repository, at, at).pid) != os.getsid(0)


def test_the_process_can_be_ended_by_its_pidfd(repository: Repository, at: Path) -> None:
    with mounted(repository, at) as mount:
        process = os.pidfd_open(mount.pid)
        try:
            signal.pidfd_send_signal(process, signal.SIGTERM)
            wait_for_end(process)
        finally:
            os.close(process)
        assert not mount.is_there


def test_mounting_imports_little() -> None:
    code = (
        "import sys, mount.session; "
        "print([m for m in ('pyfuse3', 'rich', 'ingest.session') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="."
    )
    assert done.stdout.strip() == "[]"
