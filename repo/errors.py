"""Errors: what went wrong with a repository, where, and what to do next.

A failing *repository* (or a wrong request) is an exception of this family; its class
fixes the exit status of the command. A failing *file* of a source is never an exception
but a value (`ingest.outcome.Failed`), so that one cannot be mistaken for the other.
"""

from __future__ import annotations


class RepoError(Exception):
    """Base of all errors that end a command.

    what: the plain fact. where: path, segment, point or option it concerns.
    next_step: what the user can do about it.
    """

    exit_status = 1

    def __init__(self, what: str, *, where: str = "", next_step: str = "") -> None:
        super().__init__(what, where, next_step)
        self.what = what
        self.where = where
        self.next_step = next_step

    def __str__(self) -> str:
        text = self.what
        if self.where:
            text += f" ({self.where})"
        if self.next_step:
            text += f"; {self.next_step}"
        return text


class JobFailed(RepoError):
    """The command could not do its work; nothing was published."""

    exit_status = 1


class UsageError(RepoError):
    """The request itself cannot be carried out as written."""

    exit_status = 2


class Damaged(RepoError):
    """Bytes read from the repository are not what was written."""

    exit_status = 4


class QuiesceFailed(RepoError):
    """A freeze hook failed; no snapshot was taken."""

    exit_status = 5


class SnapshotFailed(RepoError):
    """A snapshot provider could not make, adopt or pin a snapshot."""

    exit_status = 6


class SnapshotVanished(RepoError):
    """The snapshot disappeared while it was read."""

    exit_status = 7


class NotARepository(RepoError):
    """The folder is missing, is not a repository, or is of a format this version cannot read."""

    exit_status = 10


class WrongKey(RepoError):
    """No key slot opens with the password or key given."""

    exit_status = 11


class RepositoryFailed(RepoError):
    """The operating system failed an operation on the repository's own files (space, EIO)."""

    exit_status = 12


class TryLater(RepoError):
    """Something else holds what is needed; the same command may succeed later."""

    exit_status = 75


class Interrupted(RepoError):
    """The user interrupted; what is durable stays and the next run goes on from it."""

    exit_status = 130
