"""A restore by somebody who is not root: all that is permitted, and one problem for each kind."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.mount.restoring import Store, leftovers
from tests.support import chattr, compare, need, oddities

NOBODY = 65534

# Everything is imported before the rights are given up: the interpreter itself may lie where only
# root looks.
_SCRIPT = """
import encodings.idna, json, os, sys, tempfile
from pathlib import Path
from mount.restore import restore
from repo.keys import KeyFile
from repo.repository import Repository

path, key, target, uid, groups = sys.argv[1:]
os.setgroups(json.loads(groups))
os.setgid(int(uid))
os.setuid(int(uid))
notices = []
with Repository.open(path, KeyFile(Path(key))) as repository:
    point = repository.point("latest")
    summary = restore(repository, point, to=Path(target), streams=1, on_notice=notices.append)
print(json.dumps({
    "problems": [[os.fsdecode(p.path), p.step, p.detail, p.count] for p in summary.problems],
    "damaged": summary.damaged, "notices": notices, "written": summary.bytes_written,
}))
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that others can reach, other than pytest's own."""
    need.root()
    path = Path(tempfile.mkdtemp(prefix="repo-rights-"))
    path.chmod(0o755)
    yield path
    chattr.release(path)
    shutil.rmtree(path)


@pytest.fixture
def store(folder: Path) -> Store:
    return Store(folder)


def _restore_as_nobody(store: Store, target: Path, *groups: int) -> dict[str, Any]:
    owner = f"{NOBODY}:{NOBODY}"
    subprocess.run(["chown", "-R", owner, str(store.path), str(store.key)], check=True)
    arguments = [store.path, store.key, target, NOBODY, json.dumps(groups)]
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, *map(str, arguments)],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _own_folder(path: Path) -> Path:
    path.mkdir()
    os.chown(path, NOBODY, NOBODY)
    return path


def test_all_that_is_permitted_is_restored_and_the_rest_told_by_kind(
    store: Store, folder: Path
) -> None:
    source = folder / "source"
    source.mkdir()
    oddities.make(source, many=10)
    store.ingest(source)
    target = _own_folder(folder / "for-nobody") / "target"
    found = _restore_as_nobody(store, target)
    assert found["damaged"] == 0
    assert len(found["notices"]) == 1
    assert "only root can give files away" in found["notices"][0]
    kinds = [(step, detail) for _, step, detail, _ in found["problems"]]
    assert len(kinds) == len(set(kinds))
    steps = {step for step, _ in kinds}
    assert steps == {
        "make the device",
        "set an extended attribute of",
        "set the mode of",
        "set the file flags of",
    }
    counts = {(step, detail.split(":")[0]): n for _, step, detail, n in found["problems"]}
    assert counts["make the device", "Operation not permitted"] == 3  # anybody makes a whiteout
    assert counts["set the mode of", "set-id bits go with the recorded owner only"] >= 6
    different = compare.differences(source, target, skip=["uid", "gid"])
    about = {line.split(": ")[1] for line in different}
    assert about <= {"exists", "xattrs", "mode", "flags"}
    for line in different:
        if ": exists: " in line:
            assert "special/" in line
        if ": flags: " in line:
            assert "append" in line or "immutable" in line
    assert leftovers(target) == []


def test_the_second_time_nothing_is_written(store: Store, folder: Path) -> None:
    source = folder / "source"
    source.mkdir()
    oddities.make(source, many=10, huge=False, deep=False)
    store.ingest(source)
    target = _own_folder(folder / "for-nobody") / "target"
    first = _restore_as_nobody(store, target)
    before = {path: path.lstat().st_mtime_ns for path in target.rglob("*")}
    again = _restore_as_nobody(store, target)
    readable = again["written"] < first["written"] / 100  # but for files of mode 0 and 0200
    assert readable
    assert again["problems"] == first["problems"]
    assert {path: path.lstat().st_mtime_ns for path in target.rglob("*")} == before


def test_own_files_come_back_with_their_group_and_mode(store: Store, folder: Path) -> None:
    source = folder / "source"
    (source / "shared").mkdir(parents=True)
    (source / "shared" / "file").write_text("x")
    (source / "closed").mkdir()
    (source / "closed" / "file").write_text("y")
    for path in [source, *source.rglob("*")]:
        os.chown(path, NOBODY, 4321)
    (source / "shared").chmod(0o2775)
    (source / "shared" / "file").chmod(0o444)
    (source / "closed").chmod(0o000)
    os.setxattr(source / "shared" / "file", "user.note", b"of a file that nobody may write")
    store.ingest(source)
    target = _own_folder(folder / "for-nobody") / "target"
    found = _restore_as_nobody(store, target, 4321)
    assert (found["problems"], found["notices"]) == ([], [])
    assert compare.differences(source, target) == []
    os.setxattr(target / "shared" / "file", "user.note", b"changed")
    (target / "closed" / "file").write_text("z")
    (target / "shared" / "file").chmod(0o400)
    found = _restore_as_nobody(store, target, 4321)
    assert (found["problems"], found["notices"]) == ([], [])
    assert compare.differences(source, target) == []


def test_set_id_bits_are_not_given_to_the_wrong_owner(store: Store, folder: Path) -> None:
    source = folder / "source"
    source.mkdir()
    (source / "tool").write_text("x")
    (source / "tool").chmod(0o6755)
    store.ingest(source)
    target = _own_folder(folder / "for-nobody") / "target"
    found = _restore_as_nobody(store, target)
    assert [problem[1] for problem in found["problems"]] == ["set the mode of"]
    status = (target / "tool").stat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (NOBODY, 0o755)


def test_what_somebody_else_owns_in_the_target_is_a_problem_of_that_file(
    store: Store, folder: Path
) -> None:
    source = folder / "source"
    source.mkdir()
    for name in ("a", "b"):
        (source / name).write_text(name)
        os.chown(source / name, NOBODY, NOBODY)
    store.ingest(source)
    target = _own_folder(folder / "for-nobody") / "target"
    target.mkdir()
    (target / "a").write_text("of root")
    os.chown(target, NOBODY, NOBODY)
    target.chmod(0o1777)
    (target / "a").chmod(0o644)
    found = _restore_as_nobody(store, target)
    assert (target / "b").read_text() == "b"
    assert (target / "a").read_text() in {"a", "of root"}
    if (target / "a").read_text() == "of root":
        assert ["a", "write"] in [problem[:2] for problem in found["problems"]]
    assert leftovers(target) == []
