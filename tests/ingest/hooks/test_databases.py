"""The ready hooks, each with its real database: what is written while frozen, and afterwards."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.ingest.hooks.making import HookFolder, until
from tests.support import command, need

READY = command.PROJECT / "docs" / "hooks"
POSTGRESQL = Path("/usr/lib/postgresql/15/bin")


@pytest.fixture
def hooks(tmp_path: Path) -> HookFolder:
    return HookFolder(tmp_path)


def put(hooks: HookFolder, name: str, *phases: str) -> None:
    for phase in phases:
        place = hooks.path / f"{phase}.d"
        place.mkdir(exist_ok=True)
        shutil.copy(READY / name, place / name)


def test_sqlite_waits_and_its_log_is_empty(
    hooks: HookFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need.tool("sqlite3")
    put(hooks, "sqlite", "freeze", "thaw")
    database, state, fifo = tmp_path / "a b.db", tmp_path / "state", tmp_path / "fifo"
    sqlite(database, "PRAGMA journal_mode=WAL; CREATE TABLE t(x);")
    keeper = subprocess.Popen(  # as long as somebody has it open, the log stays
        ["sqlite3", database], stdin=subprocess.PIPE, text=True
    )
    assert keeper.stdin is not None
    keeper.stdin.write("INSERT INTO t VALUES (1);\n")
    keeper.stdin.flush()
    until(lambda: count(database) == 1, lambda: "not inserted")
    monkeypatch.setenv("SQLITE_DATABASES", f"{database}\n")
    monkeypatch.setenv("SQLITE_HOOK_STATE", str(state))
    os.mkfifo(fifo)
    job = hooks.start(fifo)
    assert job.stdout is not None
    assert job.stdout.readline() == "snapshot True\n"
    # The database file alone has it all, and nobody adds to it.
    shutil.copy(database, tmp_path / "copy.db")
    assert count(tmp_path / "copy.db") == 1
    assert "locked" in sqlite(database, "INSERT INTO t VALUES (2);", status=5)
    fifo.write_bytes(b"")
    out, _ = job.communicate(timeout=30)
    assert (job.returncode, out) == (0, "problems 0\n")
    assert not state.exists()
    sqlite(database, "INSERT INTO t VALUES (2);")
    keeper.communicate(timeout=30)
    assert count(database) == 2


def test_sqlite_that_cannot_be_locked_is_not_backed_up(
    hooks: HookFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need.tool("sqlite3")
    put(hooks, "sqlite", "freeze", "thaw")
    monkeypatch.setenv("SQLITE_DATABASES", str(tmp_path / "none" / "x.db"))
    monkeypatch.setenv("SQLITE_HOOK_STATE", str(tmp_path / "state"))
    status, out = hooks.run()
    assert status == 5
    assert "unable to open database" in out
    assert not (tmp_path / "state").exists()


def sqlite(database: Path, line: str, status: int = 0) -> str:
    ran = subprocess.run(
        ["sqlite3", "-bail", database, line], capture_output=True, text=True, check=False
    )
    assert ran.returncode == status, ran.stderr
    return ran.stdout + ran.stderr


def count(database: Path) -> int:
    return int(sqlite(database, "SELECT count(*) FROM t;"))


class Server:
    """A database server of a test's own, on a socket in a folder of its own."""

    def __init__(self, folder: Path, words: list[str | Path], env: Mapping[str, str]) -> None:
        self.folder = folder
        self.env = env
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(words, stdout=log, stderr=log)

    def stop(self, number: signal.Signals) -> None:
        """End it, and wait for its end."""
        self.process.send_signal(number)
        try:
            self.process.wait(60)
        finally:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def server_folder() -> Iterator[Path]:
    """A short path that servers may reach that do not run as root."""
    with tempfile.TemporaryDirectory(prefix="repo-db-") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


def missing(what: str) -> None:
    """Database servers are not installed by tools/setup, not even for CI."""
    pytest.skip(f"needs {what}")


@pytest.fixture
def mariadb(server_folder: Path) -> Iterator[Server]:
    if shutil.which("mariadbd") is None or os.geteuid() != 0:
        missing("mariadb-server (Debian: mariadb-server), and root")
    data = server_folder / "data"
    common = ["--no-defaults", f"--datadir={data}", "--user=mysql"]
    install = ["mariadb-install-db", *common, "--auth-root-authentication-method=normal"]
    subprocess.run([*install, "--skip-test-db"], check=True, capture_output=True)
    shutil.chown(server_folder, "mysql")
    socket = server_folder / "s"
    words: list[str | Path] = ["mariadbd", *common, f"--socket={socket}", "--skip-networking"]
    server = Server(server_folder, [*words, f"--pid-file={server_folder}/pid"], {})
    try:
        until(socket.exists, (server_folder / "log").read_text)
        yield server
    finally:
        server.stop(signal.SIGTERM)


