"""A convention: how a snapshot tool tells a program that it calls which snapshots it has made.

Tried with the real tools: snapper, btrbk. From their source and documentation alone, for there is
no ZFS where this is built: sanoid, zfs-autobackup.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from ingest.mounts import mounts_of_type
from repo.errors import UsageError


class Told(NamedTuple):
    """A snapshot that a tool has made. path: where it is. live: the source that it is one of.

    unique: the tool never gives another snapshot the same path.
    """

    path: str
    live: str
    unique: bool = False


class Call(NamedTuple):
    """How we were called: the words behind the options, the environment, and what stdin has."""

    words: Sequence[str]
    environ: Mapping[str, str]
    read_lines: Callable[[], Iterable[str]]


def snapper(call: Call) -> list[Told]:
    """`create-snapshot SUBVOLUME FSTYPE NUMBER`, as a plugin is called; other actions: nothing.

    Newer versions call before and after: `create-snapshot-pre`, `create-snapshot-post`.
    """
    if not call.words:
        raise _not_so("snapper", "ACTION SUBVOLUME FSTYPE NUMBER", 'put "$@" behind --')
    if call.words[0] not in ("create-snapshot", "create-snapshot-post"):
        return []
    if len(call.words) < 4:
        raise _not_so("snapper", "ACTION SUBVOLUME FSTYPE NUMBER", " ".join(call.words))
    _, subvolume, kind, number = call.words[:4]
    if kind != "btrfs":
        raise UsageError(
            f"snapshots that snapper makes on {kind} cannot be read where they are",
            where=subvolume,
            next_step="mount it, and queue the mountpoint with --source-id",
        )
    return [Told(os.path.join(subvolume, ".snapshots", number, "snapshot"), subvolume)]


def btrbk(call: Call) -> list[Told]:
    """Lines of `btrbk --format=raw run` or of its transaction log, on stdin.

    btrbk calls no program; this is what it says, and what can be piped or read later.
    """
    told: dict[str, Told] = {}
    for line in call.read_lines():
        row = _raw(line) if line.startswith("format=") else _logged(line)
        if (row.get("type"), row.get("status")) != ("snapshot", "success"):
            continue
        path, live = row.get("target_url", ""), row.get("source_url", "")
        if path.startswith("/") and live.startswith("/"):  # others are on another machine
            told[path] = Told(path, live)
    return list(told.values())


_LOGGED: Final = ("localtime", "type", "status", "target_url", "source_url", "parent_url")


def _raw(line: str) -> dict[str, str]:
    """`key='value' key='value'`, quoted for a shell."""
    try:
        words = shlex.split(line)
    except ValueError:
        return {}
    return dict(word.split("=", 1) for word in words if "=" in word)


def _logged(line: str) -> dict[str, str]:
    """A line of the transaction log: columns in a fixed order, `-` where there is nothing."""
    return dict(zip(_LOGGED, line.split(), strict=False))


def sanoid(call: Call) -> list[Told]:
    """A post_snapshot_script: SANOID_SCRIPT, SANOID_TARGETS and SANOID_SNAPNAMES.

    The names are of one moment (hourly, daily, ...): the first of them stands for all. Versions
    before 2.1 have SANOID_TARGET and SANOID_SNAPNAME only.
    """
    environ = call.environ
    if environ.get("SANOID_SCRIPT", "post") != "post":
        return []
    datasets = environ.get("SANOID_TARGETS") or environ.get("SANOID_TARGET", "")
    names = environ.get("SANOID_SNAPNAMES") or environ.get("SANOID_SNAPNAME", "")
    if not datasets or not names:
        raise _not_so("sanoid", "SANOID_TARGETS and SANOID_SNAPNAMES", "they are not set")
    name = names.split(",")[0]
    return [
        Told(os.path.join(live, ".zfs", "snapshot", name), live, unique=True)
        for live in map(_mountpoint, datasets.split(","))
    ]


_STAMP: Final = re.compile(r"-(\d{14})$")


def zfs_autobackup(call: Call) -> list[Told]:
    """`NAME DATASET...`: the newest snapshot `NAME-YYYYmmddHHMMSS` of each.

    zfs-autobackup runs its `--post-snapshot-cmd` as it stands, and also when it made no
    snapshot; so what is the newest is looked for, and one that has a point is not taken again.
    """
    if len(call.words) < 2:
        raise _not_so("zfs-autobackup", "NAME DATASET...", " ".join(call.words) or "nothing")
    name, *datasets = call.words
    told = []
    for live in map(_mountpoint, datasets):
        place = os.path.join(live, ".zfs", "snapshot")
        try:
            found = [
                (match[1], entry)
                for entry in os.listdir(place)
                if (match := _STAMP.search(entry)) and entry[: match.start()] == name
            ]
        except OSError as error:
            raise UsageError(
                f"the snapshots of a dataset cannot be listed: {error.strerror}",
                where=place,
                next_step="is it mounted?",
            ) from error
        if found:
            told.append(Told(os.path.join(place, max(found)[1]), live, unique=True))
    return told


def _mountpoint(dataset: str) -> str:
    """Where a dataset is mounted; an absolute path is taken as it is."""
    if dataset.startswith("/"):
        return dataset
    for source, path in mounts_of_type("zfs"):
        if source == dataset:
            return path
    raise UsageError(
        "the dataset is not mounted", where=dataset, next_step="mount it, or leave it out"
    )


def _not_so(tool: str, expected: str, found: str) -> UsageError:
    return UsageError(
        f"this is not how {tool} calls: expected {expected}",
        where=found,
        next_step="the guide shows how to set it up",
    )


CONVENTIONS: Final[Mapping[str, Callable[[Call], list[Told]]]] = {
    "snapper": snapper,
    "sanoid": sanoid,
    "btrbk": btrbk,
    "zfs-autobackup": zfs_autobackup,
}
