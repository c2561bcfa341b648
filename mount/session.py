"""A session: the life of one mount, from the lease to the last request."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from mount import allocator, mountpoint
from mount.adapters import Adapter, OwnLoop
from mount.ahead import Ahead
from mount.answers import AS_RECORDED, DEADLINE_SECONDS, Answers, Appearance, Figures
from mount.bell import Bell
from mount.cache import FrameCache
from mount.prefetcher import Prefetcher
from mount.pusher import Pusher
from mount.shelf import Shelf
from mount.statistics import Statistics, answer_questions
from mount.vfs import Branch, FileTree, Memory
from mount.views import RepositoryTree
from repo.errors import RepoError, UsageError
from repo.repository import Repository
from repo.types import MIB

ALL: Final = "all"
"""In place of a point: the whole repository."""

DEVICE: Final = "device"
PYFUSE3: Final = "pyfuse3"
"""Who speaks to the kernel: our own loop, or pyfuse3 (slower; should the first ever fail)."""

CACHE_BYTES: Final = 256 * MIB
META_CACHE_BYTES: Final = 8 * MIB
"""For what is read past the frame cache: a search for a hard link."""

log = logging.getLogger("repo.mount")


@dataclass(frozen=True)
class MountRequest:
    """What to mount where. `point` is `all` or what a user calls a point; sizes in bytes."""

    point: str
    mountpoint: str
    cache_bytes: int = CACHE_BYTES
    appearance: Appearance = AS_RECORDED
    allow_other: bool = False
    deadline_seconds: float = DEADLINE_SECONDS
    adapter: str = DEVICE


def mount(repository: Repository, request: MountRequest, on_ready: Callable[[], None]) -> None:
    """Mount and serve until somebody unmounts. `on_ready`: the mount answers.

    A mount holds a lease, so that garbage collection takes nothing away under it. Raises
    UsageError for a point or mountpoint that will not do, and JobFailed.
    """
    where = mountpoint.check(request.mountpoint)
    _check_hides_nothing(repository, Path(where).resolve())
    allocator.settle()
    with repository.lease(f"mount {where}", reading=True):
        _Session(repository, request, where).run(on_ready)


def _check_hides_nothing(repository: Repository, where: Path) -> None:
    """Raises UsageError for a mountpoint behind which the repository would be out of reach."""
    for needed in (repository.path.resolve(), repository.index_path.resolve()):
        if where == needed or where in needed.parents or needed in where.parents:
            raise UsageError(
                f"the mount would hide what it needs itself: {needed}",
                where=str(where),
                next_step="mount on a folder that is neither above nor in the repository",
            )


class _Session:
    """One mount that is being served."""

    def __init__(self, repository: Repository, request: MountRequest, where: str) -> None:
        self._where = where
        self._is_ready = False
        self._request = request
        self._repository = repository
        self._bell = Bell()
        reader = repository.new_reader(cache_bytes=META_CACHE_BYTES)
        cache = FrameCache(request.cache_bytes)
        shelf = Shelf(reader, cache)
        tree, figures, has_xattrs = self._tree(Memory(shelf))
        prefetcher = Prefetcher(
            reader, cache, self._bell, frame_bytes=repository.header.frame_bytes
        )
        self._pusher = Pusher()
        self._ahead = Ahead(tree, shelf, prefetcher, cache, self._pusher, self._bell)
        self._requests: Counter[str] = Counter()
        self._statistics = Statistics(cache.counts, prefetcher, self._pusher.counts, self._requests)
        self._answers = Answers(
            tree,
            shelf,
            prefetcher,
            self._ahead,
            appearance=request.appearance,
            figures=figures,
            has_xattrs=has_xattrs,
            deadline_seconds=request.deadline_seconds,
        )

    def _tree(self, memory: Memory) -> tuple[FileTree, Callable[[], Figures], bool]:
        if self._request.point == ALL:
            views = RepositoryTree(self._repository, memory)
            return views, lambda: Figures(*views.figures()), True
        point = self._repository.point(self._request.point, unfinished=True)
        figures = Figures(point.root.bytes_below, point.root.entries_below + 1)
        return Branch(point.root, 0, memory), lambda: figures, point.has_xattrs

    def run(self, on_ready: Callable[[], None]) -> None:
        """Mount, serve until the mount is gone, and clean up.

        Does not unmount at the end: either it is done, or, after a failure of ours, the dead
        mount has to be seen. Only one that never became ready goes: nobody relies on it yet.
        """
        adapter: Adapter
        if self._request.adapter == PYFUSE3:
            from mount.operations import Pyfuse3  # late: most mounts never need libfuse

            adapter = Pyfuse3(self._answers, self._bell)
        else:
            adapter = OwnLoop(
                self._answers, self._bell, self._requests, changes=self._request.point == ALL
            )
        source = os.fsdecode(self._repository.path)
        adapter.attach(self._where, source, allow_other=self._request.allow_other)
        try:
            trio.run(self._serve, adapter, on_ready)
        finally:
            adapter.close()
            if not self._is_ready:
                with contextlib.suppress(RepoError, OSError):
                    mountpoint.unmount(self._where, lazy=True)

    async def _serve(self, adapter: Adapter, on_ready: Callable[[], None]) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(self._heed_signals, adapter)
            nursery.start_soon(self._ahead.run)
            nursery.start_soon(self._become_ready, adapter, on_ready, nursery)
            await adapter.run()
            nursery.cancel_scope.cancel()

    async def _become_ready(
        self, adapter: Adapter, on_ready: Callable[[], None], nursery: trio.Nursery
    ) -> None:
        await adapter.initialised.wait()
        self._pusher.use(adapter.store)
        found = mountpoint.mount_at(self._where)
        if found is not None:
            mountpoint.tune(found.device)
            await nursery.start(answer_questions, found.device, self._statistics)
        on_ready()
        self._is_ready = True

    async def _heed_signals(
        self,
        adapter: Adapter,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        ending = False
        with trio.open_signal_receiver(
            signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1
        ) as signals:
            task_status.started()
            async for number in signals:
                if number == signal.SIGUSR1:
                    log.warning("%s", self._statistics.line())
                elif ending:
                    adapter.terminate()
                else:
                    ending = True
                    await self._leave()

    async def _leave(self) -> None:
        """Unmount. When somebody uses the mount its name goes at once, and we with the last user.

        A second signal does not wait for that.
        """
        try:
            await trio.to_thread.run_sync(mountpoint.unmount, self._where)
        except (RepoError, OSError) as error:
            log.warning("%s", error)
        else:
            return
        with contextlib.suppress(RepoError):
            await trio.to_thread.run_sync(lambda: mountpoint.unmount(self._where, lazy=True))


def default_place(name: str) -> Path | None:
    """Where file managers look for a user's media: a folder below /run/media/$USER, if any."""
    above = Path("/run/media") / os.environ.get("USER", "")
    return above / name if above.is_dir() and above.name != "media" else None
