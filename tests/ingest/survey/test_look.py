"""The look: the native one agrees with its specification, and both say what is there."""

from __future__ import annotations

import os
import random
import socket
import stat as modes
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.saver import directory_entry
from ingest.statx import stat_at, stat_fd
from ingest.survey import look as dispatch
from ingest.survey import reference
from ingest.survey.reference import INODE, Found, Item
from repo.format.node import Entry, pack_entries
from repo.types import Kind
from tests.support import loopfs

NODE = bytes(range(32))
NO_LIMIT = (1 << 63) - 1

Look = Callable[[int, "tuple[Item, ...]", int, int, bytes], list[Found]]


@pytest.fixture(params=["native", "reference"])
def look(request: pytest.FixtureRequest) -> Look:
    if request.param == "native":
        assert dispatch.AVAILABLE, "the C extension is not built: run tools/test"
        return dispatch.look
    return reference.look


def entry_of(dirfd: int, name: bytes) -> Entry:
    """The entry that an ingest would make of a name, as far as a look compares it."""
    stat = stat_at(dirfd, name)
    entry = Entry(
        name, stat.kind, stat.mode, stat.uid, stat.gid, stat.mtime_ns, stat.ctime_ns,
        stat.btime_ns, stat.inode, stat.nlink, stat.size, xattrs=((b"user.x", b"y" * 300),),
    )  # fmt: skip
    if stat.kind == Kind.DIRECTORY:
        return msgspec.structs.replace(entry, node=NODE, entries_below=9, directories_below=7)
    return entry


def fill(folder: Path) -> None:
    """One of each kind, as far as the user may."""
    (folder / "below" / "far").mkdir(parents=True)
    (folder / "empty").write_bytes(b"")
    (folder / "file").write_bytes(b"x" * 70_000)
    (folder / "a name \xe4\n").write_text("odd")
    (folder / "link").symlink_to("nowhere")
    os.mkfifo(folder / "fifo")
    with socket.socket(socket.AF_UNIX) as unix:
        here = os.getcwd()
        os.chdir(folder)  # a path of a socket is short
        unix.bind("socket")
        os.chdir(here)
    if os.geteuid() == 0:
        os.mknod(folder / "device", modes.S_IFCHR | 0o600, os.makedev(1, 3))
        os.chown(folder / "file", 70_000, 4_000_000_000)
    os.utime(folder / "empty", ns=(0, -5_000_000_001))
    os.utime(folder / "file", ns=(0, 1))


class Scene:
    """A folder, and what a base that holds all of it says."""

    def __init__(self, root: Path) -> None:
        self.root_fd = os.open(root, os.O_RDONLY)
        self.fd = os.open(root / "folder", os.O_RDONLY)
        self.device = os.fstat(self.fd).st_dev
        self.entries = [entry_of(self.fd, os.fsencode(n)) for n in sorted(os.listdir(self.fd))]
        own = directory_entry(b"folder", self.fd, stat_fd(self.fd), 0)
        self.own = msgspec.structs.replace(own, node=NODE)

    def item(self, entries: Sequence[Entry], own: Entry | None = None) -> Item:
        half = len(entries) // 2
        runs = [pack_entries(part) for part in (entries[:half], entries[half:])]
        return (b"folder", msgspec.msgpack.encode(own or self.own), runs[0], memoryview(runs[1]))

    def close(self) -> None:
        os.close(self.fd)
        os.close(self.root_fd)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    root = tmp_path_factory.mktemp("look")
    (root / "folder").mkdir()
    fill(root / "folder")
    scene = Scene(root)
    yield scene
    scene.close()


def test_what_is_as_it_was(scene: Scene, look: Look) -> None:
    found = look(scene.root_fd, (scene.item(scene.entries),), NO_LIMIT, scene.device, b"")
    (below,) = [e for e in scene.entries if e.kind == Kind.DIRECTORY]
    others = [e for e in scene.entries if e.kind != Kind.DIRECTORY]
    children = [(b"below", msgspec.msgpack.encode(below), NODE, 9, 7)]
    assert found == [(True, len(others), 70_003, children)]


