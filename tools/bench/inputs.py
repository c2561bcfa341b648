"""An input: the tree that every program of the comparison works on."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from repo.errors import JobFailed, UsageError
from repo.types import GIB, MIB
from tools.bench.command import Command, run

LINUX_PACKAGE = "linux-source-6.1"
LINUX_ARCHIVE = Path("/usr/src/linux-source-6.1.tar.xz")
LARGE_RANDOM_BYTES = 2 * GIB
RANDOM_SEED = 61
_BLOCK_BYTES = MIB
_LARGEST_KEPT = 4

Say = Callable[[str], None]


@dataclass(frozen=True)
class Census:
    """What a tree holds. largest: the biggest regular files with their sizes, biggest first."""

    files: int
    directories: int
    others: int
    content_bytes: int
    largest: tuple[tuple[Path, int], ...]

    @property
    def entries(self) -> int:
        """Everything in the tree but its root."""
        return self.files + self.directories + self.others


@dataclass(frozen=True)
class Source:
    """A tree to work on, named for the report."""

    name: str
    path: Path
    census: Census


def walk(top: Path) -> Iterator[os.DirEntry[str]]:
    """All entries below a directory, each before what it holds. Symbolic links are not followed."""
    waiting = [os.fspath(top)]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                yield entry
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)


def take_census(top: Path) -> Census:
    """Count a tree. Raises JobFailed when part of it cannot be listed."""
    files = directories = others = content_bytes = 0
    largest: list[tuple[int, str]] = []
    try:
        for entry in walk(top):
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISREG(status.st_mode):
                files += 1
                content_bytes += status.st_size
                if len(largest) < _LARGEST_KEPT or status.st_size > largest[-1][0]:
                    largest = sorted([*largest, (status.st_size, entry.path)], reverse=True)
                    del largest[_LARGEST_KEPT:]
            elif stat.S_ISDIR(status.st_mode):
                directories += 1
            else:
                others += 1
    except OSError as error:
        raise _unreadable(error) from error
    return Census(
        files=files,
        directories=directories,
        others=others,
        content_bytes=content_bytes,
        largest=tuple((Path(path), size) for size, path in largest),
    )


def warm(top: Path) -> None:
    """Read a whole tree once, so that its content lies in the page cache.

    Raises JobFailed when part of it cannot be read: the comparison would then be of who fails
    faster.
    """
    block = bytearray(_BLOCK_BYTES)
    try:
        for entry in walk(top):
            if entry.is_file(follow_symlinks=False):
                with open(entry.path, "rb", buffering=0) as file:
                    while file.readinto(block):
                        pass
    except OSError as error:
        raise _unreadable(error) from error


def _unreadable(error: OSError) -> JobFailed:
    return JobFailed(
        f"the input cannot be read: {error.strerror}",
        where=str(error.filename or ""),
        next_step="run as a user who may read all of it, or choose another input",
    )


def given_source(path: Path) -> Source:
    """The tree of --source."""
    resolved = path.resolve()
    if not resolved.is_dir():
        raise UsageError(
            "the source is not a directory", where=str(path), next_step="name a directory"
        )
    return Source(resolved.name or "/", resolved, take_census(resolved))


def linux_source(store: Path, *, install: bool, say: Say) -> Source:
    """The Linux 6.1 tree of the Debian package, unpacked below store on first use."""
    tree = store / LINUX_PACKAGE
    if not tree.is_dir():
        if not LINUX_ARCHIVE.exists():
            _install_linux(install, say)
        say(f"unpacking {LINUX_ARCHIVE} to {tree} (once)")
        with _made_whole(tree) as part:
            run(
                Command(
                    ("tar", "--strip-components=1", "-xJf", str(LINUX_ARCHIVE), "-C", str(part))
                )
            )
    return Source("linux", tree, take_census(tree))


def _install_linux(install: bool, say: Say) -> None:
    packager = ("apt-get", "install", "--yes", "--no-install-recommends", LINUX_PACKAGE)
    if not install:
        raise UsageError(
            f"the package {LINUX_PACKAGE} is not installed",
            where=str(LINUX_ARCHIVE),
            next_step=f"apt-get install {LINUX_PACKAGE}, or give --install, or --source PATH",
        )
    if os.geteuid() != 0:
        raise UsageError("--install needs root", next_step=f"sudo apt-get install {LINUX_PACKAGE}")
    say(" ".join(packager))
    run(Command(packager))
    if not LINUX_ARCHIVE.exists():
        raise JobFailed(f"{LINUX_PACKAGE} did not bring its archive", where=str(LINUX_ARCHIVE))


def large_source(
    store: Path, *, tar_bytes: int | None, random_bytes: int, say: Say, top: Path = Path("/usr")
) -> Source:
    """Two large files: a tar of /usr (the first tar_bytes of it) and seeded random bytes."""
    cut = "whole" if tar_bytes is None else str(tar_bytes)
    folder = store / f"large-{cut}-{random_bytes}"
    if not folder.is_dir():
        say(f"making the large input in {folder} (once)")
        with _made_whole(folder) as part:
            _write_tar(part / f"{top.name}.tar", top, tar_bytes)
            _write_random(part / "random.bin", random_bytes)
    whole = tar_bytes is None and random_bytes == LARGE_RANDOM_BYTES
    return Source("large" if whole else "part of large", folder, take_census(folder))


def _write_tar(target: Path, top: Path, limit_bytes: int | None) -> None:
    """A tar of a tree, cut off after limit_bytes: it is input, nobody has to unpack it."""
    argv = ("tar", "--sort=name", "-cf", "-", "-C", str(top.parent), top.name)
    left = limit_bytes
    with (
        target.open("wb") as file,
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=errors) as process,
    ):
        assert process.stdout is not None
        while left is None or left > 0:
            block = process.stdout.read(_BLOCK_BYTES if left is None else min(left, _BLOCK_BYTES))
            if not block:
                break
            file.write(block)
            left = None if left is None else left - len(block)
        process.stdout.close()  # tar ends by SIGPIPE when it was cut off
    if target.stat().st_size == 0:
        raise JobFailed(f"tar of {top} gave nothing", next_step="see whether tar is installed")


def _write_random(target: Path, size: int) -> None:
    """Bytes without any redundancy, the same on every machine."""
    generator = random.Random(RANDOM_SEED)  # noqa: S311 - input, not a secret
    left = size
    with target.open("wb") as file:
        while left > 0:
            left -= file.write(generator.randbytes(min(left, _BLOCK_BYTES)))


@contextlib.contextmanager
def _made_whole(folder: Path) -> Iterator[Path]:
    """Make a folder under another name and give it its own only when it is complete."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f"{folder.name}.part-", dir=folder.parent))
    try:
        yield part
        part.chmod(0o755)
        part.rename(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
