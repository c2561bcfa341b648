"""A restore from a damaged or malicious repository: refused and named, and nothing gets out."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from mount import listing
from mount.restore import RestoreSummary
from repo.errors import Damaged
from repo.format.node import (
    EMPTY_RUN,
    HOLE,
    Entry,
    Extent,
    Node,
    Run,
    Totals,
    pack_entries,
    pack_extents,
)
from repo.types import MIB, Kind
from tests.mount.restoring import Store, leftovers, make_small, node_of
from tests.support import compare, oddities


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def _extents(store: Store, path: bytes) -> list[Extent]:
    with store.open() as repository:
        root = repository.point("latest").root
        return list(repository.tree.extents(repository.tree.resolve(root, path)))


def _damaged(summary: RestoreSummary) -> set[bytes]:
    assert summary.damaged == sum(p.count for p in summary.problems if p.damaged)
    return {problem.path for problem in summary.problems if problem.damaged}


# -- damage ---------------------------------------------------------------------------------------


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Files that share no frame."""
    source = tmp_path / "source"
    (source / "directory").mkdir(parents=True)
    for at, name in enumerate(("a", "b", "c", "directory/d", "large")):
        size = 12 * MIB if name == "large" else 2 * MIB
        (source / name).write_bytes(oddities.content(at, size))
    return source