OWN_CHANGES: dict[str, dict[str, Any]] = {
    "mode": {"mode": 0o700 ^ 0o077},
    "mtime": {"mtime_ns": 5},
    "ctime": {"ctime_ns": 5},
    "inode": {"inode": 5},
    "uid": {"uid": 12345},
    "gid": {"gid": 12345},
    "kind": {"kind": Kind.FILE},
}


@pytest.mark.parametrize("name", OWN_CHANGES)
def test_a_directory_that_is_another_now(scene: Scene, look: Look, name: str) -> None:
    own = msgspec.structs.replace(scene.own, **OWN_CHANGES[name])
    item = scene.item(scene.entries, own)
    ((same, files, size, children),) = look(scene.root_fd, (item,), NO_LIMIT, scene.device, b"")
    assert (same, files, size) == (False, 0, 0)
    assert [child[0] for child in children] == [b"below"], "below it something may be as it was"


def test_another_device_or_what_is_never_entered(scene: Scene, look: Look) -> None:
    item = scene.item(scene.entries)
    inodes = b"".join(map(INODE.pack, [1, scene.own.inode, 3]))
    assert not look(scene.root_fd, (item,), NO_LIMIT, scene.device + 1, b"")[0][0]
    assert not look(scene.root_fd, (item,), NO_LIMIT, scene.device, inodes)[0][0]
    assert look(scene.root_fd, (item,), NO_LIMIT, scene.device, INODE.pack(1))[0][0]


def test_the_racy_limit_is_below_each_ctime(scene: Scene, look: Look) -> None:
    newest = max(e.ctime_ns for e in [scene.own, *scene.entries])
    item = scene.item(scene.entries)
    assert look(scene.root_fd, (item,), newest + 1, scene.device, b"")[0][0]
    assert not look(scene.root_fd, (item,), newest, scene.device, b"")[0][0]


@pytest.mark.parametrize(
    "change", [{"absent": "another file system"}, {"volume": 3}, {"node": b""}], ids=str
)
def test_a_child_that_the_base_has_not_whole(
    scene: Scene, look: Look, change: dict[str, Any]
) -> None:
    entries = [
        msgspec.structs.replace(e, **change) if e.name == b"below" else e for e in scene.entries
    ]
    found = look(scene.root_fd, (scene.item(entries),), NO_LIMIT, scene.device, b"")
    assert found == [(False, 0, 0, [])]


def test_paths_lead_through_no_symlink(tmp_path: Path, look: Look) -> None:
    real = tmp_path / "real" / "folder"
    real.mkdir(parents=True)
    fill(real)
    (tmp_path / "alias").symlink_to("real")
    scene = Scene(tmp_path / "real")
    try:
        item = scene.item(scene.entries)
        root_fd = os.open(tmp_path, os.O_RDONLY)
        for path, same in ((b"real/folder", True), (b"alias/folder", False), (b"gone", False)):
            found = look(root_fd, ((path, *item[1:]),), NO_LIMIT, scene.device, b"")
            assert found[0][0] is same, path
        os.close(root_fd)
    finally:
        scene.close()


def test_many_items_keep_their_order(scene: Scene, look: Look) -> None:
    whole = scene.item(scene.entries)
    items = (whole, (b"nowhere", *whole[1:]), whole, (b"folder", whole[1]))
    found = look(scene.root_fd, items, NO_LIMIT, scene.device, b"")
    assert [each[0] for each in found] == [True, False, True, True]
    assert look(scene.root_fd, (), NO_LIMIT, scene.device, b"") == []


def both(scene: Scene, item: Item, limit_ns: int = NO_LIMIT) -> list[list[Any]]:
    arguments = (scene.root_fd, (item,), limit_ns, scene.device, b"")
    return [decoded(dispatch.look(*arguments)), decoded(reference.look(*arguments))]


