"""What changed between two snapshots, against a full enumeration of both."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import pytest

from ingest.btrfs import ioctl
from ingest.btrfs.generation import changes_since
from ingest.changes.changesource import Changes
from tests.ingest.btrfs.volume import Volume, opened
from tests.support.btrfsops import OPERATIONS, write_at

State = dict[str, tuple[object, ...]]


def state_of(root: Path) -> State:
    """All there is to know of each entry below a directory, its inode included."""
    found: State = {}
    for folder, directories, files in os.walk(root):
        for name in [*directories, *files]:
            path = Path(folder, name)
            found[str(path.relative_to(root))] = _entry(path)
    found["."] = _entry(root)
    return found


def _entry(path: Path) -> tuple[object, ...]:
    info = path.lstat()
    content = b""
    if stat.S_ISREG(info.st_mode):
        content = hashlib.blake2b(path.read_bytes()).digest()
    elif stat.S_ISLNK(info.st_mode):
        content = os.readlink(path).encode()
    xattrs = tuple(
        (name, os.getxattr(path, name, follow_symlinks=False))
        for name in sorted(os.listxattr(path, follow_symlinks=False))
    )
    times = (info.st_mtime_ns, info.st_ctime_ns) if info.st_ino != ioctl.PLACEHOLDER else ()
    fields = info.st_mode, info.st_uid, info.st_gid, info.st_nlink, info.st_size, info.st_rdev
    return (info.st_ino, *fields, *times, content, xattrs)


def expected_changes(before: State, after: State) -> dict[int, Changes]:
    """What a change source must say, by comparing everything with everything."""
    old_by_inode: dict[object, set[tuple[object, ...]]] = {}
    old_names: dict[object, set[str]] = {}
    for path, entry in before.items():
        old_by_inode.setdefault(entry[0], set()).add(entry)
        old_names.setdefault(entry[0], set()).add(path)
    new_names: dict[object, set[str]] = {}
    for path, entry in after.items():
        new_names.setdefault(entry[0], set()).add(path)
    names: dict[int, set[bytes]] = {}
    listed: set[int] = set()
    for path, entry in after.items():
        inode = entry[0]
        if inode == ioctl.PLACEHOLDER:
            continue
        moved = new_names[inode] != old_names.get(inode)
        # Of a directory its own name counts, not that of those above it.
        if moved and all(Path(p).name for p in new_names[inode]):
            moved = _own_names(new_names[inode], after) != _own_names(
                old_names.get(inode, set()), before
            )
        if entry in old_by_inode.get(inode, set()) and not moved:
            continue
        if stat.S_ISDIR(int(str(entry[1]))):
            listed.add(int(str(inode)))
        place = Path(path)
        while str(place) != ".":
            above = int(str(after[str(place.parent)][0]))
            names.setdefault(above, set()).add(os.fsencode(place.name))
            place = place.parent
    return {
        inode: Changes(frozenset(names.get(inode, ())), inode in listed)
        for inode in names.keys() | listed
    }


def _own_names(paths: set[str], state: State) -> set[tuple[object, str]]:
    return {(state[str(Path(path).parent)][0], Path(path).name) for path in paths}


def changes(new: Path, since: int) -> dict[int, Changes]:
    with opened(new) as fd:
        found = changes_since(fd, ioctl.subvolume(fd).tree, since)
    assert not isinstance(found, str), found
    return found


def since_of(path: Path) -> int:
    with opened(path) as fd:
        return ioctl.subvolume(fd).otransid


def test_every_operation_is_found_and_nothing_else_is(volume: Volume) -> None:
    for name, operation in OPERATIONS.items():
        place = volume.live / name
        place.mkdir()
        operation.before(place)
    (volume.live / "untouched" / "below").mkdir(parents=True)
    old = volume.snapshot("old")
    for name, operation in OPERATIONS.items():
        operation.change(volume.live / name)
    new = volume.snapshot("new")
    found = changes(new, since_of(old))
    before, after = state_of(old), state_of(new)
    expected = expected_changes(before, after)
    paths = {entry[0]: path for path, entry in after.items()}
    wrong = {
        paths.get(inode, str(inode)): (found.get(inode), expected.get(inode))
        for inode in found.keys() | expected.keys()
        if found.get(inode) != expected.get(inode)
    }
    # Deduplication changes nothing that can be seen, and yet writes the inode (so the root, too,
    # has something below). More than what changed is no harm, less would be.
    extra = {path for path, (is_, wanted) in wrong.items() if _covers(is_, wanted)}
    assert set(wrong) - extra == set(), wrong
    assert extra <= {".", "dedupe"}, wrong


def _covers(found: Changes | None, wanted: Changes | None) -> bool:
    if wanted is None:
        return True
    return found is not None and found.names >= wanted.names and found.listed >= wanted.listed


def test_the_operations_are_those_of_the_matrix() -> None:
    assert len(OPERATIONS) >= 60


def test_balance_and_defragmentation_tell_nothing_new_or_too_much(volume: Volume) -> None:
    from tests.ingest.btrfs.volume import progs

    for number in range(50):
        (volume.live / str(number)).write_bytes(os.urandom(20_000))
    old = volume.snapshot("old")
    write_at(volume.live / "7", 100, b"x")
    progs("balance", "start", "--full-balance", volume.root)
    new = volume.snapshot("new")
    assert changes(new, since_of(old)) == {256: Changes(frozenset([b"7"]), False)}


def test_a_limit_on_what_is_gathered(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    old = volume.snapshot("old")
    for number in range(30):
        (volume.live / str(number)).touch()
    new = volume.snapshot("new")
    monkeypatch.setattr("ingest.btrfs.generation.CHANGED_MAX", 20)
    with opened(new) as fd:
        found = changes_since(fd, ioctl.subvolume(fd).tree, since_of(old))
    assert found == "more than 20 files changed"
