from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ingest.exclusion import CACHE_TAG, Exclusion, is_cache_directory
from repo.errors import UsageError
from tests.support import need


def excluded(exclusion: Exclusion, root: bytes, path: tuple[bytes, ...] = ()) -> set[bytes]:
    """What a walk leaves out: entries that are excluded, and all below them."""
    found = set()
    with os.scandir(os.path.join(root, *path)) as listing:
        for item in listing:
            below = (*path, item.name)
            if below == (b".git",):
                continue
            directory = item.is_dir(follow_symlinks=False)
            if exclusion.excludes(below, directory):
                found.add(b"/".join(below))
                if directory:
                    found |= everything_below(root, below)
            elif directory:
                found |= excluded(exclusion, root, below)
    return found


def everything_below(root: bytes, path: tuple[bytes, ...]) -> set[bytes]:
    found = set()
    for folder, directories, files in os.walk(os.path.join(root, *path)):
        found |= {os.path.relpath(os.path.join(folder, n), root) for n in directories + files}
    return found


class Git:
    """What git ignores in a tree, by its own word."""

    def __init__(self, root: Path) -> None:
        self.root = os.fsencode(root)
        self._git = need.tool("git")
        self._rules = root.parent / "rules"
        subprocess.run([self._git, "init", "-q", root], check=True)

    def make(self, paths: set[tuple[bytes, ...]]) -> None:
        for name in os.listdir(self.root):
            path = os.path.join(self.root, name)
            if name == b".git":
                continue
            if os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path)
            else:
                os.unlink(path)
        for names in sorted(paths, key=len, reverse=True):  # a longer path makes the directories
            path = os.path.join(self.root, *names)
            if not os.path.lexists(path):
                os.makedirs(os.path.dirname(path), exist_ok=True)
                if names[-1].endswith(b"l"):
                    os.symlink(b".", path)
                else:
                    Path(os.fsdecode(path)).touch()

    def ignored(self, rules: bytes) -> set[bytes]:
        self._rules.write_bytes(rules)
        paths = [path for path in everything_below(self.root, ()) if path.split(b"/")[0] != b".git"]
        done = subprocess.run(
            [
                *(self._git, "-c", f"core.excludesFile={self._rules}", "check-ignore"),
                *("--no-index", "-z", "--stdin"),
            ],
            cwd=self.root,
            input=b"\0".join(paths),
            capture_output=True,
            check=False,
        )
        assert done.returncode in (0, 1), done.stderr
        return set(done.stdout.split(b"\0")) - {b""}


@pytest.fixture(scope="module")
def git(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Git]:
    root = tmp_path_factory.mktemp("git") / "tree"
    root.mkdir()
    yield Git(root)
    shutil.rmtree(root)


NAMES = st.sampled_from(
    [
        *(
            b"a",
            b"b",
            b"ab",
            b"abc",
            b"l",
            b"al",
            b"a.o",
            b".a",
            b"A",
            b"1",
            b"-",
            b"]",
            b"[",
            b"!",
        ),
        *(b"*", b"?", b"\\", b"#", b"a b", b"a ", b" ", b"a\n", b"\n", b"\xe4", b"\xc3\xa4", b"^"),
    ]
)
TREES = st.sets(st.lists(NAMES, min_size=1, max_size=4).map(tuple), min_size=1, max_size=15)
TOKENS = st.sampled_from(
    [
        *(
            b"a",
            b"b",
            b"ab",
            b".o",
            b"*",
            b"**",
            b"***",
            b"?",
            b"/",
            b"/",
            b"!",
            b"\\",
            b" ",
            b"\t",
        ),
        *(b"[", b"]", b"-", b"^", b"[ab]", b"[!a]", b"[^a]", b"[a-c]", b"[]a]", b"[!]]", b"[a/]"),
        *(b"[[:alpha:]]", b"[[:punct:]]", b"[[:nope:]]", b"[[:]", b"[\\]]", b"[a-\\c]", b"[c-a]"),
        *(b"#", b"\r", b"\xe4", b"\xc3\xa4", b"**/", b"/**", b"*/", b"\\*", b"[[:space:]a-]"),
    ]
)
LINES = st.lists(TOKENS, max_size=5).map(b"".join)
ANY_TREE = {(a, b) for a in (b"a", b"foox", b"b", b"a\n") for b in (b"a", b"bar", b"a.o", b"a\n")}


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tree=TREES, lines=st.lists(LINES, max_size=6))
@example(tree=ANY_TREE, lines=[b"a/", b"!a/a"])
@example(tree=ANY_TREE, lines=[b"a/*", b"!a/a"])
@example(tree=ANY_TREE, lines=[b"/**/a"])
@example(tree=ANY_TREE, lines=[b"foo**/bar"])  # not what the manual says, but what git does
@example(tree=ANY_TREE, lines=[b"a", b"!a\\\\n"])
def test_the_same_is_excluded_as_git_ignores(
    git: Git, tree: set[tuple[bytes, ...]], lines: list[bytes]
) -> None:
    git.make(tree)
    rules = b"\n".join(lines)
    assert excluded(Exclusion(rules.split(b"\n")), git.root) == git.ignored(rules)


