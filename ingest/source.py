"""A source's identity: what its backup points are found by, run after run."""

from __future__ import annotations

import os
from typing import Final, NamedTuple

from repo.errors import UsageError

ID_BYTES_MAX: Final = 1024


class SourceIdentity(NamedTuple):
    """Who a source is, wherever the snapshot lies that is read today.

    id: the name its points share: HOST:/canonical/path, or what the user says. host: this
    machine. path: the canonical path that was given.
    """

    id: str
    host: str
    path: str

    @classmethod
    def of(cls, path: str, source_id: str = "", *, host: str = "") -> SourceIdentity:
        """The identity of the tree at `path`; `source_id` is the user's word for it, if any.

        A snapshot's own path says nothing of its source: whoever backs up /snap/TODAY says
        `--source-id`. Raises UsageError for an id that cannot be shown or typed.
        """
        host = host or os.uname().nodename
        canonical = readable(os.path.realpath(path))
        if source_id:
            _check(source_id)
        return cls(source_id or f"{host}:{canonical}", host, canonical)


def readable(path: str) -> str:
    r"""A path as text for manifests and messages: bytes that are no UTF-8 become \udcXX."""
    return path.encode("utf-8", "backslashreplace").decode()


def _check(source_id: str) -> None:
    if (
        not source_id.isprintable()
        or source_id != source_id.strip()
        or len(source_id.encode("utf-8", "backslashreplace")) > ID_BYTES_MAX
    ):
        raise UsageError(
            "a source id is printable text, without spaces around it",
            where=f"--source-id {source_id!r}",
            next_step=f"use at most {ID_BYTES_MAX} bytes of it",
        )
