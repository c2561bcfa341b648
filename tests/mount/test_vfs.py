"""A branch: any tree is found again by names, by positions, by numbers, and by walking."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mount import inodes
from mount.source import FramesMissing
from mount.vfs import Branch, Found, Memory, WeightedCache
from repo.errors import Damaged
from repo.format.node import Entry
from repo.types import Kind
from tests.mount import treemaking
from tests.mount.treemaking import Shelved, Store, Tree, patiently

names = st.binary(min_size=1, max_size=5).filter(
    lambda name: b"/" not in name and b"\0" not in name and name not in (b".", b"..")
)
trees: st.SearchStrategy[Tree] = st.recursive(
    st.dictionaries(names, st.binary(max_size=30), max_size=12),
    lambda below: st.dictionaries(names, st.one_of(st.binary(max_size=30), below), max_size=9),
    max_leaves=6,
)


def _branch(store: Store, tree: Tree, *, base: int = 0) -> Branch:
    return Branch(treemaking.tree_entry(store, tree), base, Memory(store))


def _paths(tree: Tree, above: bytes = b"") -> dict[bytes, Tree | bytes]:
    found: dict[bytes, Tree | bytes] = {}
    for name, content in tree.items():
        path = above + b"/" + name
        found[path] = content
        if not isinstance(content, bytes):
            found |= _paths(content, path)
    return found


def _all(branch: Branch, number: int, above: bytes = b"") -> dict[bytes, Found]:
    found: dict[bytes, Found] = {}
    for name, one in branch.children(number, 0):
        found[above + b"/" + name] = one
        if one.entry.kind == Kind.DIRECTORY:
            found |= _all(branch, one.number, above + b"/" + name)
    return found


@given(trees, st.integers(0, 3))
def test_every_path_is_found_by_every_way(tree: Tree, slot: int) -> None:
    store = Store()
    base = inodes.base_of(slot and 1, slot)
    branch = _branch(store, tree, base=base)
    root = base + inodes.ROOT
    wanted = _paths(tree)
    listed = _all(branch, root)
    assert listed.keys() == wanted.keys()
    assert len({found.number for found in listed.values()}) == len(listed)
    for path, content in wanted.items():
        above, _, name = path.rpartition(b"/")
        parent = listed[above].number if above else root
        found = branch.lookup(parent, name)
        assert found == listed[path]
        assert branch.path(found.number) == path
        assert branch.parent(found.number).number == parent
        # A branch that was never asked for anything finds it from the number alone.
        fresh = Branch(branch.root, base, Memory(store))
        assert fresh.found(found.number).entry.name == name
        assert branch.lookup(parent, name + b"no") is None
        if isinstance(content, bytes):
            parts = branch.content(found.number).read(0, 100, store)
            assert b"".join(parts) == content


@given(trees)
def test_a_walk_meets_everything_in_the_order_of_numbers(tree: Tree) -> None:
    store = Store()
    branch = _branch(store, tree)
    walked = list(branch.walk(0))
    assert [one.rank for one in walked] == list(range(1, len(_paths(tree)) + 1))
    by_number = {found.number: found.entry for found in _all(branch, inodes.ROOT).values()}
    assert {branch.number_of(one): one.entry for one in walked} == by_number
    for one in walked:
        assert list(branch.walk(one.rank)) == walked[one.rank :]


@given(trees)
def test_a_listing_goes_on_at_any_position(tree: Tree) -> None:
    branch = _branch(Store(), tree)
    whole = list(branch.children(inodes.ROOT, 0))
    for position in range(len(whole) + 2):
        assert list(branch.children(inodes.ROOT, position)) == whole[position:]


@given(trees)
def test_whoever_lacks_something_asks_again_until_it_is_there(tree: Tree) -> None:
    store = Store()
    root = treemaking.tree_entry(store, tree)
    source = Shelved(store)
    branch = Branch(root, 0, Memory(source))
    plain = Branch(root, 0, Memory(store))
    for path, found in _all(plain, inodes.ROOT).items():
        assert patiently(source, lambda n=found.number: branch.path(n)) == path  # type: ignore[misc]


def test_numbers_that_mean_nothing_are_told() -> None:
    branch = _branch(Store(), {b"a": b"1", b"b": {b"c": b"2"}})
    for number in (0, 5, 99, 1 << 62):
        with pytest.raises(KeyError):
            branch.found(number)


def _links(store: Store) -> Entry:
    link = {"nlink": 3, "inode": 77}
    below = [
        treemaking.file_entry(store, b"third", b"same", **link),
        treemaking.file_entry(store, b"alone", b"other", nlink=1, inode=77),
    ]
    elsewhere = [treemaking.file_entry(store, b"foreign", b"differs", nlink=2, inode=77)]
    return treemaking.directory_entry(
        store,
        b"",
        [
            treemaking.file_entry(store, b"first", b"same", **link),
            treemaking.file_entry(store, b"second", b"same", **link),
            treemaking.directory_entry(store, b"d", below),
            treemaking.directory_entry(store, b"volume", elsewhere, volume=5),
        ],
    )


def test_names_of_one_file_share_a_number() -> None:
    store = Store()
    branch = Branch(_links(store), 0, Memory(store))
    found = {path.rpartition(b"/")[2]: one for path, one in _all(branch, inodes.ROOT).items()}
    assert len({found[name].number for name in (b"first", b"second", b"third")}) == 1
    assert len({found[name].number for name in (b"first", b"alone", b"foreign", b"d")}) == 4


def test_a_number_of_a_hard_link_is_found_while_held_and_searched_later() -> None:
    store = Store()
    root = _links(store)
    branch = Branch(root, 0, Memory(store))
    third = branch.lookup(branch.lookup(inodes.ROOT, b"d").number, b"third")  # type: ignore[union-attr]
    assert third is not None
    branch.hold(third)
    assert branch.path(third.number) == b"/d/third"
    branch.forget([(third.number, 1)])
    assert branch.path(third.number) in {b"/d/third", b"/first", b"/second"}
    fresh = Branch(root, 0, Memory(store))
    assert b"".join(fresh.content(third.number).read(0, 9, store)) == b"same"


def test_totals_that_lie_are_damage() -> None:
    store = Store()
    root = treemaking.tree_entry(store, {b"a": b"1", b"d": {b"b": b"2"}})
    lying = Entry(
        **{field: getattr(root, field) for field in root.__struct_fields__} | {"entries_below": 9}
    )
    branch = Branch(lying, 0, Memory(store))
    with pytest.raises(Damaged, match="totals"):
        list(branch.children(inodes.ROOT, 0))
    with pytest.raises(Damaged, match="totals"):
        branch.found(7)


def test_a_missing_frame_is_named() -> None:
    store = Store()
    root = treemaking.tree_entry(store, {b"a": b"1"})
    branch = Branch(root, 0, Memory(Shelved(store)))
    with pytest.raises(FramesMissing, match=re.escape(f"(0, {len(store.order) - 1})")):
        branch.lookup(inodes.ROOT, b"a")


def test_a_weighted_cache_keeps_what_was_used_last() -> None:
    cache: WeightedCache[str, int] = WeightedCache(10)
    cache.put("a", 1, 4)
    cache.put("b", 2, 4)
    assert cache.get("a") == 1
    cache.put("c", 3, 4)
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (1, None, 3)
    cache.put("huge", 4, 100)
    assert (cache.get("huge"), len(cache)) == (4, 1)
