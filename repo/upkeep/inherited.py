"""An inheritance: the problems and losses that a synthetic point has from what it is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

import msgspec

from repo.format.manifest import Loss, Point, Problem, pack_problems, parse_problems
from repo.reader import Reader
from repo.types import ChunkId
from repo.upkeep.layers import Take
from repo.upkeep.losses import STEP

PROBLEMS_PER_CHUNK: Final = 1000


class Inherited(NamedTuple):
    """Lists of problems, how many there are in them, and what of the content is lost."""

    problems: tuple[bytes, ...] = ()
    total: int = 0
    loss: Loss = Loss()


def inherited(
    reader: Reader,
    whole: Sequence[Point],
    takes: Sequence[Take],
    put_meta: Callable[[bytes], ChunkId],
) -> Inherited:
    """What comes with whole points, and with parts of points, at whose new place it is told."""
    found = Inherited(
        tuple(chunk for point in whole for chunk in point.problems),
        sum(point.problems_total for point in whole),
        _together([point.loss for point in whole]),
    )
    for take in takes:
        found = _with_part(reader, take, found, put_meta)
    return found


def _together(losses: Sequence[Loss]) -> Loss:
    noted = [loss for loss in losses if loss.noted_ns]
    return Loss(
        files=sum(loss.files for loss in noted),
        directories=sum(loss.directories for loss in noted),
        bytes_lost=sum(loss.bytes_lost for loss in noted),
        lists=tuple(chunk for loss in noted for chunk in loss.lists),
        noted_ns=max((loss.noted_ns for loss in noted), default=0),
        problems=sum(loss.problems for loss in noted),
    )


def _with_part(
    reader: Reader, take: Take, before: Inherited, put_meta: Callable[[bytes], ChunkId]
) -> Inherited:
    """Problems of a part, told apart by whether they are losses, as a point keeps them."""
    lists: dict[bool, list[bytes]] = {False: [], True: []}
    counts = {False: 0, True: 0}
    held: dict[bool, list[Problem]] = {False: [], True: []}

    def store(lost: bool) -> None:
        if held[lost]:
            lists[lost].append(put_meta(pack_problems(held[lost])))
            held[lost] = []

    for problem in moved_problems(problems_of(reader, take.point), take):
        lost = problem.step == STEP
        held[lost].append(problem)
        counts[lost] += 1
        if len(held[lost]) == PROBLEMS_PER_CHUNK:
            store(lost)
    for lost in (False, True):
        store(lost)
    loss = before.loss
    if counts[True]:
        loss = msgspec.structs.replace(
            loss,
            files=loss.files + counts[True],
            lists=(*loss.lists, *lists[True]),
            noted_ns=max(loss.noted_ns, take.point.loss.noted_ns, 1),
            problems=loss.problems + counts[True],
        )
    return Inherited(
        (*before.problems, *lists[False], *lists[True]), before.total + sum(counts.values()), loss
    )


def problems_of(reader: Reader, point: Point) -> Iterator[Problem]:
    """The problems of a point, list by list. Raises Damaged."""
    for chunk_id in point.problems:
        data = bytes(reader.chunk(ChunkId(chunk_id)))
        yield from parse_problems(data, where=f"problems of point {point.id.hex()[:8]}")


def moved_problems(problems: Iterable[Problem], take: Take) -> Iterator[Problem]:
    """The problems of what was taken, at their new paths."""
    path, at = (b"/".join(n for n in p.split(b"/") if n) for p in (take.path, take.at))
    for problem in problems:
        if not path or problem.path == path or problem.path.startswith(path + b"/"):
            rest = problem.path[len(path) :].lstrip(b"/")
            new = b"/".join(part for part in (at, rest) if part)
            yield msgspec.structs.replace(problem, path=new)