def decoded(found: list[Found]) -> list[Any]:
    """With the entries of children as values: the bytes of an older one are fewer."""
    as_entry = msgspec.msgpack.Decoder(Entry).decode
    return [
        (*figures, [(name, as_entry(entry), *rest) for name, entry, *rest in children])
        for *figures, children in found
    ]


NUMBERS = st.sampled_from([0, 1, 0x7F, 0x80, 0xFF, 0x100, 0xFFFF, 1 << 16, 0xFFFFFFFF])
TIMES = st.sampled_from([0, -1, -33, -129, -(1 << 15) - 1, -(1 << 31) - 1, -(1 << 63), NO_LIMIT])
FIELDS = {
    "name": st.sampled_from([b"", b".", b"..", b"a/b", b"a\0b", b"file", b"n" * 255, b"n" * 256]),
    "kind": st.integers(0, 9),
    "mode": NUMBERS,
    "uid": NUMBERS,
    "gid": NUMBERS,
    "mtime_ns": TIMES | st.integers(-(1 << 63), NO_LIMIT),
    "ctime_ns": TIMES | st.integers(-(1 << 63), NO_LIMIT),
    "btime_ns": TIMES,
    "inode": NUMBERS | st.integers(0, (1 << 64) - 1),
    "nlink": NUMBERS,
    "size": NUMBERS | st.integers(0, (1 << 64) - 1),
    "extents": st.sampled_from([b"", b"e" * 255, b"e" * 256, b"e" * 65536]),
    "flags": NUMBERS,
    "target": st.binary(max_size=40),
    "xattrs": st.sampled_from([(), ((b"a", b"b"),) * 17, ((b"a", b""),)]),
    "node": st.sampled_from([b"", NODE, NODE[1:]]),
    "volume": NUMBERS,
    "absent": st.sampled_from(["", "n" * 31, "n" * 32, "\xe4" * 200]),
    "entries_below": NUMBERS,
    "directories_below": NUMBERS,
}


@given(data=st.data())
@settings(max_examples=400)
def test_the_native_look_agrees_with_its_specification(scene: Scene, data: st.DataObject) -> None:
    """Entries of which a few fields are others, in the folder they are of."""
    entries = list(scene.entries)
    for _ in range(data.draw(st.integers(0, 2))):
        place = data.draw(st.integers(0, len(entries) - 1))
        field = data.draw(st.sampled_from(sorted(FIELDS)))
        change = {field: data.draw(FIELDS[field])}
        entries[place] = msgspec.structs.replace(entries[place], **change)
    own = scene.own
    if data.draw(st.booleans()):
        field = data.draw(st.sampled_from(sorted(FIELDS)))
        own = msgspec.structs.replace(own, **{field: data.draw(FIELDS[field])})
    times = sorted(e.ctime_ns for e in scene.entries)
    limit = data.draw(st.sampled_from([NO_LIMIT, times[0], times[-1], times[-1] + 1]))
    native, plain = both(scene, scene.item(entries, own), limit)
    assert native == plain


def test_older_entries_have_fewer_fields(scene: Scene) -> None:
    whole = [msgspec.msgpack.decode(msgspec.msgpack.encode(e)) for e in scene.entries]
    for fields in range(8, 23):
        run = msgspec.msgpack.encode([entry[:fields] for entry in whole])
        native, plain = both(scene, (b"folder", msgspec.msgpack.encode(scene.own), run))
        assert native == plain
        assert native[0][0] is (fields >= 18), fields


