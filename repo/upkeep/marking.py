"""A marking: what is lost of a point, found by walking it, as its mark and its lists say it."""

from __future__ import annotations

from itertools import groupby
from typing import Final

import msgspec

from repo.format.manifest import Loss, Point
from repo.upkeep.losses import Losses
from repo.upkeep.lossfinder import LossFinder, Lost, Part

PATHS_MAX: Final = 100
"""Paths that a report names of each point."""


def find_losses(finder: LossFinder, point: Point, losses: Losses) -> list[bytes]:
    """Collect what is lost of a point; the paths that a report names."""
    named: list[bytes] = []
    for (path, of_file), parts in groupby(finder.point(point), key=_what):
        found = list(parts)
        size = sum(lost.length for lost in found)
        if found[0].part is Part.PROBLEMS:
            for lost in found:
                losses.problems(lost.why)
            continue
        if of_file:
            losses.file(path, size, found[0].why)
        else:
            losses.directory(path, size, found[0].why)
        if len(named) < PATHS_MAX:
            named.append(path or b".")
    return named


def _what(lost: Lost) -> tuple[bytes, bool | None]:
    """What losses that come one after the other are told together."""
    if lost.part is Part.PROBLEMS:
        return lost.path, None
    return lost.path, lost.part is not Part.NAMES


def unmarked_problems(point: Point) -> tuple[tuple[bytes, ...], int]:
    """The lists of a point's problems without those of its mark, and how many they name."""
    kept = tuple(each for each in point.problems if each not in point.loss.lists)
    return kept, point.problems_total - point.loss.problems


def remarked(point: Point, loss: Loss) -> Point:
    """The same point with another mark."""
    kept, total = unmarked_problems(point)
    return msgspec.structs.replace(
        point,
        problems=(*kept, *loss.lists),
        problems_total=total + loss.problems,
        loss=loss,
    )
