"""A recovery: brings segments and index back together after a crash, or builds the index anew.

Everything here may itself be killed at any moment: each step leaves a state from which the
same steps lead on. The segments are the truth; the index follows them.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from repo.errors import Damaged, RepositoryFailed
from repo.index.condemned import Condemned
from repo.index.doubt import cast_doubt
from repo.index.environment import Environment, IndexUnusable, Transaction
from repo.index.failure import IndexReplaced
from repo.index.places import Places
from repo.keys import Keys
from repo.multiplexer import frame_table, place_rows
from repo.scanner import Contents, reader_of, scan, search
from repo.storage.durable import fsync_directory, repository_io, try_lock
from repo.storage.fetcher import Fetcher
from repo.storage.folder import Folder
from repo.types import SegmentId

OnSegment = Callable[[int, int], None]
"""Told after each segment: how many are done, and of how many."""


class Recovered(NamedTuple):
    """What a recovery found: segments added to the index, and damage met."""

    added: int
    damages: tuple[Damaged, ...]


def reconcile(folder: Folder, keys: Keys, environment: Environment) -> Recovered:
    """Bring the index up to the closed segments in the folder.

    Adds those that it does not have, or has as still open. Raises IndexUnusable when the index
    relies on a segment that is not there: its places cannot be trusted then.
    """
    places = Places(environment)
    on_disk = dict(folder.segments())
    known = {row.segment_id: row.closed for row in places.segments()}
    fetcher = Fetcher(folder)
    gone = _gone(places, fetcher, known.keys() - on_disk.keys())
    if gone:
        raise IndexUnusable(
            f"the index names {len(gone)} segments that are not there",
            where=f"segment {min(gone).hex()}",
        )
    missing = [i for i, is_open in on_disk.items() if not is_open and not known.get(i, False)]
    try:
        damages = add_segments(places, environment, fetcher, keys, missing)
    finally:
        fetcher.close()
    return Recovered(len(missing), damages)


def catch_up(folder: Folder, keys: Keys, environment: Environment) -> None:
    """`reconcile` for whoever only reads, and goes on when a rebuild has replaced the index.

    Others then write to the new one, or have had one of their own all the time.
    """
    try:
        reconcile(folder, keys, environment)
    except IndexReplaced:
        environment.read_on()
        reconcile(folder, keys, environment)


def _gone(places: Places, fetcher: Fetcher, suspects: Iterable[SegmentId]) -> frozenset[SegmentId]:
    """Those of the segments that the index relies on although they are not there.

    Others write meanwhile: a listing made before a look at the index lacks what came in between.
    So each suspect is asked for by its names, and only then is the index asked whether it still
    needs it: garbage collection retires a segment before it takes its name away. One that was
    put back in between has its name again.
    """
    nameless = {i for i in suspects if not fetcher.is_named(i)}
    if not nameless:
        return frozenset()
    retired = Condemned(places).retired()
    nameless &= {row.segment_id for row in places.segments() if row.number not in retired}
    return frozenset(i for i in nameless if not fetcher.is_named(i))


def add_segments(
    places: Places,
    environment: Environment,
    fetcher: Fetcher,
    keys: Keys,
    segment_ids: Iterable[SegmentId],
    on_segment: Callable[[], None] = lambda: None,
) -> tuple[Damaged, ...]:
    """Put closed segments into the index; a damaged footer is replaced by a search for frames.

    Returns the damage met, a failed read among it: such a segment is in the index with what
    verifies of it, or not at all, and then the next start tries it again. The index is in doubt
    then.
    """
    damages: list[Damaged] = []
    for segment_id in segment_ids:
        met = len(damages)
        found = _contents(fetcher, keys, segment_id, damages)
        if len(damages) > met:
            cast_doubt(environment)  # before the segment counts as known
        if found is not None:
            _add(places, environment, segment_id, found, fetcher=fetcher)
        on_segment()
    return tuple(damages)


def _contents(
    fetcher: Fetcher, keys: Keys, segment_id: SegmentId, damages: list[Damaged]
) -> Contents | None:
    for look in (scan, search):
        try:
            read, size = reader_of(fetcher, segment_id)
            return look(read, size, keys, segment_id)
        except Damaged as damage:
            damages.append(damage)
        except RepositoryFailed as failure:
            where = f"segment {segment_id.hex()}"
            damages.append(Damaged(failure.what, where=where, next_step=failure.next_step))
    damages.pop()  # as the footer, so the frames: once is enough
    return None


def _add_open(
    places: Places, environment: Environment, fetcher: Fetcher, keys: Keys, segment_id: SegmentId
) -> None:
    """Put what a segment that somebody still writes holds so far into the index.

    Published points may rely on what its writer had committed to the index that is lost.
    """
    try:
        read, size = reader_of(fetcher, segment_id)
        found = search(read, size, keys, segment_id)
        fetcher.sync(segment_id)  # the index never names what a power cut could take
    except Damaged:
        return  # removed meanwhile, or not even its header is there yet
    if found.frames:
        _add(places, environment, segment_id, found, fetcher=fetcher, closed=False)


def _add(
    places: Places,
    environment: Environment,
    segment_id: SegmentId,
    found: Contents,
    *,
    fetcher: Fetcher,
    closed: bool = True,
) -> None:
    table = frame_table(found.frames)

    def add_row(txn: Transaction) -> int | None:
        # Garbage collection sets a segment aside before it takes it out of the index, so that
        # nobody who has seen it until then puts it in again.
        if not fetcher.is_named(segment_id):
            return None
        number = places.by_id(segment_id, txn)
        if number is None:
            number = places.add_segment(txn, segment_id, found.header.segment_class)
        places.set_frames(txn, number, table, closed=False)
        return number

    number = environment.write(add_row)
    if number is None:
        return
    places.store_places(place_rows(number, found.frames))
    # Closed only now: a kill before this line makes the next start do it again.
    environment.write(lambda txn: places.set_frames(txn, number, table, closed=closed))


@contextmanager
def rebuilding(path: Path) -> Iterator[None]:
    """Holds the lock of whoever finds the index at `path` unusable; waits for another one.

    The holder looks again before it rebuilds: another process may have done so meanwhile and work
    with the new index already, and a second rebuild would take it from its hands. A rebuild that
    was asked for (`repo rebuild-index`) needs no lock and waits for nobody.
    """
    with repository_io("cannot lock the index", path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with repository_io("cannot lock the index", path.parent):
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def rebuild(folder: Folder, keys: Keys, path: Path, on_segment: OnSegment) -> tuple[Damaged, ...]:
    """Build the index at `path` anew from the segments, then put it in the place of the old one.

    The old index stays until the new one is whole. Returns the damage met.
    """
    sweep_indexes(path)
    # A new index knows nothing of what garbage collection was about to remove, and why.
    folder.put_segments_back(folder.segments_aside())
    fresh, lock = _make_fresh(path)
    try:
        damages = _build(folder, keys, fresh, on_segment)
        if damages:
            folder.read_header()  # raises when it is not some segments that fail but all of it
        _replace(path, fresh)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)  # it may be what fills the disk
        raise
    finally:
        os.close(lock)
    return damages


def _build(folder: Folder, keys: Keys, path: Path, on_segment: OnSegment) -> tuple[Damaged, ...]:
    environment = Environment.open(path, keys.repository_id, create=True)
    fetcher = Fetcher(folder)
    try:
        listing = list(folder.segments())
        segment_ids = [i for i, is_open in listing if not is_open]
        done = 0

        def step() -> None:
            nonlocal done
            done += 1
            on_segment(done, len(segment_ids))

        places = Places(environment)
        if any(folder.points()) or any(folder.points(unfinished=True)):
            cast_doubt(environment)
        damages = add_segments(places, environment, fetcher, keys, segment_ids, step)
        for segment_id in [i for i, is_open in listing if is_open]:
            _add_open(places, environment, fetcher, keys, segment_id)
        environment.sync()
    finally:
        fetcher.close()
        environment.close()
    return damages


def _make_fresh(path: Path) -> tuple[Path, int]:
    """A folder for an index in the making, and the descriptor that holds its lock.

    The lock tells it from what a killed rebuild left behind.
    """
    with repository_io("cannot make the new index", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            fresh = path.with_name(f"{path.name}.new-{secrets.token_hex(4)}")
            fresh.mkdir(mode=0o700)
            with suppress(FileNotFoundError):  # another rebuild took it for a leftover
                lock = os.open(fresh, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                if try_lock(lock) and os.fstat(lock).st_nlink:
                    return fresh, lock
                os.close(lock)


def _replace(path: Path, fresh: Path) -> None:
    with repository_io("cannot put the new index in place", path):
        while True:
            with suppress(FileNotFoundError):
                os.rename(path, path.with_name(f"{path.name}.old-{secrets.token_hex(4)}"))
            try:
                os.rename(fresh, path)
                break
            except OSError as error:
                if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                    raise  # else another rebuild was faster: ours is as good, and newer
        fsync_directory(path.parent)
    sweep_indexes(path)


def sweep_indexes(path: Path) -> None:
    """Remove what killed rebuilds of an index left beside it. Raises RepositoryFailed."""
    with repository_io("cannot remove an old index", path):
        for leftover in path.parent.glob(f"{path.name}.new-*"):
            with suppress(FileNotFoundError):
                lock = os.open(leftover, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                if try_lock(lock):
                    shutil.rmtree(leftover, ignore_errors=True)
                os.close(lock)
        for leftover in path.parent.glob(f"{path.name}.old-*"):
            shutil.rmtree(leftover, ignore_errors=True)