@pytest.mark.deep
def test_mariadb_is_locked_while_frozen_only(
    hooks: HookFolder, mariadb: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(hooks, "mysql", "freeze", "thaw")
    socket = mariadb.folder / "s"
    monkeypatch.setenv("MYSQL_OPTIONS", f"--no-defaults --user=root --socket={socket}")
    monkeypatch.setenv("MYSQL_HOOK_STATE", str(tmp_path / "state"))

    def sql(line: str) -> subprocess.Popen[str]:
        words = ["mysql", "--no-defaults", "--user=root", f"--socket={socket}", "-BNe", line]
        return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def answer(line: str) -> str:
        process = sql(line)
        out, _ = process.communicate(timeout=30)
        assert process.returncode == 0, out
        return out.strip()

    answer("CREATE DATABASE d; CREATE TABLE d.t (x INT) ENGINE=MyISAM")
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    job = hooks.start(fifo)
    try:
        assert job.stdout is not None
        assert job.stdout.readline() == "snapshot True\n"
        writer = sql("INSERT INTO d.t VALUES (1)")
        waiting = (
            "SELECT count(*) FROM information_schema.processlist WHERE state LIKE 'Waiting for%'"
        )
        until(lambda: answer(waiting) == "1", lambda: "the writer does not wait")
        assert answer("SELECT count(*) FROM d.t") == "0"
    finally:
        job.kill()  # the watchdog thaws
        job.communicate()
    writer.communicate(timeout=30)
    assert writer.returncode == 0
    assert answer("SELECT count(*) FROM d.t") == "1"
    until(lambda: not (tmp_path / "state").exists(), lambda: "state is left")


@pytest.mark.deep
def test_a_mariadb_that_is_down_fails_the_freeze(
    hooks: HookFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("mysql") is None:
        missing("mysql")
    put(hooks, "mysql", "freeze", "thaw")
    monkeypatch.setenv("MYSQL_OPTIONS", f"--no-defaults --socket={tmp_path}/nowhere")
    monkeypatch.setenv("MYSQL_HOOK_STATE", str(tmp_path / "state"))
    status, out = hooks.run()
    assert status == 5
    assert "Can't connect" in out
    assert not (tmp_path / "state").exists()


@pytest.fixture
def postgresql(server_folder: Path) -> Iterator[Server]:
    if not POSTGRESQL.is_dir() or os.geteuid() != 0:
        missing("PostgreSQL 15 (Debian: postgresql-15), and root")
    shutil.chown(server_folder, "postgres")
    data = server_folder / "data"
    user = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--init-groups"]
    initdb: list[str | Path] = [
        *user,
        POSTGRESQL / "initdb",
        "-D",
        data,
        "-A",
        "trust",
        "--no-sync",
    ]
    subprocess.run(initdb, check=True, capture_output=True)
    words: list[str | Path] = [
        *user,
        POSTGRESQL / "postgres",
        "-D",
        data,
        "-k",
        server_folder,
        "-h",
        "",
    ]
    server = Server(server_folder, words, {"PGHOST": str(server_folder), "PGUSER": "postgres"})
    try:
        ready: list[str | Path] = [POSTGRESQL / "pg_isready", "-q", "-h", server_folder]
        until(
            lambda: subprocess.run(ready, check=False).returncode == 0,
            (server_folder / "log").read_text,
        )
        yield server
    finally:
        server.stop(signal.SIGINT)


@pytest.mark.deep
def test_postgresql_makes_a_checkpoint(
    hooks: HookFolder, postgresql: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(hooks, "postgresql", "freeze")
    for name, value in postgresql.env.items():
        monkeypatch.setenv(name, value)

    def answer(line: str) -> str:
        words = ["psql", "-XqAt", "-d", "postgres", "-c", line]
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()

    answer("CREATE TABLE t(x int)")
    before = answer("SELECT checkpoint_lsn FROM pg_control_checkpoint()")
    answer("INSERT INTO t VALUES (1)")
    status, out = hooks.run()
    assert status == 0, out
    after = answer("SELECT checkpoint_lsn FROM pg_control_checkpoint()")
    assert answer(f"SELECT '{after}'::pg_lsn > '{before}'::pg_lsn") == "t"


@pytest.mark.deep
def test_a_postgresql_that_is_down_fails_the_freeze(
    hooks: HookFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not POSTGRESQL.is_dir():
        missing("PostgreSQL 15")
    put(hooks, "postgresql", "freeze")
    monkeypatch.setenv("PGHOST", str(tmp_path))
    status, out = hooks.run()
    assert status == 5
    assert "Is the server running" in out
