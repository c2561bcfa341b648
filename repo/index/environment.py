"""An environment: the LMDB file that holds the index, opened once in a process.

LMDB is told to sync data at every commit and to leave the sync of its own first pages to the
next commit (MDB_NOMETASYNC): after a power cut the file is whole, and at most the last
transaction is missing, unless `sync` was called. It is never told MDB_NOSYNC (which may break
the file) nor MDB_WRITEMAP (which kills the process on a full disk).

The index is disposable. Whatever is wrong with it is IndexUnusable, and a rebuild from the
segments is the only repair. LMDB trusts its pages, so that a damaged file may also end the
process by a signal (SIGBUS, SIGABRT: 2 of 2,500 single flipped bits did, most of them in the
heads of pages); a wrong place that passes is found out when the chunk is read, as its frame then
does not hold the chunk's id.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from struct import Struct
from typing import TYPE_CHECKING, Final, Self, TypeAlias, TypeVar

import lmdb

from repo.errors import RepositoryFailed
from repo.index.failure import IndexReplaced, IndexUnusable, translate, translated
from repo.types import MIB, RepositoryId

__all__ = ["DATA_FILE", "INDEX_FORMAT", "Environment", "IndexUnusable", "Table", "Transaction"]

INDEX_FORMAT: Final = 1
"""Version of what lies in the tables; another one is rebuilt, never converted."""

MAP_BYTES_FIRST: Final = 64 * MIB
READERS_MAX: Final = 1024
TABLES_MAX: Final = 32
DATA_FILE: Final = "data.mdb"

if TYPE_CHECKING:
    Transaction: TypeAlias = lmdb.Transaction[bytes]
else:
    Transaction = lmdb.Transaction  # its class takes no parameter when the program runs
Table = lmdb._Database  # noqa: SLF001 (py-lmdb has no public name for the type of a handle)
Result = TypeVar("Result")

META: Final = b"meta"
_FORMAT_KEY: Final = b"format"
_EPOCH_KEY: Final = b"epoch"
_IDENTITY_KEY: Final = b"identity"
_FORMAT_ROW: Final = Struct("<I16s")
_COUNTER: Final = Struct("<Q")


@contextmanager
def _map_refused(folder: Path) -> Iterator[None]:
    """The file itself says how large its map is: what no machine has was never written there."""
    try:
        yield
    except RepositoryFailed as failure:
        if os.strerror(errno.ENOMEM) not in failure.what:
            raise
        raise IndexUnusable(
            "the index asks for more memory than there is", where=str(folder)
        ) from failure


_libc = ctypes.CDLL(None)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class Environment:
    """The index file of one repository. Made by `open`; usable by all threads of one process.

    Never used across fork. Transactions are short: a map that has to grow waits until the
    process reads nothing.
    """

    def __init__(self, path: Path, environment: lmdb.Environment) -> None:
        self.path = path
        self._environment = environment
        self._pid = os.getpid()
        self._tables: dict[bytes, Table] = {}
        self._failed: RepositoryFailed | None = None
        self._writer = threading.RLock()
        self._gate = threading.Condition()
        self._readers = 0
        self._closed = False  # the gate: nobody begins to read
        self._replaced = False  # and that is known and all right
        self._mine = threading.local()
        self._identity = self._file_identity()
        self.identity = ""
        """Which index this is: epochs of different ones say nothing of each other."""

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], repository_id: RepositoryId | bytes, *, create: bool
    ) -> Self:
        """Opens the index in the folder `path`.

        create: make it when it is missing; one that is there is never replaced.
        Raises IndexUnusable when it is missing, foreign, of another format or damaged, and
        RepositoryFailed when the operating system refuses.
        """
        folder = Path(path)
        if not create and not (folder / DATA_FILE).is_file():
            raise IndexUnusable("the index is missing", where=str(folder))
        with _map_refused(folder), translated(folder, "cannot open the index"):
            if create:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            environment = lmdb.open(
                str(folder),
                map_size=MAP_BYTES_FIRST,
                create=create,
                mode=0o700,  # LMDB drops the x bits for its files
                sync=True,
                metasync=False,
                writemap=False,
                readahead=False,
                max_readers=READERS_MAX,
                max_dbs=TABLES_MAX,
                max_spare_txns=1,
            )
        self = cls(folder, environment)
        try:
            self._check_length()
            with translated(folder, "cannot open the index"):
                environment.reader_check()
            self._check_format(repository_id, create=create)
        except BaseException:
            self.close()
            raise
        return self

    def _check_length(self) -> None:
        # A map over a file that is too short kills the process by SIGBUS at the first look.
        with translated(self.path, "cannot open the index"):
            used_bytes = (self._environment.info()["last_pgno"] + 1) * self._page_bytes()
            if (self.path / DATA_FILE).stat().st_size < used_bytes:
                raise IndexUnusable("the index is cut short", where=str(self.path))

    def _check_format(self, repository_id: bytes, *, create: bool) -> None:
        row = _FORMAT_ROW.pack(INDEX_FORMAT, repository_id)
        names = self._table_names()
        if META not in names and (names or not create):
            raise IndexUnusable("the index is not complete", where=str(self.path))

        def initialise(txn: Transaction) -> Table:
            meta = self._environment.open_db(META, txn=txn)
            if not names:
                txn.put(_FORMAT_KEY, row, overwrite=False, db=meta)
            return meta

        self._tables[META] = self.write(initialise)
        with self.read() as txn:
            found = txn.get(_FORMAT_KEY, db=self._tables[META])
        if found is None or len(found) != _FORMAT_ROW.size:
            raise IndexUnusable("the index has no format row", where=str(self.path))
        version, owner = _FORMAT_ROW.unpack(found)
        if version != INDEX_FORMAT:
            raise IndexUnusable(
                f"the index is of format {version}, this version reads {INDEX_FORMAT}",
                where=str(self.path),
            )
        if owner != repository_id:
            raise IndexUnusable("the index belongs to another repository", where=str(self.path))
        self._take_identity()

    def _take_identity(self) -> None:
        meta = self._tables[META]
        with self.read() as txn:
            held = txn.get(_IDENTITY_KEY, db=meta)
        if held is None:
            fresh = secrets.token_bytes(16)
            self.write(lambda txn: txn.put(_IDENTITY_KEY, fresh, overwrite=False, db=meta))
            with self.read() as txn:
                held = txn.get(_IDENTITY_KEY, db=meta)
        self.identity = (held or b"").hex()

    def _table_names(self) -> list[bytes]:
        with self.read() as txn, txn.cursor() as cursor:
            return list(cursor.iternext(keys=True, values=False))

    def table(self, name: bytes, *, sorted_rows: bool = False) -> Table:
        """The handle of a table, made when it is missing.

        sorted_rows: the table holds many values of one fixed size under each key, in order.
        """
        handle = self._tables.get(name)
        if handle is None:
            handle = self.write(
                lambda txn: self._environment.open_db(
                    name, txn=txn, dupsort=sorted_rows, dupfixed=sorted_rows
                )
            )
            self._tables[name] = handle
        return handle

    # Transactions

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """A view of the index as it is now, for a short look; no await and no write inside.

        A read inside a read is the same view.
        """
        outer: Transaction | None = getattr(self._mine, "reading", None)
        if outer is not None:
            yield outer
            return
        with translated(self.path, "cannot read the index"):
            txn = self._begin_read()
        self._mine.reading = txn
        try:
            yield txn
        except lmdb.Error as error:
            raise translate(error, self.path, "cannot read the index") from error
        finally:
            self._mine.reading = None
            txn.abort()
            self._leave()

    def _begin_read(self) -> Transaction:
        self._check_process()
        while True:
            with self._gate:
                while self._closed:
                    self._gate.wait()
                self._readers += 1
            try:
                return self._environment.begin()
            except lmdb.MapResizedError:
                self._leave()
                self._remap(0)
            except BaseException:
                self._leave()
                raise

    def _leave(self) -> None:
        with self._gate:
            self._readers -= 1
            if not self._readers:
                self._gate.notify_all()

    def write(self, change: Callable[[Transaction], Result]) -> Result:
        """Runs `change` in a write transaction on this thread and commits what it did.

        When the map is full it grows and `change` runs again from the start, so it must do
        nothing else than change the index. An exception of `change` undoes all and goes on.
        Raises RepositoryFailed for a failed write or sync; the environment then takes no more
        writes. Raises IndexUnusable when the index turns out damaged, or was replaced by a
        rebuild: what was committed is then in a file that nobody reads.
        """
        if getattr(self._mine, "reading", None) is not None:
            raise RuntimeError("a write inside a read: a map that grows would wait for ever")
        if getattr(self._mine, "writing", False):
            raise RuntimeError("a write inside a write: use the transaction that is there")
        with self._writer:
            self._check_process()
            if self._failed is not None:
                raise self._failed
            self._check_replaced()  # so that nothing is done in vain, or besides, when it is late
            self._mine.writing = True
            try:
                result = self._run(change)
            except lmdb.Error as error:
                failure = translate(error, self.path, "cannot write the index")
                if isinstance(failure, RepositoryFailed):
                    self._failed = failure
                raise failure from error
            finally:
                self._mine.writing = False
            self._check_replaced()
            return result

    def read_on(self) -> None:
        """Go on with this index although a rebuild has replaced it, for those who still read it.

        What is written from here on is for them alone: for looking up, not to rely on.
        """
        self._replaced = True

    def _check_replaced(self) -> None:
        if not self._replaced and self._file_identity() != self._identity:
            raise IndexReplaced(
                "the index was rebuilt while this process used it",
                where=str(self.path),
                next_step="run the same command again",
            )

    def _run(self, change: Callable[[Transaction], Result]) -> Result:
        while True:
            try:
                txn = self._environment.begin(write=True)
            except lmdb.MapResizedError:
                self._remap(0)
                continue
            try:
                result = change(txn)
                txn.commit()
                return result
            except lmdb.MapFullError:
                self._abort(txn)
            except BaseException:
                self._abort(txn)
                raise
            self._environment.reader_check()  # a dead reader keeps free pages from use
            self._remap(2 * max(self._environment.info()["map_size"], MAP_BYTES_FIRST // 2))

    def _abort(self, txn: Transaction) -> None:
        # py-lmdb waits with an abort for a moment without any other operation, which busy
        # readers never give it.
        with self._nobody_reads():
            txn.abort()

    def _remap(self, map_bytes: int) -> None:
        """Changes the size of the map; 0 takes over what another process made it."""
        with self._nobody_reads():  # LMDB ends every transaction of the process here
            self._environment.set_mapsize(map_bytes)

    @contextmanager
    def _nobody_reads(self) -> Iterator[None]:
        with self._writer:
            self._closed = True  # before the gate's lock, which busy readers hardly ever leave
            try:
                with self._gate:
                    while self._readers:
                        self._gate.wait()
                yield
            finally:
                with self._gate:
                    self._closed = False
                    self._gate.notify_all()

    def sync(self) -> None:
        """Makes the last commit survive a power cut too. Raises RepositoryFailed.

        To be called before anything is published that relies on it.
        """
        with self._writer:
            self._check_process()
            try:
                self._environment.sync(True)
            except lmdb.Error as error:
                failure = translate(error, self.path, "cannot make the index durable")
                if isinstance(failure, RepositoryFailed):
                    self._failed = failure
                raise failure from error

    # Counters

    def epoch(self, txn: Transaction | None = None) -> int:
        """The epoch: how many times garbage collection condemned chunks or retired segments."""
        return self.counter(_EPOCH_KEY, txn)

    def advance_epoch(self, txn: Transaction) -> int:
        """Begins the next epoch and returns it; in the transaction that makes it necessary."""
        return self.take(_EPOCH_KEY, txn) + 1

    def counter(self, name: bytes, txn: Transaction | None = None) -> int:
        """The value of a counter, 0 when it was never taken from."""
        if txn is None:
            with self.read() as view:
                return self.counter(name, view)
        row = txn.get(name, db=self._tables[META])
        if row is None:
            return 0
        if len(row) != _COUNTER.size:
            raise IndexUnusable("a counter of the index is damaged", where=str(self.path))
        return int(_COUNTER.unpack(row)[0])

    def take(self, name: bytes, txn: Transaction) -> int:
        """The value of a counter before it is raised by one."""
        value = self.counter(name, txn)
        self.set_counter(name, value + 1, txn)
        return value

    def set_counter(self, name: bytes, value: int, txn: Transaction) -> None:
        """Give a counter a value."""
        txn.put(name, _COUNTER.pack(value), db=self._tables[META])

    # Size and end

    def file_bytes(self) -> int:
        """Size of the file, free pages included."""
        with translated(self.path, "cannot read the index"):
            return (self.path / DATA_FILE).stat().st_size

    def release_memory(self) -> None:
        """Let go of the pages of the file that were looked at; they come back when needed.

        They lie in the page cache in any case, but count as this process's memory while mapped: a
        walk over the whole index would grow by its size. The map is never written through.
        """
        name = os.fsencode(os.path.realpath(self.path / DATA_FILE))
        try:
            with open("/proc/self/maps", "rb") as maps:
                for line in maps:
                    if line.rstrip().endswith(name):
                        start, end = (int(part, 16) for part in line.split(b" ", 1)[0].split(b"-"))
                        _libc.madvise(start, end - start, mmap.MADV_DONTNEED)
        except OSError:
            return  # it was only to be polite

    def table_pages(self, table: Table) -> int:
        """Pages that a table takes."""
        with self.read() as txn:
            stat = txn.stat(table)
        return stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]

    def close(self) -> None:
        """Closes the environment; a second call does nothing."""
        if os.getpid() == self._pid:
            with self._writer:
                self._environment.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _page_bytes(self) -> int:
        return self._environment.stat()["psize"]

    def _file_identity(self) -> tuple[int, int] | None:
        try:
            status = (self.path / DATA_FILE).stat()
        except FileNotFoundError:
            return None
        return status.st_dev, status.st_ino

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise RuntimeError("an index environment is never used across fork")
