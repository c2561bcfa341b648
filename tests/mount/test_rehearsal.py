"""The rehearsal: what was made beforehand is what would have been made, and is made in time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mount import inodes
from mount.rehearsal import Answer, Rehearsal, Request
from mount.vfs import Branch, Memory
from tests.mount import treemaking
from tests.mount.test_vfs import trees
from tests.mount.treemaking import Store, Tree

ROOM = 4


class Lister:
    """Lists folders of a branch, ROOM entries at a time, and counts how often it had to."""

    def __init__(self, tree: Tree) -> None:
        store = Store()
        self.branch = Branch(treemaking.tree_entry(store, tree), 0, Memory(store))
        self.made = 0
        self.rehearsal = Rehearsal(self.make, lambda _number: self.branch)

    def make(self, request: Request) -> Answer:
        self.made += 1
        found = list(self.branch.children(request.number, request.start))[: request.room]
        data = b"".join(b"%d:%s," % (one.number, name) for name, one in found)
        return Answer(data, request.start + len(found), [])

    def folders(self) -> list[int]:
        """All folders in the order in which find goes through them."""
        walked = [one for one in self.branch.walk(0) if one.entry.node]
        return [inodes.ROOT, *(self.branch.number_of(one) for one in walked)]

    def read(self, number: int, *, idle: bool) -> int:
        """Read a folder to its end; how many answers were not there yet."""
        late = start = 0
        while True:
            request = Request(number, start, ROOM)
            before = self.made
            answer = self.rehearsal.answer(request)
            late += self.made - before
            before = self.made
            assert answer == self.make(request)
            self.made = before
            while idle and self.rehearsal.is_due:
                self.rehearsal.rehearse()
            if not answer.data:
                return late
            start = answer.following


@given(trees, st.booleans(), st.randoms(use_true_random=False))
def test_answers_are_the_same_in_any_order(tree: Tree, idle: bool, rng: object) -> None:
    lister = Lister(tree)
    folders = lister.folders()
    rng.shuffle(folders)  # type: ignore[attr-defined]
    for number in folders * 2:
        lister.read(number, idle=idle)


def test_who_walks_in_order_finds_the_answers_made() -> None:
    tree: Tree = {
        b"d%02d" % number: {b"f%d" % file: b"" for file in range(number % 3)}
        for number in range(40)
    }
    lister = Lister(tree)
    late = [lister.read(number, idle=True) for number in lister.folders()]
    assert late[:3] == [1, 1, 1]
    assert sum(late) <= 4


def test_folders_here_and_there_are_not_rehearsed() -> None:
    tree: Tree = {b"d%02d" % number: {b"f": b""} for number in range(40)}
    lister = Lister(tree)
    for number in lister.folders()[::-3]:
        before = lister.made
        lister.read(number, idle=True)
        assert lister.made - before == 2
