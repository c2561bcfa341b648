"""The environment: opened only when it is ours and whole; growth, kills and full disks."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest

from repo.errors import RepositoryFailed
from repo.index import environment as module
from repo.index.environment import DATA_FILE, Environment, IndexUnusable, Transaction
from repo.types import MIB, RepositoryId
from tests.repo import child
from tests.support import loopfs

OURS = RepositoryId(b"r" * 16)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Environment]:
    with Environment.open(tmp_path / "index", OURS, create=True) as environment:
        yield environment


def put(environment: Environment, key: bytes, value: bytes) -> None:
    table = environment.table(b"test")
    environment.write(lambda txn: txn.put(key, value, db=table))


def get(environment: Environment, key: bytes) -> bytes | None:
    table = environment.table(b"test")
    with environment.read() as txn:
        return txn.get(key, db=table)


def refused(path: Path, repository_id: RepositoryId = OURS) -> str:
    with pytest.raises(IndexUnusable) as caught:
        Environment.open(path, repository_id, create=False)
    assert "rebuild-index" in caught.value.next_step
    assert str(path) in caught.value.where
    return caught.value.what


def test_what_was_written_is_there_when_opened_again(tmp_path: Path) -> None:
    for create in (True, True, False):
        with Environment.open(tmp_path / "index", OURS, create=create) as environment:
            put(environment, b"key", b"value")
            assert get(environment, b"key") == b"value"
    assert (tmp_path / "index").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "index" / DATA_FILE).stat().st_mode & 0o777 == 0o600


def test_a_missing_one_is_refused_and_not_made(tmp_path: Path) -> None:
    assert "missing" in refused(tmp_path / "index")
    (tmp_path / "index").mkdir()
    assert "missing" in refused(tmp_path / "index")
    assert os.listdir(tmp_path / "index") == []


def test_a_foreign_one_is_refused_even_when_creating(tmp_path: Path) -> None:
    Environment.open(tmp_path / "index", RepositoryId(b"x" * 16), create=True).close()
    assert "another repository" in refused(tmp_path / "index")
    with pytest.raises(IndexUnusable):
        Environment.open(tmp_path / "index", OURS, create=True)


def test_another_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(module, "INDEX_FORMAT", 99)
        Environment.open(tmp_path / "index", OURS, create=True).close()
    assert "format 99" in refused(tmp_path / "index")


def test_an_lmdb_file_of_somebody_else_is_refused(tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path / "index"), max_dbs=2) as other:
        other.open_db(b"theirs")
    assert "not complete" in refused(tmp_path / "index")
    with pytest.raises(IndexUnusable, match="not complete"):
        Environment.open(tmp_path / "index", OURS, create=True)


@pytest.mark.parametrize("length", [0, 1, 100, 4096, 8192, 12288])
def test_one_cut_short_is_refused(tmp_path: Path, length: int) -> None:
    with Environment.open(tmp_path / "index", OURS, create=True) as environment:
        put(environment, b"key", bytes(100_000))
    os.truncate(tmp_path / "index" / DATA_FILE, length)
    refused(tmp_path / "index")


@pytest.mark.parametrize("content", [b"\0" * 16384, b"\xff" * 16384, b"not LMDB" * 2048])
def test_garbage_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / DATA_FILE).write_bytes(content)
    refused(tmp_path / "index")


def test_a_creation_killed_before_its_commit_is_repeated(tmp_path: Path) -> None:
    # All that LMDB leaves then is a file with two empty meta pages.
    lmdb.open(str(tmp_path / "index"), max_dbs=1).close()
    assert "not complete" in refused(tmp_path / "index")
    Environment.open(tmp_path / "index", OURS, create=True).close()
    Environment.open(tmp_path / "index", OURS, create=False).close()


def test_an_exception_undoes_all(index: Environment) -> None:
    table = index.table(b"test")

    def change(txn: Transaction) -> None:
        txn.put(b"key", b"value", db=table)
        raise KeyError

    with pytest.raises(KeyError):
        index.write(change)
    assert get(index, b"key") is None
    put(index, b"key", b"value")
    assert get(index, b"key") == b"value"


def test_the_map_grows_and_the_change_runs_again(index: Environment) -> None:
    table = index.table(b"test")
    runs = []

    def change(txn: Transaction) -> str:
        runs.append(txn.get(b"first", db=table))
        txn.put(b"first", b"", db=table)
        for number in range(150):
            txn.put(b"%03d" % number, bytes(MIB), db=table)
        return "result"

    assert index.write(change) == "result"
    assert runs == [None, None, None]  # 64 MiB, 128, 256: each began from nothing
    assert get(index, b"149") == bytes(MIB)


def test_readers_of_other_threads_are_waited_for(index: Environment) -> None:
    put(index, b"key", b"value")
    table = index.table(b"test")
    reading, wrong = threading.Event(), []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            try:
                with index.read() as txn:
                    reading.set()
                    values = {txn.get(b"key", db=table) for _ in range(20)}
                assert values == {b"value"}
            except BaseException as error:  # noqa: BLE001 (handed to the test)
                wrong.append(repr(error))
                return

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    reading.wait()
    for number in range(6):
        large = bytes(60 * MIB)
        index.write(lambda txn, n=number, v=large: txn.put(b"%d" % n, v, db=table))  # type: ignore[misc]
    done.set()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_write_inside_a_read_or_write_is_a_mistake(index: Environment) -> None:
    with index.read(), pytest.raises(RuntimeError, match="inside a read"):
        index.write(lambda txn: None)
    with pytest.raises(RuntimeError, match="inside a write"):
        index.write(lambda txn: index.table(b"another"))
    put(index, b"key", b"value")


def test_a_read_inside_a_read_sees_the_same(index: Environment) -> None:
    with index.read() as outer, index.read() as inner:
        assert inner is outer
    with index.read() as txn:
        assert txn.id() >= 0


def test_it_is_never_used_across_fork(index: Environment) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            index.epoch()
        except RuntimeError:
            os._exit(0)
        os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
    assert index.epoch() == 0


def test_counters(index: Environment) -> None:
    assert index.epoch() == 0
    assert index.write(index.advance_epoch) == 1
    assert index.write(index.advance_epoch) == 2
    assert index.epoch() == 2
    assert [index.write(lambda txn: index.take(b"n", txn)) for _ in range(3)] == [0, 1, 2]
    index.sync()


def test_a_writer_notices_that_the_index_was_rebuilt(tmp_path: Path, index: Environment) -> None:
    put(index, b"key", b"value")
    (tmp_path / "index").rename(tmp_path / "old")
    Environment.open(tmp_path / "new", OURS, create=True).close()
    (tmp_path / "new").rename(tmp_path / "index")
    with pytest.raises(IndexUnusable, match="rebuilt") as caught:
        put(index, b"key", b"lost")
    assert "same command again" in caught.value.next_step


@pytest.mark.parametrize(("kind", "size"), [("tmpfs", 2), ("ext4", 6)])
def test_a_full_disk_ends_writing_and_keeps_what_was_committed(
    tmp_path: Path, kind: str, size: int
) -> None:
    with loopfs.mounted(kind, tmp_path, size_bytes=size * MIB) as disk:
        with Environment.open(disk.path / "index", OURS, create=True) as environment:
            put(environment, b"key", b"value")
            with pytest.raises(RepositoryFailed, match="No space left") as caught:
                put(environment, b"large", bytes(8 * MIB))
            assert caught.value.exit_status == 12
            assert "free space" in caught.value.next_step
            with pytest.raises(RepositoryFailed, match="No space left"):
                put(environment, b"small", b"x")
            assert get(environment, b"key") == b"value"
        with Environment.open(disk.path / "index", OURS, create=False) as environment:
            assert get(environment, b"key") == b"value"
            assert get(environment, b"large") is None
            put(environment, b"small", b"x")


OTHER = """
import sys
from repo.index.environment import Environment
environment = Environment.open(sys.argv[1], b"r" * 16, create=False)
table = environment.table(b"test")
print("ready", flush=True)
for line in sys.stdin:
    verb, key, *rest = line.split()
    if verb == "put":
        environment.write(lambda txn: txn.put(key.encode(), bytes(int(rest[0])), db=table))
        print("done", flush=True)
    else:
        with environment.read() as txn:
            print(len(txn.get(key.encode(), db=table) or b""), flush=True)
