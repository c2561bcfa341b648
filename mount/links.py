"""Links: the names of a point that are hard links of one file, found again in the target.

Whoever meets a name of such a file first restores it; the others link to that. Workers ask
before they restore one, so that of many who meet the file at once only one does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import msgspec

from mount.content import fingerprint
from mount.restoreproblem import Path
from repo.format.node import Entry


class Group(NamedTuple):
    """A file with several names: the file system of the source it is on, its inode, its kind, and
    a fingerprint of its content.
    """

    volume: int
    inode: int
    kind: int
    content: int = 0

    @classmethod
    def of(cls, entry: Entry, volume: int) -> Group:
        """The group of an entry with several links, in a directory on `volume`."""
        return cls(volume, entry.inode, entry.kind, fingerprint(entry))


class Asked(NamedTuple):
    """A question: who restores this group? `names` of its `links` are met here."""

    group: Group
    names: int
    links: int


class Answer(msgspec.Struct, array_like=True, frozen=True):
    """`path`: where it has been restored. Without: `yours` to restore, or in another's hands."""

    path: Path = ()
    yours: bool = False


class Links(Protocol):
    """The registry as one worker sees it."""

    def ask(self, asked: Sequence[Asked]) -> Sequence[Answer]:
        """An answer for each question, at once."""

    def tell(self, made: Sequence[tuple[Group, Path]]) -> None:
        """Where groups that were ours are now; () when it could not be restored."""

    def wait(self, groups: Sequence[Group]) -> Sequence[Answer]:
        """New answers for groups in another's hands, for one of them at least.

        Not before everything that is ours has been told: whoever waits holds nothing.
        """


class _State:
    """A group: who has it in hand (-1: nobody), where it is, how many names are still to come,
    and how many names the workers have that do not know where it is yet.
    """

    __slots__ = ("left", "path", "unanswered", "worker")

    def __init__(self, links: int) -> None:
        self.worker = -1
        self.path: Path = ()
        self.left = links
        self.unanswered: dict[int, int] = {}


class Waiting(NamedTuple):
    """A worker that waits for an answer about these groups."""

    worker: int
    groups: Sequence[Group]


class Registry:
    """Which groups have been restored, and where. Holds those of which names are still to come."""

    def __init__(self, send: Callable[[int, Sequence[Answer]], None]) -> None:
        """`send` hands answers to a worker that waited."""
        self._send = send
        self._states: dict[Group, _State] = {}
        self._waiting: list[Waiting] = []
        self._exact = True

    def ask(self, worker: int, asked: Sequence[Asked]) -> list[Answer]:
        """Answers for a worker."""
        return [self._answer(worker, *question) for question in asked]

    def _answer(self, worker: int, group: Group, names: int, links: int) -> Answer:
        state = self._states.get(group)
        if state is None:
            state = self._states[group] = _State(links)
        state.unanswered[worker] = names
        return self._answer_now(worker, group)

    def _answer_now(self, worker: int, group: Group) -> Answer:
        """What can be said to a worker that has asked. A group whose names are all met is dropped,
        as soon as everybody who met one knows where it is.
        """
        state = self._states[group]
        if not state.path and state.worker >= 0:
            return Answer()
        state.left -= state.unanswered.pop(worker, 0)
        if not state.path:
            state.worker = worker
            return Answer(yours=True)
        self._drop(group, state)
        return Answer(state.path)

    def _drop(self, group: Group, state: _State) -> None:
        if state.left <= 0 and not state.unanswered and self._exact:
            del self._states[group]

    def tell(self, worker: int, made: Sequence[tuple[Group, Path]]) -> None:
        """A worker has restored groups (or failed: without a path) that were its own."""
        for group, path in made:
            state = self._states.get(group)
            if state is None or state.worker != worker:
                continue
            state.path = path
            state.worker = -1
            if path:
                self._drop(group, state)
        self._wake()

    def wait(self, worker: int, groups: Sequence[Group]) -> None:
        """A worker waits; `send` is called as soon as there is an answer for one of the groups."""
        self._waiting.append(Waiting(worker, groups))
        self._wake()

    def lose(self, worker: int) -> None:
        """A worker is gone: what it had to restore is anybody's."""
        self._exact = False  # its task is done again, and meets the same names again
        self._waiting = [waiting for waiting in self._waiting if waiting.worker != worker]
        for state in self._states.values():
            state.unanswered.pop(worker, None)
            if state.worker == worker:
                state.worker = -1
        self._wake()

    def _wake(self) -> None:
        """Answer those who wait for something that is no longer in another's hand."""
        for waiting in list(self._waiting):
            if any(self._is_open(group) for group in waiting.groups):
                self._waiting.remove(waiting)
                answers = [self._answer_now(waiting.worker, group) for group in waiting.groups]
                self._send(waiting.worker, answers)

    def _is_open(self, group: Group) -> bool:
        state = self._states[group]
        return bool(state.path) or state.worker < 0


class LocalLinks:
    """The registry for whoever restores in its process, where nobody else is at work."""

    def __init__(self, registry: Registry, worker: int = 0) -> None:
        self._registry = registry
        self._worker = worker

    def ask(self, asked: Sequence[Asked]) -> Sequence[Answer]:
        """An answer for each question, at once."""
        return self._registry.ask(self._worker, asked)

    def tell(self, made: Sequence[tuple[Group, Path]]) -> None:
        """Where groups that were ours are now."""
        self._registry.tell(self._worker, made)

    def wait(self, groups: Sequence[Group]) -> Sequence[Answer]:
        """Nobody else holds a group."""
        raise AssertionError(f"{len(groups)} groups are in the hands of nobody")
