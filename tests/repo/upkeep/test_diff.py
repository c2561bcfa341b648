"""The diff of two trees against a dictionary model; moves; what counts as equal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repo.format.node import Entry, pack_extents
from repo.types import ChunkId
from repo.upkeep import diff as diff_module
from repo.upkeep.diff import Change, Difference, diff
from tests.repo import made
from tests.repo.upkeep.trees import Item, Maker, Model, models


@pytest.fixture(scope="module", params=[0, 2], ids=["plain", "paged"])
def maker(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Maker]:
    maker = Maker(tmp_path_factory.mktemp("repository"), page_entries=request.param)
    yield maker
    maker.close()


def differences(
    maker: Maker, before: Mapping[bytes, Item], after: Mapping[bytes, Item], *, moves: bool = False
) -> list[Difference]:
    old, new = maker.root(before), maker.root(after)
    return list(diff(maker.tree, old, new, same_source=moves))


def told(found: list[Difference]) -> dict[bytes, Change]:
    assert [one.path for one in found] == sorted(
        (one.path for one in found), key=lambda path: path.split(b"/")
    )
    return {one.path: one.change for one in found}


def expected(before: Model, after: Model) -> dict[bytes, Change]:
    """The rule: what stands at each path, seen from above; a subtree that came or went is one."""
    found: dict[bytes, Change] = {}
    for path in sorted(set(before) | set(after)):
        above = path
        while above:
            above = above.rpartition(b"/")[0]
            if found.get(above) in (Change.ADDED, Change.REMOVED) or _kind_differs(
                before.get(above), after.get(above)
            ):
                break
        else:
            change = _change(before.get(path), after.get(path))
            if change is not None:
                found[path] = change
    for path, change in list(found.items()):
        both = before.get(path), after.get(path)
        if change == Change.METADATA and both[0] and both[0].content is None:
            inside = [one for one, kind in found.items() if kind != Change.METADATA and one]
            if any(
                one.rpartition(b"/")[0] == path and not _both_folders(before, after, one)
                for one in inside
            ):
                del found[path]  # its time says nothing that the names do not say
    return found


def _both_folders(before: Model, after: Model, path: bytes) -> bool:
    return all(path in model and model[path].content is None for model in (before, after))


def _kind_differs(old: Item | None, new: Item | None) -> bool:
    return old is not None and new is not None and (old.content is None) != (new.content is None)


def _change(old: Item | None, new: Item | None) -> Change | None:
    if old is None or new is None:
        return Change.ADDED if old is None else Change.REMOVED
    if old.content != new.content:
        return Change.CHANGED
    return Change.METADATA if old != new else None


@given(before=models(), after=models())
def test_the_differences_are_those_of_the_models(maker: Maker, before: Model, after: Model) -> None:
    assert told(differences(maker, before, after)) == expected(before, after)


@given(model=models())
def test_a_tree_does_not_differ_from_itself(maker: Maker, model: Model) -> None:
    changed = {path: item._replace(inode=item.inode + 7) for path, item in model.items()}
    assert differences(maker, model, changed, moves=True) == []


ROOT = {b"": Item(None)}


def test_what_was_moved_is_one_difference(maker: Maker) -> None:
    before = {
        **ROOT,
        b"a": Item(None, inode=2),
        b"a/f": Item(b"x", inode=3),
        b"c": Item(None, inode=4),
    }
    after = {
        **ROOT,
        b"b": Item(None, inode=2),
        b"b/f": Item(b"x", inode=3),
        b"c": Item(None, inode=4),
    }
    (moved,) = differences(maker, before, after, moves=True)
    assert (moved.change, moved.old_path, moved.path) == (Change.MOVED, b"a", b"b")
    assert told(differences(maker, before, after)) == {b"a": Change.REMOVED, b"b": Change.ADDED}


def test_what_differs_inside_something_moved_is_told_too(maker: Maker) -> None:
    before = {
        **ROOT,
        b"a": Item(None, inode=2),
        b"a/f": Item(b"x", inode=3),
        b"a/g": Item(b"", inode=4),
        b"a/h": Item(b"h", inode=5),
    }
    after = {
        **ROOT,
        b"b": Item(None, inode=2),
        b"b/f": Item(b"y", inode=3),
        b"b/k": Item(b"new", inode=6),
        b"l": Item(b"h", inode=5),
    }
    found = differences(maker, before, after, moves=True)
    assert told(found) == {
        b"b": Change.MOVED,
        b"b/f": Change.CHANGED,
        b"b/g": Change.REMOVED,
        b"b/k": Change.ADDED,
        b"l": Change.MOVED,
    }
    assert {one.path: one.old_path for one in found if one.old_path} == {b"b": b"a", b"l": b"b/h"}


def test_moves_into_new_and_out_of_removed_directories(maker: Maker) -> None:
    before = {
        **ROOT,
        b"f": Item(b"x", inode=3),
        b"gone": Item(None, inode=7),
        b"gone/deep": Item(None, inode=8),
        b"gone/deep/g": Item(b"g", inode=9),
    }
    after = {
        **ROOT,
        b"new": Item(None, inode=10),
        b"new/in": Item(None, inode=11),
        b"new/in/f": Item(b"x", inode=3),
        b"g": Item(b"g", inode=9),
    }
    found = differences(maker, before, after, moves=True)
    assert told(found) == {
        b"g": Change.MOVED,
        b"gone": Change.REMOVED,
        b"new": Change.ADDED,
        b"new/in/f": Change.MOVED,
    }
    assert {one.path: one.old_path for one in found if one.old_path} == {
        b"g": b"gone/deep/g",
        b"new/in/f": b"f",
    }


def test_an_inode_number_that_was_used_again_is_no_move(maker: Maker) -> None:
    before = {**ROOT, b"a": Item(b"x", 1, inode=3)}
    after = {**ROOT, b"b": Item(b"other", 2, inode=3)}
    assert told(differences(maker, before, after, moves=True)) == {
        b"a": Change.REMOVED, b"b": Change.ADDED,
    }  # fmt: skip


def test_a_birth_time_tells_whether_it_is_the_same_thing(maker: Maker) -> None:
    old, new = (
        maker.root({**ROOT, b"a": Item(b"x", inode=3)}),
        maker.root({**ROOT, b"b": Item(b"y", 2, inode=3)}),
    )
    for births, change in (((5, 5), [Change.MOVED]), ((5, 6), [Change.REMOVED, Change.ADDED])):
        born = [
            _with(maker, root, name, btime_ns=birth)
            for root, name, birth in zip((old, new), (b"a", b"b"), births, strict=True)
        ]
        found = diff(maker.tree, *born, same_source=True)
        assert [one.change for one in found] == change


def _with(maker: Maker, root: Entry, name: bytes, **fields: object) -> Entry:
    entries = [
        msgspec.structs.replace(entry, **fields) if entry.name == name else entry
        for entry in maker.tree.entries(root)
    ]
    made_anew = made.directory_entry(maker.repository, maker.writer, b"", entries)
    maker.writer.commit()
    return msgspec.structs.replace(root, node=made_anew.node)


def test_files_cut_otherwise_are_equal_when_their_bytes_are(maker: Maker) -> None:
    def cut(*parts: bytes) -> Entry:
        rows = []
        for part in parts:
            chunk_id = maker.repository.keys.chunk_id(part)
            maker.writer.put_meta(ChunkId(chunk_id), part)
            rows.append((bytes(chunk_id), len(part)))
        entry = made.file_entry(b"f", rows)
        root = made.directory_entry(maker.repository, maker.writer, b"", [entry])
        maker.writer.commit()
        return root

    hole = _with(maker, cut(b"abcdef"), b"f", extents=pack_extents([(bytes(32), 6)]))
    assert list(diff(maker.tree, cut(b"abcdef"), cut(b"ab", b"cdef"), same_source=True)) == []
    assert list(diff(maker.tree, hole, cut(b"\0\0", b"\0\0\0\0"), same_source=True)) == []
    for other in (cut(b"ab", b"cdeX"), hole):
        (found,) = diff(maker.tree, cut(b"abcdef"), other, same_source=True)
        assert (found.change, found.aspects) == (Change.CHANGED, ("content",))


@pytest.mark.parametrize(
    ("field", "value", "aspect"),
    [("mode", 0o600, "mode"), ("uid", 7, "owner"), ("mtime_ns", 9, "mtime"), ("nlink", 2, "links"),
     ("xattrs", ((b"user.a", b"b"),), "xattrs"), ("flags", 16, "flags")],
)  # fmt: skip
def test_metadata_is_told_apart_from_content(
    maker: Maker, field: str, value: object, aspect: str
) -> None:
    root = maker.root({**ROOT, b"f": Item(b"x")})
    (found,) = diff(maker.tree, root, _with(maker, root, b"f", **{field: value}), same_source=True)
    assert (found.change, found.aspects) == (Change.METADATA, (aspect,))


def test_too_many_differences_are_streamed(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diff_module, "HELD_MAX", 5)
    notices: list[str] = []
    before = maker.root({**ROOT, **{b"old%d" % n: Item(b"x", inode=n) for n in range(9)}})
    after = maker.root({**ROOT, **{b"new%d" % n: Item(b"x", inode=n) for n in range(9)}})
    found = list(diff(maker.tree, before, after, same_source=True, on_notice=notices.append))
    assert len(found) == 18
    assert {one.change for one in found} == {Change.ADDED, Change.REMOVED}
    assert len(notices) == 1


@given(data=st.data())
def test_equal_subtrees_are_never_read(maker: Maker, data: st.DataObject) -> None:
    model = data.draw(models()) | {
        b"same": Item(None),
        b"same/in": Item(None),
        b"same/in/f": Item(b"x"),
    }
    before, after = maker.root(model), maker.root({**model, b"added": Item(b"")})
    reader = maker.repository.new_reader()
    read: list[bytes] = []
    original = reader.chunk

    def count(chunk_id: ChunkId) -> memoryview:
        read.append(chunk_id)
        return original(chunk_id)

    reader.chunk = count  # type: ignore[method-assign]
    tree = type(maker.tree)(reader)
    assert told(list(diff(tree, before, after, same_source=True))) == {b"added": Change.ADDED}
    inner = {entry.node for entry in maker.tree.entries(before) if entry.node}
    assert not inner & set(read)
