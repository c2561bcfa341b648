"""The maker of odd trees and the comparer of trees: they are what other tests rely on."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import chattr, command, compare, loopfs, need, oddities

# What a file system cannot hold, whoever asks.
CANNOT = {
    "ext4": {"xattr of 15000 bytes", "xattr of 65536 bytes"},
    "xfs": {"symlink of 4095 bytes", "device char-large-numbers"},
    "btrfs": {"xattr of 65536 bytes"},
    "tmpfs": set(),
}


@pytest.mark.parametrize("kind", CANNOT)
def test_every_oddity_is_made_and_compares_equal_to_itself(tmp_path: Path, kind: str) -> None:
    with loopfs.mounted(kind, tmp_path) as filesystem:
        root = filesystem.path / "odd"
        root.mkdir()
        made = oddities.make(root)
        assert set(made.missing) == CANNOT[kind]
        assert compare.differences(root, root, holes=True) == []
        made.cleanup()
        shutil.rmtree(root)


def test_the_tree_holds_what_it_promises(tmp_path: Path) -> None:
    need.root()
    made = oddities.make(tmp_path, many=1000)
    kinds = set()
    names = set()
    deepest = 0
    for folder, directories, files, fd in os.fwalk(os.fsencode(tmp_path)):
        deepest = max(deepest, len(folder))
        for name in directories + files:
            names.add(name)
            kinds.add(stat.S_IFMT(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode))
    assert len(kinds) == 7
    assert deepest > 4096
    assert set(oddities.NAMES) <= names
    assert len(os.listdir(tmp_path / "many")) == 1000
    assert (tmp_path / "sparse" / "huge").stat().st_size == 1 << 40
    assert (tmp_path / "links-1" / "file").stat().st_nlink == 3
    times = tmp_path / "times"
    for name, when in oddities.TIMES_NS.items():
        assert os.stat(os.path.join(os.fsencode(times), name)).st_mtime_ns == when
    fd = os.open(tmp_path / "flags" / "immutable", os.O_RDONLY)
    assert chattr.get(fd) & chattr.FLAGS["immutable"]
    made.cleanup()
    assert not chattr.get(fd) & chattr.FLAGS["immutable"]
    os.close(fd)
    shutil.rmtree(tmp_path / "flags")


def test_acls_are_as_setfacl_would_make_them(tmp_path: Path) -> None:
    (tmp_path / "file").touch(mode=0o600)
    os.setxattr(tmp_path / "file", "system.posix_acl_access", oddities.ACL_ACCESS)
    words = [need.tool("getfacl"), "--numeric", "--omit-header", "file"]
    said = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert "user:1234:r--" in said
    assert "group:4321:rw-" in said


def test_the_same_tree_is_made_again(tmp_path: Path) -> None:
    need.root()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    a, b = (oddities.make(tmp_path / name) for name in ("a", "b"))
    assert compare.differences(a.root, b.root, holes=True) == []
    a.cleanup()
    b.cleanup()


def test_it_is_made_without_root_as_well(tmp_path: Path) -> None:
    need.root()
    root = tmp_path / "odd"
    root.mkdir()
    os.chown(root, 65534, 65534)
    tmp_path.chmod(0o755)
    fd = os.open(root, os.O_RDONLY)
    above = Path.cwd()
    os.chdir(fd)
    os.seteuid(65534)
    try:
        made = oddities.make(Path())
        assert compare.differences(Path(), Path()) == []
    finally:
        os.seteuid(0)
        os.chdir(above)
        os.close(fd)
    assert {"device char", "owner 123456789", "flag immutable"} <= made.missing.keys()
    assert "flag nodump" not in made.missing


# -- the comparer -------------------------------------------------------------------------------


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """Two odd trees that are the same."""
    need.root()
    made = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        made.append(oddities.make(tmp_path / name, many=3, huge=False, deep=False))
    yield made[0].root, made[1].root
    for each in made:
        each.cleanup()


def test_a_copy_is_equal_for_both_comparers(pair: tuple[Path, Path], tmp_path: Path) -> None:
    a, _ = pair
    copy = tmp_path / "copy"
    words = [need.tool("rsync"), "-aHAX", "--numeric-ids", f"{a}/", f"{copy}/"]
    subprocess.run(words, check=True)
    found = compare.differences(a, copy)
    assert len(found) == 8
    assert all(line.startswith("'flags/") and ": flags: " in line for line in found)
    assert compare.rsync_differences(a, copy) == []
    # rsync does not keep holes unless asked to.
    assert any("holes" in line for line in compare.differences(a, copy, holes=True))


def _keep_time(path: Path, change: Callable[[Path], object]) -> None:
    """Make a change that leaves the mtimes as they were, so that it alone is to be found."""
    found = [(at, at.lstat()) for at in (path.parent, path)]
    change(path)
    for at, before in reversed(found):
        if os.path.lexists(at):
            os.utime(at, ns=(1, before.st_mtime_ns), follow_symlinks=False)


def _rewrite(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _make_again(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


def _device(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR | 0o604, os.makedev(1, 5))


def _flag(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    chattr.change(fd, remove=chattr.FLAGS["nodump"])
    os.close(fd)


def _unlinked_copy(path: Path) -> None:
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)


CHANGES: dict[str, tuple[str, str, Callable[[Path], object]]] = {
    "content": ("sizes/1048576", "content", _rewrite),
    "content of a sparse file": ("sparse/hole-at-end", "content", _rewrite),
    "size": ("sizes/4096", "size", lambda p: os.truncate(p, 4095)),
    "mode": ("modes/file-0444", "mode", lambda p: p.chmod(0o445)),
    "set-user-id": ("modes/file-4755", "mode", lambda p: p.chmod(0o755)),
    "mode of a directory": ("modes/directory-1777", "mode", lambda p: p.chmod(0o777)),
    "uid": ("sizes/512", "uid", lambda p: os.chown(p, 1, -1)),
    "gid of a symlink": ("symlinks/dangling", "gid", lambda p: os.lchown(p, -1, 1)),
    "uid of a device": ("special/block", "uid", lambda p: os.chown(p, 1, -1)),
    "xattr": ("attributes/xattr-0", "xattrs", lambda p: os.setxattr(p, "user.plain", b"valuf")),
    "xattr too many": ("attributes/xattr-1", "xattrs", lambda p: os.setxattr(p, "user.x", b"")),
    "xattr too few": ("attributes/xattr-5", "xattrs", lambda p: os.removexattr(p, "trusted.root")),
    "capability": (
        *("attributes/xattr-6", "xattrs"),
        lambda p: os.removexattr(p, "security.capability"),
    ),
    "ACL": (
        *("attributes/directory", "xattrs"),
        lambda p: os.removexattr(p, "system.posix_acl_default"),
    ),
    "xattr of a symlink": (
        *("symlinks/dangling", "xattrs"),
        lambda p: os.setxattr(p, "trusted.link", b"other", follow_symlinks=False),
    ),
    "xattr of a fifo": (
        *("special/fifo", "xattrs"),
        lambda p: os.removexattr(p, "trusted.special", follow_symlinks=False),
    ),
    "flags": ("flags/nodump", "flags", _flag),
    "flags of a directory": ("flags/directory-nodump", "flags", _flag),
    "link target": (
        *("symlinks/relative", "link target"),
        lambda p: _make_again(p, lambda path: path.symlink_to("../sizes/2")),
    ),
    "device number": ("special/char", "rdev", lambda p: _make_again(p, _device)),
    "kind": ("sizes/511", "kind", lambda p: _make_again(p, lambda path: path.symlink_to("512"))),
    "hard link": ("links-2/other-file", "hard links", _unlinked_copy),
    "missing": ("many/entry-1", "exists", os.unlink),
    "too many": ("many", "exists", lambda p: (p / "more").symlink_to("x")),
}


@pytest.mark.parametrize("change", CHANGES)
def test_each_change_is_noticed_and_nothing_else(pair: tuple[Path, Path], change: str) -> None:
    path, aspect, make = CHANGES[change]
    a, b = pair
    _keep_time(b / path, make)
    found = compare.differences(a, b)
    assert found
    assert {line.split("': ", 1)[1].split(":")[0] for line in found} == {aspect}
    if aspect != "flags":
        assert compare.rsync_differences(a, b)
    assert compare.differences(a, b, skip=[aspect]) == []


@pytest.mark.parametrize("name", ["sizes/1", "sizes", "symlinks/dangling", "special/fifo", "."])
def test_a_nanosecond_is_noticed(pair: tuple[Path, Path], name: str) -> None:
    a, b = pair
    when = (b / name).lstat().st_mtime_ns
    os.utime(b / name, ns=(1, when + 1), follow_symlinks=False)
    assert compare.differences(a, b) == [f"'{name}': mtime_ns: {when} is {when + 1}"]


def test_the_layout_of_holes_is_noticed_when_asked_for(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        with (tmp_path / name / "file").open("wb") as file:
            file.write(bytes(100_000) if name == "a" else b"")
            file.truncate(100_000)
            os.fsync(file.fileno())
        for path in (tmp_path / name / "file", tmp_path / name):
            os.utime(path, ns=(1, 1))
    assert compare.differences(tmp_path / "a", tmp_path / "b") == []
    found = compare.differences(tmp_path / "a", tmp_path / "b", holes=True)
    assert len(found) == 1
    assert "holes" in found[0]


# -- the command --------------------------------------------------------------------------------


def test_a_command_runs_without_the_users_own_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPO_PASSWORD", "the user's")
    monkeypatch.setenv("XDG_CONFIG_HOME", "/the/users")
    env = command.environment(tmp_path)
    assert "REPO_PASSWORD" not in env
    assert "XDG_CONFIG_HOME" not in env
    assert env["HOME"] == str(tmp_path)
    result = command.run("--version", env=env)
    assert result.out.startswith("repo ")
    assert command.run("--nonsense", env=env, status=2).err
    with pytest.raises(AssertionError, match="ended with 2, not 0"):
        command.run("--nonsense", env=env)


def test_what_the_machine_lacks_skips_and_in_ci_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    for lack in (lambda: need.tool("no-such-program"), lambda: need.filesystem("nosuchfs")):
        monkeypatch.delenv("CI", raising=False)
        with pytest.raises(pytest.skip.Exception, match=r"no-?such"):
            lack()
        monkeypatch.setenv("CI", "true")
        with pytest.raises(pytest.fail.Exception, match="CI must have"):
            lack()