@pytest.mark.parametrize("streams", [1, 2])
@pytest.mark.parametrize("name", ["b", "directory/d", "large"])
def test_a_damaged_frame_costs_the_files_in_it_and_nothing_else(
    store: Store, source: Path, tmp_path: Path, name: str, streams: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    make_small(monkeypatch, range_bytes=4 * MIB)
    store.ingest(source)
    hurt = _extents(store, name.encode())[-2].id
    store.damage_frame_of(hurt)
    target = tmp_path / "target"
    summary = store.restore(target, streams=streams)
    lost = _damaged(summary)
    assert name.encode() in lost
    assert len(lost) == len(summary.problems) < 5
    for path in lost:
        assert not (target / path.decode()).exists()
    assert compare.differences(source, target) == [
        f"{path.decode()!r}: exists: True is False" for path in sorted(lost)
    ]
    assert leftovers(target) == []


@pytest.mark.parametrize("streams", [1, 2])
def test_a_file_that_is_there_stays_as_it_was_when_damage_keeps_it_from_its_new_content(
    store: Store, source: Path, tmp_path: Path, streams: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_small(monkeypatch, range_bytes=4 * MIB)
    target = tmp_path / "target"
    store.ingest(source)
    store.restore(target)
    for name in ("a", "large"):
        (target / name).write_bytes(b"mine" * (3 * MIB))
    for path in (b"a", b"large"):
        store.damage_frame_of(_extents(store, path)[-1].id)
    summary = store.restore(target, streams=streams)
    assert {b"a", b"large"} <= _damaged(summary)
    for name in ("a", "large"):
        assert (target / name).read_bytes() == b"mine" * (3 * MIB)
    assert leftovers(target) == []


def test_damage_that_an_unchanged_file_does_not_need_does_not_matter(
    store: Store, source: Path, tmp_path: Path
) -> None:
    store.ingest(source)
    store.restore(tmp_path / "target")
    store.damage_frame_of(_extents(store, b"a")[0].id)
    summary = store.restore(tmp_path / "target")
    assert (summary.problems, summary.bytes_written) == ([], 0)


def test_a_missing_chunk_is_named_and_never_zeros(store: Store, tmp_path: Path) -> None:
    content = b"here"
    entries = [
        _file(b"gone", pack_extents([(bytes([7]) * 32, 4)]), 4),
        _file(b"half", pack_extents([(store.chunk_id(content), 4), (bytes([7]) * 32, 4)]), 8),
        _file(b"here", pack_extents([(store.chunk_id(content), 4)]), 4),
    ]
    store.publish(entries, chunks=[content])
    summary = store.restore(tmp_path / "target")
    assert _damaged(summary) == {b"gone", b"half"}
    assert os.listdir(tmp_path / "target") == ["here"]
    assert "a chunk is missing" in summary.problems[0].detail


def test_a_damaged_directory_is_named_and_its_neighbours_are_there(
    store: Store, tmp_path: Path
) -> None:
    inner = node_of([_file(b"inner")])
    wrong = b"not a node at all" * 10
    entries = [
        _directory(b"a", store.chunk_id(wrong)),
        _directory(b"b", store.chunk_id(inner)),
        _directory(b"c", bytes(32)),
        _file(b"d"),
    ]
    store.publish(entries, chunks=[inner, wrong])
    summary = store.restore(tmp_path / "target")
    assert _damaged(summary) == {b"a", b"c"}
    assert (tmp_path / "target" / "b" / "inner").exists()
    assert (tmp_path / "target" / "d").exists()


# -- malice ---------------------------------------------------------------------------------------


def _file(name: bytes, extents: bytes = b"", size: int = 0, **more: object) -> Entry:
    entry = Entry(name, Kind.FILE, 0o644, 0, 0, 1, 1, 0, 3, 1, size=size, extents=extents)
    return msgspec.structs.replace(entry, **more)


def _directory(name: bytes, node: bytes, below: int = 1) -> Entry:
    return Entry(name, Kind.DIRECTORY, 0o755, 0, 0, 1, 1, 0, 4, 2, node=node, entries_below=below)


def _symlink(name: bytes, target: bytes) -> Entry:
    return Entry(name, Kind.SYMLINK, 0o777, 0, 0, 1, 1, 0, 5, 1, target=target)


@pytest.mark.parametrize(
    "name", [b"..", b".", b"", b"/etc/x", b"../x", b"a/b", b"a\0b", b"/", b"n" * 256]
)
def test_a_name_that_leads_out_is_refused(store: Store, tmp_path: Path, name: bytes) -> None:
    store.publish([_file(name)])
    summary = store.restore(tmp_path / "target" / "deep")
    assert summary.damaged == 1
    assert os.listdir(tmp_path / "target" / "deep") == []
    assert os.listdir(tmp_path / "target") == ["deep"]
    if len(name) < 256:  # longer is the parser's to refuse, and the kernel's
        with pytest.raises(Damaged):
            listing.check_entry(_file(name))


@pytest.mark.parametrize("streams", [1, 2])
@pytest.mark.parametrize("there", [True, False])
def test_a_symlink_and_then_a_directory_of_its_name_stay_inside(
    store: Store, tmp_path: Path, streams: int, there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_small(monkeypatch)
    outside = tmp_path / "outside"
    outside.mkdir()
    link = _symlink(b"a", os.fsencode(outside))
    inner = node_of([_file(b"planted")])
    directory = _directory(b"a", store.chunk_id(inner))
    evil = node_of([link], joined=[directory])
    evil_too = node_of([directory], joined=[link])
    twice = node_of([link, directory])
    nodes = {b"x": evil, b"y": evil_too, b"z": twice}
    entries = [_directory(name, store.chunk_id(node), 3) for name, node in nodes.items()]
    store.publish(entries, chunks=[inner, *nodes.values()])
    target = tmp_path / "target"
    if there:
        for name in ("x", "y", "z"):
            (target / name).mkdir(parents=True)
            (target / name / "a").symlink_to(outside)
    summary = store.restore(target, streams=streams)
    assert _damaged(summary) == {b"x", b"y", b"z"}
    assert os.listdir(outside) == []


def test_a_path_chosen_through_a_symlink_of_the_target_stays_inside(
    store: Store, tmp_path: Path
) -> None:
    inner = node_of([_file(b"planted")])
    store.publish([_directory(b"a", store.chunk_id(inner))], chunks=[inner])
    outside, target = tmp_path / "outside", tmp_path / "target"
    outside.mkdir()
    target.mkdir()
    (target / "a").symlink_to(outside)
    summary = store.restore(target, paths=[b"a/planted"])
    assert summary.problems == []
    assert os.listdir(outside) == []
    assert (target / "a" / "planted").exists()


ABSURD: Sequence[dict[str, object]] = (
    {"uid": 1 << 40}, {"gid": -1}, {"uid": 0xFFFFFFFF},
    {"flags": 1 << 33}, {"flags": -1}, {"size": 1 << 30}, {"xattrs": ((b"user.\0", b""),)},
    {"kind": Kind.SYMLINK, "target": b"a\0b"}, {"kind": Kind.BLOCK_DEVICE, "rdev": -1},
    {"kind": Kind.BLOCK_DEVICE, "rdev": (1 << 64) - 1}, {"kind": 99}, {"mode": 0o17777},
    {"extents": pack_extents([(bytes(32), 7)])},
    {"extents": pack_extents([(bytes(32), 7)]), "size": 8},
    {"extents": pack_extents([(bytes(32), 1 << 63)]), "size": 8}, {"extent_level": 3, "size": 8},
)  # fmt: skip


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("absurd", ABSURD, ids=str)
def test_an_absurd_entry_is_refused_and_named(
    store: Store, tmp_path: Path, absurd: dict[str, object], there: bool
) -> None:
    inner = node_of([msgspec.structs.replace(_file(b"a"), **absurd)])
    entries = [_directory(b"evil", store.chunk_id(inner)), _file(b"good")]
    store.publish(entries, chunks=[inner])
    target = tmp_path / "target"
    if there:
        (target / "evil").mkdir(parents=True)
        (target / "evil" / "a").write_text("mine")
    summary = store.restore(target)
    assert _damaged(summary) in ({b"evil"}, {b"evil/a"})
    assert (target / "good").exists()
    assert leftovers(target) == []
    if there:
        assert (target / "evil" / "a").read_text() == "mine"
    else:
        assert os.listdir(target / "evil") == []


@pytest.mark.parametrize("streams", [1, 2])
def test_a_file_beyond_what_the_target_can_hold_leaves_nothing(
    store: Store, tmp_path: Path, streams: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_small(monkeypatch)
    size = 1 << 62
    store.publish([_file(b"a", pack_extents([(HOLE, size)]), size), _file(b"b")])
    summary = store.restore(tmp_path / "target", streams=streams)
    assert [(p.path, p.step, p.errno) for p in summary.problems] == [(b"a", "write", errno.EFBIG)]
    assert os.listdir(tmp_path / "target") == ["b"]


@pytest.mark.parametrize("streams", [1, 2])
def test_a_large_file_does_not_take_the_place_of_a_full_directory(
    store: Store, tmp_path: Path, streams: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_small(monkeypatch)
    store.publish([_file(b"a", pack_extents([(HOLE, 9 * MIB)]), 9 * MIB)])
    target = tmp_path / "target"
    (target / "a").mkdir(parents=True)
    assert store.restore(target, streams=streams).problems == []
    assert (target / "a").stat().st_size == 9 * MIB
    (target / "a").unlink()
    (target / "a" / "mine").mkdir(parents=True)
    summary = store.restore(target, streams=streams)
    assert [(p.path, p.step) for p in summary.problems] == [(b"a", "replace")]
    assert os.listdir(target) == ["a"]


def test_totals_that_lie_are_damage(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_small(monkeypatch)
    inner = node_of([_file(b"%03d" % number) for number in range(100)])
    for entries_below in (0, 99, 101, 1 << 60):
        lying = _directory(b"d", store.chunk_id(inner), entries_below)
        store.publish([lying, _file(b"e")], chunks=[inner])
        summary = store.restore(tmp_path / f"{entries_below}", streams=2)
        assert (summary.files, _damaged(summary)) == (1, {b"d"})


@pytest.mark.parametrize("streams", [1, 2])
def test_a_directory_that_holds_itself_does_not_go_on_for_ever(
    store: Store, tmp_path: Path, streams: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_small(monkeypatch)
    # Nobody can compute such ids, but who has the keys may claim any.
    own = b"the id of a node that holds this"
    twice = [_directory(b"x", own, 2), _directory(b"y", own, 2)]
    for totals, damaged in ((2, {b"a"}), (6, {b"a/x", b"a/y", b"a"})):
        node = Node(EMPTY_RUN, Run(2, pack_entries(twice)), Totals(totals, 0)).pack()
        store.publish([_directory(b"a", own, totals)], claimed={own: node})
        target = tmp_path / f"{totals}"
        assert _damaged(store.restore(target, streams=streams)) <= damaged
        for words in (["ls", "-R", "latest"], ["find", "nothing"]):
            assert "totals do not add up" in store.command.run(*words, status=4).err
        own = own[::-1]
        twice = [_directory(name, own, 2) for name in (b"x", b"y")]


def test_a_file_with_links_that_lie_is_restored(store: Store, tmp_path: Path) -> None:
    content = b"content"
    extents = pack_extents([(store.chunk_id(content), 7)])
    entries = [
        _file(b"a", extents, 7, nlink=5, inode=9),
        _file(b"b", extents, 7, nlink=0, inode=9),
        _file(b"c", extents, 7, nlink=2, inode=9),
        msgspec.structs.replace(_symlink(b"d", b"x"), nlink=2, inode=9),
    ]
    store.publish(entries, chunks=[content])
    summary = store.restore(tmp_path / "target")
    assert summary.problems == []
    found = {name: os.lstat(tmp_path / "target" / name).st_nlink for name in "abcd"}
    assert found == {"a": 2, "b": 1, "c": 2, "d": 1}
