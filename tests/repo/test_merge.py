"""The merge of layers against a dictionary model of its rule."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repo.format.node import Entry
from repo.merge import Layer, Merge
from repo.types import ChunkId, Kind
from repo.upkeep.relink import Relinker
from tests.repo import made
from tests.repo.upkeep.trees import PATHS, Item, Maker, Model, model_of, models


class ModelLayer(NamedTuple):
    """A layer: what it has, and what it removes from those below it."""

    model: Model
    removed: frozenset[bytes] = frozenset()


@pytest.fixture(scope="module", params=[0, 2], ids=["plain", "paged"])
def maker(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Maker]:
    maker = Maker(tmp_path_factory.mktemp("repository"), page_entries=request.param)
    yield maker
    maker.close()


def put_into(maker: Maker) -> Callable[[bytes], ChunkId]:
    def put(data: bytes) -> ChunkId:
        chunk_id = maker.repository.keys.chunk_id(data)
        maker.writer.put_meta(chunk_id, data)
        return chunk_id

    return put


def merged(maker: Maker, layers: Sequence[Layer]) -> Entry:
    put = put_into(maker)
    root = Merge(maker.tree, put, Relinker(maker.tree, put)).run(layers)
    maker.writer.commit()
    return root


def removals(maker: Maker, paths: frozenset[bytes]) -> Entry | None:
    """The tree of removals that hides these paths."""
    if not paths:
        return None
    model: Model = {b"": Item(None)}
    for path in sorted(paths):
        names = path.split(b"/")
        folders = [b"/".join(names[:count]) for count in range(1, len(names))]
        if any(folder in paths for folder in folders):
            continue
        model.update(dict.fromkeys(folders, Item(None)))
        model[path] = Item(b"")
    return maker.root(model)


def overlaid(layers: Sequence[ModelLayer]) -> Model:
    """The rule, path by path: the first layer wins that is not hidden by one above it."""
    result: Model = {}
    for path in sorted({path for layer in layers for path in layer.model}):
        above = path.rpartition(b"/")[0]
        if path and (above not in result or result[above].content is not None):
            continue
        for number, layer in enumerate(layers):
            item = layer.model.get(path)
            if item is None or any(_hides(upper, path) for upper in layers[:number]):
                continue
            result[path] = item
            break
    return result


def _hides(layer: ModelLayer, path: bytes) -> bool:
    return any(path == gone or path.startswith(gone + b"/") for gone in layer.removed)


LAYERS = st.lists(
    st.builds(ModelLayer, models(), st.frozensets(st.sampled_from(PATHS[:12]), max_size=3)),
    min_size=1,
    max_size=4,
)


@given(layers=LAYERS)
def test_a_merge_is_what_the_rule_says_path_by_path(maker: Maker, layers: list[ModelLayer]) -> None:
    trees = [Layer(maker.root(one.model), removals(maker, one.removed)) for one in layers]
    assert model_of(maker.tree, merged(maker, trees)) == overlaid(layers)


@given(model=models(), older=models())
def test_one_tree_over_itself_makes_no_node(maker: Maker, model: Model, older: Model) -> None:
    root = maker.root(model)
    put = maker.repository.new_reader().keep
    nodes: list[bytes] = []

    def count(data: bytes) -> ChunkId:
        nodes.append(data)
        return put(data)

    assert Merge(maker.tree, count, Relinker(maker.tree, count)).run([Layer(root)] * 3) == root
    assert nodes == []


def test_only_nodes_on_changed_paths_are_made(maker: Maker) -> None:
    same = {b"same": Item(None), b"same/f": Item(b"x"), b"d": Item(None), b"d/same": Item(None)}
    one = {b"": Item(None), **same, b"d/one": Item(b"1")}
    two = {b"": Item(None), **same, b"d/two": Item(b"2")}
    nodes: list[bytes] = []

    def count(data: bytes) -> ChunkId:
        nodes.append(data)
        return put_into(maker)(data)

    layers = [Layer(maker.root(one)), Layer(maker.root(two))]
    root = Merge(maker.tree, count, Relinker(maker.tree, count)).run(layers)
    maker.writer.commit()
    assert set(model_of(maker.tree, root)) == {b"d/one", b"d/two", *one}
    assert len(nodes) == 2  # d and the root


def test_the_metadata_of_the_way_to_something_counts_only_where_there_is_no_other(
    maker: Maker,
) -> None:
    way = maker.root({b"": Item(None, 9), b"d": Item(None, 9), b"d/new": Item(b"n", 9)})
    base = maker.root({b"": Item(None, 1), b"d": Item(None, 1), b"d/f": Item(b"f", 1)})
    model = model_of(maker.tree, merged(maker, [Layer(way, way=2), Layer(base)]))
    assert {path: item.mtime for path, item in model.items()} == {
        b"": 1, b"d": 1, b"d/new": 9, b"d/f": 1,
    }  # fmt: skip
    model = model_of(maker.tree, merged(maker, [Layer(way, way=2)]))
    assert model[b"d"].mtime == 9


class _Paths(NamedTuple):
    """An Unknown of a set of paths."""

    paths: frozenset[bytes]

    def exactly(self, path: bytes) -> bool:
        return path in self.paths

    def leads_to(self, path: bytes) -> bool:
        return any(not path or one.startswith(path + b"/") for one in self.paths)


@given(newest=models(), older=models(), paths=st.frozensets(st.sampled_from(PATHS[:12])))
def test_an_older_point_gives_what_the_newest_could_not_read_and_nothing_else(
    maker: Maker, newest: Model, older: Model, paths: frozenset[bytes]
) -> None:
    layers = [
        Layer(maker.root(newest), source=1),
        Layer(maker.root(older), source=1, fills=_Paths(paths)),
    ]
    expected = dict(newest)
    for path in sorted(older):
        above = path.rpartition(b"/")[0]
        if path in newest or not path:
            continue
        filled = any(
            path == one or (path.startswith(one + b"/") and one not in newest) for one in paths
        )
        if filled and above in expected and expected[above].content is None:
            expected[path] = older[path]
    assert model_of(maker.tree, merged(maker, layers)) == expected


def test_a_directory_that_could_not_be_listed_is_filled(maker: Maker) -> None:
    older = maker.root({b"": Item(None), b"d": Item(None, 1), b"d/f": Item(b"f")})
    absent = Entry(b"d", Kind.DIRECTORY, 0o700, 0, 0, 2, 2, 0, 1, 2, absent="it could not be read")
    newest = made.directory_entry(maker.repository, maker.writer, b"", [absent])
    maker.writer.commit()
    layers = [
        Layer(newest, source=1),
        Layer(older, source=1, fills=_Paths(frozenset({b"d"}))),
    ]
    (filled,) = maker.tree.entries(merged(maker, layers))
    assert (filled.mode, filled.mtime_ns, filled.absent) == (0o700, 2, "")
    assert [entry.name for entry in maker.tree.entries(filled)] == [b"f"]


@given(model=models(), other=models())
def test_hard_links_of_two_sources_stay_apart(maker: Maker, model: Model, other: Model) -> None:
    linked, others = (
        {p: i._replace(inode=5, nlink=2) if i.content else i for p, i in one.items()}
        for one in (model, other)
    )
    links = 1 << 50
    layers = [Layer(maker.root(linked)), Layer(maker.root(others), source=2, links=links)]
    result = model_of(maker.tree, merged(maker, layers))
    plain = overlaid([ModelLayer(linked), ModelLayer(others)])
    assert {p: i._replace(inode=0) for p, i in result.items()} == {
        p: i._replace(inode=0) for p, i in plain.items()
    }
    for path, item in result.items():
        if item.content:
            assert item.inode == (5 if path in linked else 5 ^ links)


def test_relinking_leaves_nodes_without_links_alone(maker: Maker) -> None:
    model = {
        b"": Item(None), b"a": Item(None), b"a/f": Item(b"x"), b"b": Item(None),
        b"b/l": Item(b"y", inode=3, nlink=2),
    }  # fmt: skip
    root = maker.root(model)
    nodes: list[bytes] = []

    def count(data: bytes) -> ChunkId:
        nodes.append(data)
        return put_into(maker)(data)

    changed = Relinker(maker.tree, count)(root, 8)
    maker.writer.commit()
    assert model_of(maker.tree, changed) == {**model, b"b/l": Item(b"y", inode=11, nlink=2)}
    assert len(nodes) == 2
    assert Relinker(maker.tree, count)(next(maker.tree.entries(root)), 8).name == b"a"
    assert len(nodes) == 2


def test_a_merge_of_nothing_is_refused(maker: Maker) -> None:
    with pytest.raises(ValueError, match="nothing"):
        merged(maker, [Layer(None)])
