"""A rehearsal: the answer to the next listing, made while the client still works on the last one.

A program that walks a tree reads a folder to its end and then goes on with the first folder in
it, or else the next one beside it, which is the order of ranks. So the next request is known
as a rule, and the time in which the loop would only wait for it is used to make the answer.
Other folders than the one being read are rehearsed only once somebody has gone on in that order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from mount.source import Blocked
from mount.vfs import Branch, Found
from repo.errors import RepoError

ANSWERS_HELD: Final = 4
IN_ORDER_LEAST: Final = 2


class Request(NamedTuple):
    """A request for a listing: which folder, from which position on, bytes of room."""

    number: int
    start: int
    room: int


class Answer(NamedTuple):
    """Its answer, where the listing goes on behind it, and the hard links told in it."""

    data: bytes
    following: int
    links: list[Found]


class Rehearsal:
    """Answers that were made before they were asked for."""

    def __init__(
        self, make: Callable[[Request], Answer], branch: Callable[[int], Branch | None]
    ) -> None:
        """make: makes an answer. branch: the point that a number belongs to."""
        self._make = make
        self._branch = branch
        self._answers: dict[Request, Answer] = {}
        self._next: Request | None = None
        self._expected = 0
        self._in_order = 0

    def answer(self, request: Request) -> Answer:
        """The answer, made now unless it is there. May raise what making it raises."""
        if request.start == 0:
            self._in_order = self._in_order + 1 if request.number == self._expected else 0
        answer = self._answers.pop(request, None)
        if answer is None:
            answer = self._make(request)
        self._next = self._after(request, answer)
        return answer

    @property
    def is_due(self) -> bool:
        """Whether there is something to rehearse."""
        return self._next is not None

    def rehearse(self) -> None:
        """Make the next answer. What goes wrong with it is told when it is asked for."""
        request, self._next = self._next, None
        if request is None or request in self._answers:
            return
        try:
            answer = self._make(request)
        except (Blocked, RepoError, KeyError):
            return
        if answer.links:
            return  # their numbers are settled only when they are told
        while len(self._answers) >= ANSWERS_HELD:
            del self._answers[next(iter(self._answers))]
        self._answers[request] = answer
        if not answer.data:
            self._next = self._after(request, answer)

    def _after(self, request: Request, answer: Answer) -> Request | None:
        """What is asked next. Only for points: other folders may change meanwhile."""
        try:
            branch = self._branch(request.number)
            if branch is None:
                return None
            if answer.data:
                return request._replace(start=answer.following)
            found = branch.folder_behind(request.number)
        except (Blocked, RepoError, KeyError):
            found = None
        self._expected = found or 0
        if found is None or self._in_order < IN_ORDER_LEAST:
            return None
        return Request(found, 0, request.room)