def test_rules_survive_packing(git: Git) -> None:
    lines = [b"# comment", b"", b"*.o", b"!keep.o", b"dir/", b"/top ", b"name\\ ", b"\xff*"]
    exclusion = Exclusion(lines)
    again = Exclusion.parse(exclusion.pack())
    assert again.pack() == exclusion.pack()
    assert again.hash() == exclusion.hash()
    assert len(exclusion.hash()) == 16
    assert again.excludes((b"x", b"a.o"), False)
    assert not again.excludes((b"x", b"keep.o"), False)
    assert again.excludes((b"\xffabc",), False)
    assert again.excludes((b"name ",), False)


def test_the_hash_follows_what_the_rules_say() -> None:
    rules = Exclusion([b"*.o", b"dir/"])
    assert rules.hash() == Exclusion([b"", b"*.o  ", b"# comment", b"dir/\r"]).hash()
    assert rules.hash() != Exclusion([b"dir/", b"*.o"]).hash()
    assert rules.hash() != Exclusion([b"*.o", b"dir"]).hash()
    # It stands in the base record: another value would end every chain of incrementals.
    assert rules.hash().hex() == "eab69865edf7f0d608247279cc2b3468"


def test_no_rules_exclude_nothing() -> None:
    for lines in ([], [b""], [b"# comment", b"   "]):
        assert not Exclusion(lines)
        assert not Exclusion.parse(Exclusion(lines).pack())
        assert not Exclusion(lines).excludes((b"a",), True)
    assert Exclusion([b"a"])


def test_files_of_rules_come_before_patterns(tmp_path: Path) -> None:
    rules = tmp_path / "rules"
    rules.write_bytes(b"\xef\xbb\xbf*.o\r\n#*.c\n\xff")
    exclusion = Exclusion.read(["!keep.o"], [str(rules)])
    assert exclusion.excludes((b"a.o",), False)
    assert exclusion.excludes((b"\xff",), False)
    assert not exclusion.excludes((b"keep.o",), False)
    assert not exclusion.excludes((b"a.c",), False)


@pytest.mark.parametrize("pattern", ["", "  ", "# comment", "a\nb"])
def test_a_pattern_that_cannot_be_meant_is_a_usage_error(pattern: str) -> None:
    with pytest.raises(UsageError, match="exclude"):
        Exclusion.read([pattern])


def test_a_missing_file_of_rules_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        Exclusion.read([], [str(tmp_path / "missing")])


SIGNATURE = b"Signature: 8a477f597d28d172789f06886806bc55"


@pytest.mark.parametrize(
    ("content", "marked"),
    [
        (SIGNATURE, True),
        (SIGNATURE + b"\n# a cache", True),
        (SIGNATURE[:-1], False),
        (SIGNATURE.lower(), False),
        (b"", False),
    ],
)
def test_a_cache_folder_is_known_by_the_signature(
    tmp_path: Path, content: bytes, marked: bool
) -> None:
    (tmp_path / "CACHEDIR.TAG").write_bytes(content)
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        assert is_cache_directory(fd, [b"a", CACHE_TAG]) is marked
        assert not is_cache_directory(fd, [b"a"])
    finally:
        os.close(fd)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("tag", path)])
def test_a_tag_that_is_no_file_marks_nothing(tmp_path: Path, make: object) -> None:
    (tmp_path / "tag").write_bytes(SIGNATURE)
    assert callable(make)
    make(tmp_path / "CACHEDIR.TAG")
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        assert not is_cache_directory(fd, [CACHE_TAG])
    finally:
        os.close(fd)
