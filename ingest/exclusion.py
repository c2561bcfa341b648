r"""An exclusion: which entries of a source are left out, by rules in gitignore form.

Patterns work as in a .gitignore at the root of the source: the last rule that matches an entry
decides, `!` takes an entry in again, and nothing below an excluded directory is looked at, so
nothing in there can be taken in again. As in git names are bytes: `?` is one byte.

The rules are those of git's dir.c and wildmatch.c, turned into regular expressions: one for all
wildcard rules on names, one for those on paths, and dictionaries for the rules without wildcards,
so that a decision costs about a microsecond however many rules there are. The library pathspec
was tried and left: it knows neither [[:alpha:]] nor escapes in brackets, takes `foo` for a match
of a name `foo\n`, and costs four to ten times as much.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from ingest.filereader import open_file
from repo.errors import UsageError

CACHE_TAG: Final = b"CACHEDIR.TAG"
"""A file of this name marks a cache folder (bford.info/cachedir) when it begins with the
signature."""

_CACHE_SIGNATURE: Final = b"Signature: 8a477f597d28d172789f06886806bc55"
assert len(_CACHE_SIGNATURE) == 43

_SPECIAL: Final = re.compile(rb"[*?\[\\]")
_SLASH, _STAR, _BACKSLASH = b"/*\\"
_OPEN, _CLOSE, _MINUS, _COLON = b"[]-:"


class Exclusion:
    """Compiled rules. `excludes` may be asked by several threads at once."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        """Compile the lines of a gitignore file; comments and blank lines are passed over."""
        self._lines = [line for line in map(_trimmed, lines) if line and line[0] != ord("#")]
        rules = [_parse(line) for line in self._lines]
        self._taken_in = [rule.taken_in for rule in rules]
        self._of_directories = _Rules(rules)
        self._of_others = _Rules(
            [rule._replace(glob=b"") if rule.directories_only else rule for rule in rules]
        )

    @classmethod
    def read(cls, patterns: Sequence[str], files: Sequence[str] = ()) -> Exclusion:
        """Rules as a command gets them: files of lines, then patterns, which have the last word.

        Raises UsageError when a file cannot be read or a pattern could never exclude anything.
        """
        lines: list[bytes] = []
        for path in files:
            try:
                with open(path, "rb") as file:
                    lines += file.read().removeprefix(b"\xef\xbb\xbf").split(b"\n")
            except OSError as error:
                raise UsageError(
                    f"cannot read exclusion rules: {error.strerror}",
                    where=path,
                    next_step="check --exclude-from",
                ) from error
        for pattern in patterns:
            if not _trimmed(os.fsencode(pattern)) or pattern[0] == "#" or "\n" in pattern:
                raise UsageError(
                    "is empty, a comment or more than one line",
                    where=f"--exclude {pattern!r}",
                    next_step="write \\# for a name that begins with #, ? for a line feed",
                )
            lines.append(os.fsencode(pattern))
        return cls(lines)

    def __bool__(self) -> bool:
        """Whether there are rules at all: without any nobody needs to ask."""
        return bool(self._lines)

    def excludes(self, path: Sequence[bytes], directory: bool) -> bool:
        """Whether the entry at `path` (names from the root down, its own last) is left out.

        Ask from the root down: the answer for an entry says nothing of the folders above it.
        `directory` is false for a symlink to one.
        """
        rules = self._of_directories if directory else self._of_others
        number = rules.last_match(path)
        return number >= 0 and not self._taken_in[number]

    def pack(self) -> bytes:
        """The rules as bytes, for another process."""
        return b"\n".join(self._lines)

    @classmethod
    def parse(cls, data: bytes) -> Exclusion:
        """The rules in what `pack` gave."""
        return cls(data.split(b"\n"))

    def hash(self) -> bytes:
        """16 bytes that are the same for the same rules, and only for them."""
        from hashlib import blake2b

        return blake2b(self.pack(), digest_size=16, person=b"repo exclusion").digest()


def is_cache_directory(dirfd: int, names: Sequence[bytes]) -> bool:
    """Whether the directory with the entries `names` is marked as a cache by a CACHEDIR.TAG."""
    if CACHE_TAG not in names:
        return False
    try:
        fd = open_file(dirfd, CACHE_TAG)
    except OSError:
        return False
    try:
        return os.pread(fd, len(_CACHE_SIGNATURE), 0) == _CACHE_SIGNATURE
    except OSError:
        return False
    finally:
        os.close(fd)


# -- rules --------------------------------------------------------------------------------------


class _Rule(NamedTuple):
    glob: bytes  # without "!", the leading and the trailing slash; empty when it never matches
    taken_in: bool  # a line with "!"
    directories_only: bool
    of_path: bool  # matches the path from the root, not the name alone


def _trimmed(line: bytes) -> bytes:
    """A line without its end and the spaces at its end that no backslash protects."""
    line = line.removesuffix(b"\n").removesuffix(b"\r").split(b"\0", 1)[0]
    kept = 0
    position = 0
    while position < len(line):
        if line[position] == _BACKSLASH:
            if position + 1 == len(line):
                return line
            position += 1
            kept = position + 1
        elif line[position] != ord(" "):
            kept = position + 1
        position += 1
    return line[:kept]


def _parse(line: bytes) -> _Rule:
    taken_in = line[0] == ord("!")
    glob = line[1:] if taken_in else line
    directories_only = glob.endswith(b"/")
    if directories_only:
        glob = glob[:-1]
    of_path = b"/" in glob
    return _Rule(glob.removeprefix(b"/"), taken_in, directories_only, of_path)


class _Rules:
    """All rules that hold for one kind of entry, told apart by their number in the list."""

    def __init__(self, rules: Sequence[_Rule]) -> None:
        self._last_by_name = _last_match(rules, of_path=False)
        self._last_by_path = _last_match(rules, of_path=True)

    def last_match(self, path: Sequence[bytes]) -> int:
        """The number of the last rule that matches; -1: none does."""
        number = -1
        if self._last_by_name is not None:
            number = self._last_by_name(path[-1])
        if self._last_by_path is not None:
            number = max(number, self._last_by_path(b"/".join(path)))
        return number


def _last_match(rules: Sequence[_Rule], *, of_path: bool) -> Callable[[bytes], int] | None:
    """A function from a name (or path) to the number of the last rule that matches it, or -1."""
    literal: dict[bytes, int] = {}
    expressions: list[bytes] = []
    numbers: list[int] = []
    for number, rule in enumerate(rules):
        if rule.of_path is not of_path or not rule.glob:
            continue
        if not _SPECIAL.search(rule.glob):
            literal[rule.glob] = number
        elif (expression := _expression(rule.glob)) is not None:
            expressions.append(b"(" + expression + b")")
            numbers.append(number)
    if not literal and not expressions:
        return None
    # Alternatives are tried from left to right: the last rule goes first.
    expressions.reverse()
    numbers.reverse()
    match = re.compile(b"|".join(expressions), re.DOTALL).fullmatch if expressions else None

    def last(subject: bytes) -> int:
        number = literal.get(subject, -1)
        if match is not None and (found := match(subject)):
            assert found.lastindex is not None
            return max(number, numbers[found.lastindex - 1])
        return number

    return last


# -- wildmatch ----------------------------------------------------------------------------------


def _expression(glob: bytes) -> bytes | None:
    """The regular expression of a pattern with wildcards; None when it never matches.

    Source: git's wildmatch.c with WM_PATHNAME. Names hold no slash, so it serves for them too.
    """
    first = _SPECIAL.search(glob)
    # git compares the part before the first wildcard apart: for "**" the pattern begins there.
    beginnings = {0, first.start() if first else 0}
    parts = []
    at = 0
    while at < len(glob):
        byte = glob[at]
        if byte == _BACKSLASH:
            if at + 1 == len(glob):
                return None
            parts.append(re.escape(glob[at + 1 : at + 2]))
            at += 2
        elif byte == ord("?"):
            parts.append(b"[^/]")
            at += 1
        elif byte == _STAR:
            part, at = _stars(glob, at, at in beginnings)
            parts.append(part)
        elif byte == _OPEN:
            bracket = _bracket(glob, at + 1)
            if bracket is None:
                return None
            members, at = bracket
            parts.append(b"[%s]" % b"".join(b"\\x%02x" % member for member in members))
        else:
            parts.append(re.escape(glob[at : at + 1]))
            at += 1
    return b"".join(parts)


def _stars(glob: bytes, begin: int, at_beginning: bool) -> tuple[bytes, int]:
    """The expression of a run of asterisks, and where the pattern goes on."""
    end = begin
    while end < len(glob) and glob[end] == _STAR:
        end += 1
    bounded = (at_beginning or glob[begin - 1] == _SLASH) and (
        end == len(glob) or glob[end] == _SLASH or glob[end : end + 2] == b"\\/"
    )
    if end - begin < 2 or not bounded:
        return b"[^/]*", end
    if glob[end : end + 1] == b"/":  # "**/" stands for no folder as well
        return b"(?:.*/)?", end + 1
    return b".*", end


_CLASSES: Final[dict[bytes, Callable[[int], bool]]] = {
    b"alnum": lambda c: chr(c).isalnum(),
    b"alpha": lambda c: chr(c).isalpha(),
    b"blank": lambda c: c in b" \t",
    b"cntrl": lambda c: c < 32 or c == 127,
    b"digit": lambda c: c in b"0123456789",
    b"graph": lambda c: 32 < c < 127,
    b"lower": lambda c: c in b"abcdefghijklmnopqrstuvwxyz",
    b"print": lambda c: 32 <= c < 127,
    b"punct": lambda c: 32 < c < 127 and not chr(c).isalnum(),
    b"space": lambda c: c in b" \t\n\v\f\r",
    b"upper": lambda c: c in b"ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    b"xdigit": lambda c: c in b"0123456789abcdefABCDEF",
}
"""The classes of ASCII, as git has them whatever the locale."""


def _bracket(glob: bytes, at: int) -> tuple[list[int], int] | None:
    """The bytes that a bracket expression stands for, and where the pattern goes on.

    `at` is behind the opening bracket. None when the pattern never matches: no end, an unknown
    class, or no byte left.
    """
    negated = glob[at : at + 1] in (b"!", b"^")
    at += negated
    members: set[int] = set()
    previous: int | None = None  # where a range may begin
    begin = at
    while at == begin or glob[at : at + 1] != b"]":  # a bracket that closes at once is a member
        if at >= len(glob):
            return None
        if glob.startswith(b"[:", at) and (end := _class_end(glob, at)):
            belongs = _CLASSES.get(glob[at + 2 : end - 2])
            if belongs is None:
                return None
            members.update(filter(belongs, range(128)))
            previous = None
            at = end
            continue
        is_range = (
            glob[at] == _MINUS and previous is not None and glob[at + 1 : at + 2] not in (b"", b"]")
        )
        at += is_range
        at += glob[at] == _BACKSLASH
        if at >= len(glob):
            return None
        if is_range and previous is not None:
            members.update(range(previous, glob[at] + 1))
            previous = None
        else:
            members.add(glob[at])
            previous = glob[at]
        at += 1
    if negated:
        members = set(range(256)) - members
    members.discard(_SLASH)
    return (sorted(members), at + 1) if members else None


def _class_end(glob: bytes, at: int) -> int:
    """Where "[:class:]" ends that begins at `at`; 0 when it is no class but single members."""
    end = glob.find(b"]", at + 2)
    if end < 0:  # then the expression around it has no end either
        return 0
    return end + 1 if end > at + 2 and glob[end - 1] == _COLON else 0
