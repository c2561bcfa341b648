"""A delta list: the paths that somebody says were changed or deleted in a source."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from repo.errors import UsageError
from repo.format import limits

PATH_BYTES_MAX: Final = 1 << 20
_READ_BYTES: Final = 1 << 20


class Told(NamedTuple):
    """What was said of a path: it is to be read again, with all below it, or it is gone."""

    changed: bool = False
    whole: bool = False
    deleted: bool = False


Names = tuple[bytes, ...]


def read_lists(
    root: str, files_from: str | None, deleted_from: str | None
) -> list[tuple[Names, Told]]:
    """What two lists say, in the order of a walk. `-` is standard input.

    A path stands for itself; one of `files_from` with a slash at the end for a directory and all
    below it. Paths are relative to the source, or lie below it. The lists are held in memory.
    Raises UsageError.
    """
    above = [part for part in os.fsencode(os.path.realpath(root)).split(b"/") if part]
    told: dict[Names, Told] = {}
    for file, deleted in ((files_from, False), (deleted_from, True)):
        for path in _paths(file) if file is not None else ():
            names = _names(path, above)
            whole = path.endswith((b"/", b"/."))
            said = Told(deleted=True) if deleted else Told(changed=True, whole=whole)
            known = told.get(names, Told())
            told[names] = Told(*map(max, known, said))
    return sorted(told.items())


def _paths(file: str) -> Iterator[bytes]:
    """The paths in a file, each ended by a NUL. Raises UsageError."""
    try:
        if file == "-":
            yield from _split(sys.stdin.buffer.read, file)
        else:
            with Path(file).open("rb") as stream:
                yield from _split(stream.read, file)
    except OSError as error:
        raise UsageError(
            f"a list of paths cannot be read: {error.strerror}", where=file, next_step="name a file"
        ) from error


def _split(read: Callable[[int], bytes], file: str) -> Iterator[bytes]:
    rest = b""
    while data := read(_READ_BYTES):
        *whole, rest = (rest + data).split(b"\0")
        yield from filter(None, whole)
        if len(rest) > PATH_BYTES_MAX:
            raise _not_separated(file)
    if b"\n" in rest:
        raise _not_separated(file)
    if rest:
        yield rest


def _not_separated(file: str) -> UsageError:
    return UsageError(
        "the paths of a list are to be ended by NUL bytes",
        where=file,
        next_step="make it by `find ... -print0` or the like",
    )


def _names(path: bytes, above: list[bytes]) -> Names:
    names = [name for name in path.split(b"/") if name not in (b"", b".")]
    if path.startswith(b"/") and names[: len(above)] == above:
        names = names[len(above) :]
    if b".." in names or any(len(name) > limits.NAME_BYTES_MAX for name in names):
        raise UsageError(
            "a path that no source has",
            where=path.decode(errors="backslashreplace"),
            next_step="paths are relative to the source, without ..",
        )
    return tuple(names)
