"""A survey: which directories of a source are, with all below them, what the base has of them.

It comes before a job that would compare every entry with the base (a walk). It goes down the
tree of the base, several directories at a time and on several threads, and looks at each where
it should lie. What it finds as it was is taken over by the id of its node: no task, no message
and no new node come of it. Everything else is for the job, which lists and compares it again.

A directory whose own times say that no name came or went is not listed. So whatever the base
lacks without a sign of it, as a file that could not be read, must be among the names that are
forced: their directories count as changed.
"""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Final

import msgspec

from ingest.audit import Audit
from ingest.base import FORCED_MAX, Forced, problems_of
from ingest.mounts import directory_times_tell
from ingest.statx import open_directory, stat_fd
from ingest.survey.look import look
from ingest.survey.reference import INODE
from repo.errors import Damaged
from repo.format.node import UNPARSABLE, Entry, packed_runs, page_entries
from repo.types import Kind

if TYPE_CHECKING:
    from ingest.base import BaseTree, Foundation
    from ingest.survey.reference import Child, Item
    from ingest.task import Subject
    from repo.repository import Repository
    from repo.tree import Tree

BATCH_MAX: Final = 64
"""Directories, or pages of them, that are looked at together. Their frames are in memory."""

UNCHANGED_MAX: Final = 100_000
"""So many unchanged directories with changed ones above them are known; others are looked at
again.
"""

TICK_SECONDS: Final = 0.1

# Not `parse_entries`: see ingest.known.
_decode_run = msgspec.msgpack.Decoder(list[Entry]).decode


class _Directory:
    """A directory of the base until all below it has been looked at."""

    __slots__ = (
        "above", "directories", "entries", "entry", "path", "said", "unchanged", "unchanged_below",
        "waiting",
    )  # fmt: skip

    def __init__(
        self, path: bytes, above: _Directory | None, entry: bytes, said: tuple[int, int]
    ) -> None:
        """`said`: how many entries, and directories among them, lie below it as its entry says."""
        self.path = path
        self.above = above
        self.entry = entry
        self.said = said
        self.entries = self.directories = 0
        self.waiting = 1
        self.unchanged = True
        self.unchanged_below: list[bytes] = []


class _Part:
    """What is looked at at once: the node of a directory, or one page of it."""

    __slots__ = ("chunk_id", "directory", "is_page")

    def __init__(self, directory: _Directory, chunk_id: bytes, *, is_page: bool = False) -> None:
        self.directory = directory
        self.chunk_id = chunk_id
        self.is_page = is_page


