"""A committer: the thread that owns the writer of a job.

Everything that touches the repository's files or a write transaction of the index is done
here, in the order in which it was posted; the trio loop never waits for a disk. The first
failure ends the job: nothing that was posted behind it is done.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import trio

T = TypeVar("T")


class Committer:
    """Runs calls on one thread, in order. Made inside a trio loop."""

    def __init__(self, on_failure: Callable[[], None]) -> None:
        """`on_failure` is called once, on the loop, when a call has raised."""
        self._token = trio.lowlevel.current_trio_token()
        self._on_failure = on_failure
        # Bounded by what is posted: a frame holds a slot, nodes are counted by `backlog_bytes`.
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self.failure: BaseException | None = None
        self.backlog_bytes = 0
        self._room = trio.Event()
        self._thread = threading.Thread(target=self._run, name="committer", daemon=True)
        self._thread.start()

    def post(
        self, call: Callable[[], Any], done: Callable[[], None] | None = None, *, size: int = 0
    ) -> None:
        """Do `call` on the thread, then `done` on the loop. `size` counts towards the backlog."""
        self.backlog_bytes += size

        def work() -> None:
            call()
            if done is not None or size:
                self._token.run_sync_soon(finish)

        def finish() -> None:
            self.backlog_bytes -= size
            if size:
                self._room.set()
            if done is not None:
                done()

        self._calls.put(work)

    async def call(self, call: Callable[[], T]) -> T:
        """Do `call` on the thread and wait for its result. Raises the job's failure."""
        event = trio.Event()
        result: list[T] = []
        self._calls.put(lambda: result.append(call()))
        self._calls.put(lambda: self._token.run_sync_soon(event.set))
        await event.wait()
        return result[0]

    async def room(self, bytes_max: int) -> None:
        """Wait until at most so many bytes of what was posted are still to be done."""
        while self.backlog_bytes > bytes_max:
            self._room = trio.Event()
            await self._room.wait()

    def end(self) -> None:
        """Finish what was posted and end the thread."""
        self._calls.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (work := self._calls.get()) is not None:
            if self.failure is not None:
                continue
            try:
                work()
            except BaseException as error:  # noqa: BLE001 (whatever it is ends the job)
                self.failure = error
                self._token.run_sync_soon(self._on_failure)