def test_bytes_that_are_no_run_do_no_harm(scene: Scene) -> None:
    """Whatever they are: nothing is read beyond them, and what does not parse is nothing."""
    rng = random.Random(7)
    own, good = msgspec.msgpack.encode(scene.own), pack_entries(scene.entries)
    cut = (good[:length] for length in range(0, len(good), 7))
    for run in (*cut, b"", b"\xdd\xff\xff\xff\xff", b"\x91\xdd\xff\xff\xff\xff", good + b"\0"):
        assert both(scene, (b"folder", own, run)) == [[(False, 0, 0, [])]] * 2
    for _ in range(3000):
        broken = bytearray(good if rng.random() < 0.8 else rng.randbytes(rng.randrange(60)))
        for _ in range(rng.randrange(1, 4)):
            if broken:
                broken[rng.randrange(len(broken))] = rng.randrange(256)
        rest = (NO_LIMIT, scene.device, b"")
        items = ((b"folder", own, bytes(broken)), (b"folder", bytes(broken), good))
        native = dispatch.look(scene.root_fd, items, *rest)
        plain = reference.look(scene.root_fd, items, *rest)
        for ours, theirs in zip(native, plain, strict=True):
            assert not theirs[0] or decoded([ours]) == decoded([theirs])


def test_wrong_arguments_are_refused(scene: Scene) -> None:
    own = msgspec.msgpack.encode(scene.own)
    for items in ((b"a",), ((b"a",),), (("a", own),), ((b"a\0b", own),), ((b"a", 1),)):
        with pytest.raises((TypeError, ValueError)):
            dispatch.look(scene.root_fd, items, NO_LIMIT, scene.device, b"")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        dispatch.look(scene.root_fd, [], NO_LIMIT, scene.device, b"")  # type: ignore[arg-type]


# -- the rule that spares the listing --------------------------------------------------------------

NAMES: dict[str, Callable[[Path, Path], object]] = {
    "create": lambda a, _b: (a / "new").write_bytes(b""),
    "mkdir": lambda a, _b: (a / "new").mkdir(),
    "symlink": lambda a, _b: (a / "new").symlink_to("x"),
    "link": lambda a, b: (a / "new").hardlink_to(b / "file"),
    "mknod": lambda a, _b: os.mkfifo(a / "new"),
    "unlink": lambda a, _b: (a / "file").unlink(),
    "rmdir": lambda a, _b: (a / "below").rmdir(),
    "rename inside": lambda a, _b: (a / "file").rename(a / "other"),
    "rename over": lambda a, _b: (a / "file").rename(a / "file2"),
    "rename away": lambda a, b: (a / "file").rename(b / "other"),
    "rename to here": lambda a, b: (b / "file").rename(a / "other"),
    "rename a folder away": lambda a, b: (a / "below").rename(b / "other"),
}


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "tmpfs"])
def test_a_name_that_comes_or_goes_moves_the_ctime(kind: str, tmp_path: Path) -> None:
    """The rule of DIRECTORIES_TIMED, also over a remount where there is one."""
    with loopfs.mounted(kind, tmp_path) as made:
        before: dict[str, int] = {}
        for name in NAMES:
            for folder in (made.path / f"{name} a", made.path / f"{name} b"):
                (folder / "below").mkdir(parents=True)
                (folder / "file").write_bytes(b"x")
                (folder / "file2").write_bytes(b"y")
            before[name] = (made.path / f"{name} a").stat().st_ctime_ns
        wait_for_the_clock(made.path, max(before.values()))
        for name, act in NAMES.items():
            act(made.path / f"{name} a", made.path / f"{name} b")
        if kind != "tmpfs":
            made.remount()
        after = {name: (made.path / f"{name} a").stat().st_ctime_ns for name in NAMES}
        assert [name for name in NAMES if after[name] <= before[name]] == []


def wait_for_the_clock(folder: Path, ctime_ns: int) -> None:
    """Wait until what changes gets a later ctime: the clock of a file system ticks."""
    probe = folder / "probe"
    probe.mkdir()
    while probe.stat().st_ctime_ns <= ctime_ns:
        probe.rmdir()
        probe.mkdir()
    probe.rmdir()
