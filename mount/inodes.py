"""Inode numbers: which number stands for which entry of which point, and the way back.

The entries of a point are numbered in a fixed order, from the root (rank 0) down: of a
directory first the joined run, then the listed run of its node, and each sub-directory is
followed at once by its subtree. Every row of a node carries the totals of what lies below
it, so that a rank is found again by descending with prefix sums; nothing is built for it.

A number is 63 bits, highest first:

    1   link     the low part packs an inode of the source instead of a rank
    2   view     through which folder of a mounted repository the point is seen (0: mounted alone)
    22  slot     which point (0: mounted alone); taken from the point's id
    38  low      rank + 1, or the packed inode of a hard link

so the root of a point that is mounted alone is 1, as FUSE has it, and numbers are the same
after a remount. All names of a file with several links must share one number, and no name
knows the others. So such a file's number packs what the names have in common: the file
system (volume) and inode number it had in the source. Inode numbers below 2^37 on the source's
first file system are taken as they are; others are hashed, and a clash with a file that the
kernel holds takes the next number.

What "found from the number alone" means: for ranks always, within a few look-ups. For a hard
link the table below holds, as long as the kernel knows the number, the rank of one of its
names. For a number that is not in it (an NFS client that comes back after a remount) the
point has to be searched; that is right, but takes time in proportion to the point.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from xxhash import xxh3_64_intdigest

from repo.errors import Damaged

LOW_BITS: Final = 38
SLOT_BITS: Final = 22
VIEW_BITS: Final = 2
SLOTS: Final = 1 << SLOT_BITS

_LINK: Final = 1 << (LOW_BITS + SLOT_BITS + VIEW_BITS)
_LOW: Final = (1 << LOW_BITS) - 1
_HASHED: Final = 1 << (LOW_BITS - 1)

ROOT: Final = 1
"""The root of every FUSE mount."""


class Number(NamedTuple):
    """An inode number, taken apart. `base` is view and slot, in their place."""

    is_link: bool
    base: int
    low: int


def split(number: int) -> Number:
    """The parts of a number."""
    return Number(bool(number & _LINK), number & ~_LINK & ~_LOW, number & _LOW)


def base_of(view: int, slot: int) -> int:
    """What all numbers of a point have in common. ValueError when it is out of range."""
    if not 0 <= view < 1 << VIEW_BITS or not 0 <= slot < SLOTS:
        raise ValueError(f"view {view}, slot {slot}")
    return view << (LOW_BITS + SLOT_BITS) | slot << LOW_BITS


def of_rank(base: int, rank: int) -> int:
    """The number of an entry that has one name only, or is a directory."""
    if not 0 <= rank < _LOW:
        raise Damaged(
            f"an entry has rank {rank}", where="inode numbers", next_step="run `repo verify`"
        )
    return base + rank + 1


def rank_of(low: int) -> int:
    """The rank in the low part of a number that is no hard link's."""
    return low - 1


class Identity(NamedTuple):
    """What the names of one file have in common: file system and inode number in the source, and
    a fingerprint of the content. Only the first two make the number.
    """

    volume: int
    inode: int
    content: int = 0


def pack_identity(identity: Identity) -> int:
    """The low part that a hard link takes first; below 2^37 for inodes taken as they are."""
    if identity.volume == 0 and 0 <= identity.inode < _HASHED:
        return identity.inode
    text = b"%d/%d" % identity[:2]
    return _HASHED | xxh3_64_intdigest(text) & (_HASHED - 1)


class _Link:
    """A hard link that the kernel holds: what it is, one name's rank, times looked up."""

    __slots__ = ("count", "identity", "rank")

    def __init__(self, identity: Identity, rank: int) -> None:
        self.identity = identity
        self.rank = rank
        self.count = 0


class HardLinks:
    """The hard links that the kernel holds. Their memory follows the kernel's own."""

    def __init__(self) -> None:
        self._links: dict[int, _Link] = {}

    def __len__(self) -> int:
        return len(self._links)

    def number(self, base: int, identity: Identity) -> int:
        """The number of a hard link of the point at `base`."""
        low = pack_identity(identity)
        while True:
            number = _LINK | base | low
            link = self._links.get(number)
            if link is None or link.identity == identity:
                return number
            low = _HASHED | (low + 1) & (_HASHED - 1)

    def hold(self, number: int, identity: Identity, rank: int) -> None:
        """The kernel was told this number once more, for a name of that rank."""
        link = self._links.get(number)
        if link is None:
            link = self._links[number] = _Link(identity, rank)
        link.count += 1

    def forget(self, forgotten: Iterable[tuple[int, int]]) -> None:
        """The kernel gives numbers back: (number, how many times)."""
        for number, count in forgotten:
            if number & _LINK:
                link = self._links.get(number)
                if link is not None:
                    link.count -= count
                    if link.count <= 0:
                        del self._links[number]

    def identity(self, number: int) -> Identity | None:
        """What has this number; None when the kernel was not told the number."""
        link = self._links.get(number)
        return None if link is None else link.identity

    def rank(self, number: int) -> int | None:
        """The rank of a name of the link; None when the kernel was not told the number."""
        link = self._links.get(number)
        return None if link is None else link.rank


def preferred_slot(point_id: bytes) -> int:
    """The slot that a point's id asks for: never 0, which is for points mounted alone."""
    return 1 + xxh3_64_intdigest(point_id) % (SLOTS - 1)


class Slots:
    """Which point has which slot. A point keeps its slot as long as the mount lives.

    Two points that ask for one slot (12 pairs among 10,000 points) are told apart by the order
    of their ids: only theirs can be others after a remount, when one of them has gone.
    """

    def __init__(self) -> None:
        self._points: dict[int, bytes] = {}
        self._slots: dict[bytes, int] = {}

    def add(self, point_ids: Iterable[bytes]) -> None:
        """Give slots to the points that have none. Raises Damaged when there are none left."""
        for point_id in sorted(point_id for point_id in point_ids if point_id not in self._slots):
            if len(self._slots) >= SLOTS - 1:
                raise Damaged("too many points to mount", where=f"{SLOTS} points")
            slot = preferred_slot(point_id)
            while slot in self._points:
                slot = slot % (SLOTS - 1) + 1
            self._points[slot] = point_id
            self._slots[point_id] = slot

    def slot(self, point_id: bytes) -> int | None:
        """The slot of a point, if it was added."""
        return self._slots.get(point_id)

    def point(self, base: int) -> bytes | None:
        """The id of the point whose numbers have this base."""
        return self._points.get(base >> LOW_BITS & (SLOTS - 1))


def view_of(base: int) -> int:
    """The view in the base of a number."""
    return base >> (LOW_BITS + SLOT_BITS) & ((1 << VIEW_BITS) - 1)