class Survey:
    """A survey of one source. Make it, `run` it once, and read what came of it."""

    def __init__(
        self,
        base: BaseTree,
        root_fd: int,
        subject: Subject,
        forced: Forced,
        new_audit: Callable[[], Audit],
    ) -> None:
        """`base` must have been made by the same rules of selection, and the file system of
        `root_fd` must keep its inode numbers.
        """
        self.unchanged: list[bytes] = []
        """The paths of directories that are, with all below them, what the base has. b"": the
        whole source. Of unchanged ones below another only that one is named."""
        self.files = 0
        self.directories = 0
        self.bytes_source = 0
        self.files_audited = 0
        self.wrong: bytes | None = None
        """A file that an audit found changed without a sign of it."""
        self._base = base
        self._root_fd = root_fd
        self._device = os.fstat(root_fd).st_dev
        self._excluded = _inodes_of(subject, self._device)
        self._frozen = subject.frozen
        self._forced = forced
        self._new_audit = new_audit
        self._waiting: list[_Part] = []
        self._held = 0  # paths in `unchanged` and in `unchanged_below`
        self._busy = 0
        self._stopped = False
        self._failure: BaseException | None = None
        self._changed = threading.Condition()

    def run(self, threads: int, on_tick: Callable[[], None]) -> None:
        """Look at everything, with so many threads; `on_tick` is called meanwhile, here.

        Raises RepositoryFailed.
        """
        root = self._base.point.root
        top = _Directory(
            b"", None, msgspec.msgpack.encode(root), (root.entries_below, root.directories_below)
        )
        self._waiting.append(_Part(top, root.node))
        self._threads = threads
        workers = [threading.Thread(target=self._work, name="survey") for _ in range(threads)]
        for worker in workers:
            worker.start()
        collects = gc.isenabled()
        gc.disable()  # nothing here is in a circle: a collection would only look at all of it
        try:
            for worker in workers:
                while worker.is_alive():
                    worker.join(TICK_SECONDS)
                    on_tick()
        finally:
            if collects:
                gc.enable()
            with self._changed:
                self._stopped = True
                self._changed.notify_all()
            for worker in workers:
                worker.join()
        if self._failure is not None:
            raise self._failure

    # -- on the threads -----------------------------------------------------------------------

    def _work(self) -> None:
        audit = self._new_audit()
        try:
            while parts := self._take():
                self._look(parts, audit)
                with self._changed:
                    self._busy -= 1
                    self._changed.notify_all()
        except BaseException as error:  # noqa: BLE001 (whatever it is ends the job)
            with self._changed:
                self._failure = error
                self._stopped = True
                self._changed.notify_all()

    def _take(self) -> list[_Part]:
        """The next parts for one thread; waits for them. [] at the end."""
        with self._changed:
            while not self._waiting and self._busy and not self._stopped:
                self._changed.wait()
            if self._stopped or not self._waiting:
                return []
            self._busy += 1
            count = min(BATCH_MAX, -(-len(self._waiting) // self._threads))
            taken = self._waiting[-count:]  # the last ones: depth first
            del self._waiting[-count:]
            return taken

    def _look(self, parts: Sequence[_Part], audit: Audit) -> None:
        chunks = self._chunks([part.chunk_id for part in parts])
        runs = [self._runs(*pair) for pair in zip(parts, chunks, strict=True)]
        items: tuple[Item, ...] = tuple(
            (part.directory.path or b".", part.directory.entry, *run)
            for part, run in zip(parts, runs, strict=True)
        )
        found = look(self._root_fd, items, self._base.limit_ns, self._device, self._excluded)
        for part, run, (same, files, *_) in zip(parts, runs, found, strict=True):
            if same and audit.due_among(files) and not self._audit(part.directory, run, audit):
                part.directory.unchanged = False
        with self._changed:
            for part, (same, files, size, children) in zip(parts, found, strict=True):
                self.files += files
                self.bytes_source += size
                part.directory.entries += files
                self._arrived(part.directory, children, unchanged=same)

    def _chunks(self, ids: Sequence[bytes]) -> list[memoryview | None]:
        """The nodes and pages of these ids; None for what is damaged or lost."""
        tree = self._base.tree
        try:
            return [*tree.chunks(ids)]
        except Damaged:  # the job will meet it, too, and tell
            return [_intact(tree, chunk_id) for chunk_id in ids]

    def _runs(self, part: _Part, data: memoryview | None) -> list[memoryview]:
        """The packed entries of a part. Pages of a large directory become parts of their own."""
        directory = part.directory
        try:
            if data is None:
                raise Damaged("a chunk is lost", where="a base")
            if part.is_page:
                return [page_entries(data, where="a base")]
            runs, pages = packed_runs(data, where="a base")
        except Damaged:
            directory.unchanged = False
            return []
        if pages:
            with self._changed:
                directory.waiting += len(pages)
                self._waiting += [_Part(directory, page.id, is_page=True) for page in pages]
        return runs

    def _arrived(
        self, directory: _Directory, children: Sequence[Child], *, unchanged: bool
    ) -> None:
        """A part of a directory was looked at."""
        directory.unchanged = directory.unchanged and unchanged
        for name, entry, node, *said in children:
            path = b"%b/%b" % (directory.path, name) if directory.path else name
            below = _Directory(path, directory, entry, (said[0], said[1]))
            directory.waiting += 1
            self._waiting.append(_Part(below, node))
        directory.waiting -= 1
        done: _Directory | None = directory
        while done is not None and not done.waiting:
            done = self._finish(done)

    def _finish(self, directory: _Directory) -> _Directory | None:
        """All of a directory was looked at. Gives the one above it."""
        self.directories += 1
        above, below = directory.above, directory.unchanged_below
        if (
            directory.unchanged
            and (directory.entries, directory.directories) == directory.said
            and not self._forced.concerns(directory.path)
        ):
            self._held -= len(below)
            if self._held < UNCHANGED_MAX:
                self._held += 1
                below = self.unchanged if above is None else above.unchanged_below
                below.append(directory.path)
        else:
            self.unchanged += below
            if above is not None:
                above.unchanged = False
        if above is not None:
            above.entries += 1 + directory.entries
            above.directories += 1 + directory.directories
            above.waiting -= 1
        return above

    def _audit(self, directory: _Directory, runs: Sequence[memoryview], audit: Audit) -> bool:
        """Read the files among those of a part that were found unchanged whose turn it is; False
        when there is more wrong with its runs than could be seen in passing.
        """
        right = audit.unchanged if self._frozen else audit.right
        try:
            entries = [entry for run in runs for entry in _decode_run(run)]
        except UNPARSABLE:
            return False
        chosen = [entry for entry in entries if entry.kind != Kind.DIRECTORY and audit.due(entry)]
        with suppress(OSError):  # it is gone, or cannot be opened: that says nothing of the base
            fd = open_directory(self._root_fd, directory.path.split(b"/") if directory.path else ())
            try:
                for entry in chosen:
                    self._audit_file(fd, directory.path, entry, right)
            finally:
                os.close(fd)
        return True

    def _audit_file(
        self, fd: int, path: bytes, entry: Entry, right: Callable[[int, bytes, Entry], bool]
    ) -> None:
        self.files_audited += 1
        with suppress(OSError):
            if not right(fd, entry.name, entry):
                self.wrong = b"%b/%b" % (path, entry.name) if path else entry.name
                self._stopped = True


def survey_for(
    repository: Repository, foundation: Foundation, selection: bytes, subject: Subject, root_fd: int
) -> Survey | None:
    """The survey of a source that would be walked; None where its findings would not hold.

    `selection`: as in the base record. With what an unfinished run has read there is none, for
    that is compared, too; nor while content may be missing, which no file shows.
    """
    base = foundation.base
    if (
        base is None
        or foundation.exact
        or foundation.unfinished
        or foundation.lacking is not None
        or base.point.base_record.selection != selection
        or not base.point.root.node
        or not directory_times_tell(stat_fd(root_fd).mount_id)
    ):
        return None
    try:
        problems = islice(problems_of(repository, base.point), FORCED_MAX)
        paths = [problem.path for problem in problems]
    except Damaged:  # the job tells it
        return None
    if len(paths) == FORCED_MAX:
        return None
    return Survey(base, root_fd, subject, Forced(paths), lambda: Audit(repository.keys))


def _intact(tree: Tree, chunk_id: bytes) -> memoryview | None:
    with suppress(Damaged):
        return tree.chunk(chunk_id)
    return None


def _inodes_of(subject: Subject, device: int) -> bytes:
    """The inodes of directories on a device that are never entered, as `look` takes them."""
    inodes = [inode for excluded, inode in subject.excluded if excluded == device]
    if subject.placeholder:
        inodes.append(subject.placeholder)
    return b"".join(map(INODE.pack, inodes))