"""


def test_two_processes_share_an_index_that_grows(tmp_path: Path, index: Environment) -> None:
    put(index, b"small", b"12345")
    with child.running(OTHER, tmp_path / "index") as other:
        assert child.ask(other, "get small") == "5"
        put(index, b"a", bytes(100 * MIB))  # beyond the other's map
        assert child.ask(other, "get a") == str(100 * MIB)
        assert child.ask(other, f"put b {150 * MIB}") == "done"  # and beyond ours
        assert len(get(index, b"b") or b"") == 150 * MIB
        put(index, b"c", bytes(300 * MIB))
        assert child.ask(other, "put d 10") == "done"  # its first act after growth is a write
        assert get(index, b"d") == bytes(10)


WRITER = """
import os, sys
from repo.index.environment import Environment
environment = Environment.open(sys.argv[1], b"r" * 16, create=False)
table = environment.table(b"test")
start = int(sys.argv[2])
print("ready", flush=True)
for turn in range(start, start + 100_000):
    def change(txn):
        for number in range(50):
            txn.put(b"%08d.%02d" % (turn, number), os.urandom(200), db=table)
        txn.put(b"last", b"%08d" % turn, db=table)
    environment.write(change)
    print(turn, flush=True)
"""


def test_killed_writers_leave_whole_transactions(tmp_path: Path, index: Environment) -> None:
    table = index.table(b"test")
    last = -1
    for round_number in range(8):
        with child.running(WRITER, tmp_path / "index", last + 1) as writer:
            assert writer.stdout is not None
            for _ in range(3 + round_number):
                committed = int(writer.stdout.readline())
            writer.kill()
            writer.wait()
        with index.read() as txn:
            last = int(txn.get(b"last", b"", db=table))
            assert last >= committed
            found = set(txn.cursor(table).iternext(keys=True, values=False)) - {b"last"}
        assert found == {b"%08d.%02d" % (t, n) for t in range(last + 1) for n in range(50)}
        put(index, b"last", b"%08d" % last)  # the dead writer's lock is free
