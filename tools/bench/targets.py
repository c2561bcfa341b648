"""A target: what the project wants to reach beside restic on the same work."""

from __future__ import annotations

from dataclasses import dataclass

from repo.types import MIB


@dataclass(frozen=True)
class Target:
    """At least, and the aim, as times faster than restic."""

    least: float
    aim: float


SPEED: dict[tuple[str, str], Target] = {
    ("linux", "ingest"): Target(6, 9),
    ("linux", "ingest-again"): Target(6, 10),
    ("large", "ingest"): Target(2.5, 4),
    ("linux", "mount-find"): Target(2.5, 4),
    ("linux", "mount-tar"): Target(4, 7),
    ("large", "mount-sequential usr.tar"): Target(5, 9),
    ("large", "mount-sequential random.bin"): Target(5, 9),
    ("linux", "restore"): Target(3, 5),
}
"""By input and case."""

STORED_SHARE = Target(0.9, 0.8)
"""Bytes stored of the Linux tree, by restic's: at most."""

INGEST_PSS = Target(400 * MIB, 250 * MIB)
"""Peak memory of all processes of an ingest, bytes: at most."""

INCREMENT_SECONDS = Target(0.6, 0.3)
"""The whole command on btrfs after 100 changes, or after a folder was moved: at most."""

INCREMENT_GROWTH = Target(1.2, 1.2)
"""The same with ten times the files, by the first: at most."""


def verdict(target: Target, value: float, *, at_most: bool = False) -> str:
    """Whether a value reaches the aim, the target, or neither."""
    if at_most:
        reached = value <= target.least, value <= target.aim
    else:
        reached = value >= target.least, value >= target.aim
    return {(True, True): "aim reached", (True, False): "target reached"}.get(
        reached, "below target"
    )
