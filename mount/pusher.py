"""A pusher: hands content to the kernel's page cache before anybody asks for it.

From a thread, never from the loop: the kernel waits for a page that somebody is reading, and the
loop has to answer him. One batch at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import trio

Parts = list[bytes | memoryview]

Store = Callable[[int, int, Parts], None]
"""Puts content into the page cache: inode number, offset in bytes, the content in parts."""


@dataclass
class PushCounts:
    """Files handed to the kernel, and those that it did not know (any more)."""

    files_pushed: int = 0
    files_refused: int = 0


class Pusher:
    """Pushes the beginnings of files, from byte 0 and never past their ends."""

    def __init__(self) -> None:
        self.counts = PushCounts()
        self._store: Store | None = None
        self._busy = False

    def use(self, store: Store) -> None:
        """From now on there is a kernel to push to."""
        self._store = store

    @property
    def is_idle(self) -> bool:
        """Whether a batch would be taken."""
        return self._store is not None and not self._busy

    def push(self, files: Sequence[tuple[int, Parts]]) -> None:
        """Hand over files: inode numbers with the whole content. Call it when idle."""
        self._busy = True

        def done(_outcome: object) -> None:
            self._busy = False

        trio.lowlevel.start_thread_soon(lambda: self._push(files), done)

    def _push(self, files: Sequence[tuple[int, Parts]]) -> None:
        store = self._store
        assert store is not None
        for position, (number, parts) in enumerate(files):
            try:
                store(number, 0, parts)
            except OSError:
                # It does not know this one: then hardly the ones behind it.
                self.counts.files_refused += len(files) - position
                return
            self.counts.files_pushed += 1
