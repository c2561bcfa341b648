"""A volume: a btrfs of a test's own, with a subvolume to change and to take snapshots of."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ingest.btrfs import ioctl
from tests.support import need
from tests.support.loopfs import LoopFilesystem


class Volume:
    """`root`: where the file system is mounted; `live`: the subvolume `vol` in it."""

    def __init__(self, filesystem: LoopFilesystem) -> None:
        self.filesystem = filesystem
        self.root = filesystem.path
        self.live = self.root / "vol"
        self.create("vol")

    def create(self, name: str) -> Path:
        """An empty subvolume."""
        with opened(self.root) as fd:
            ioctl.create_subvolume(fd, name.encode())
        return self.root / name

    def snapshot(self, name: str, of: Path | None = None) -> Path:
        """A read-only snapshot, beside the subvolume."""
        with opened(self.root) as fd, opened(of or self.live) as source:
            ioctl.create_snapshot(fd, name.encode(), source)
        return self.root / name

    def fork(self, name: str, of: Path) -> Path:
        """A writable snapshot."""
        path = self.snapshot(name, of)
        self.set_read_only(path, to=False)
        return path

    def set_read_only(self, path: Path, *, to: bool) -> None:
        """Make a subvolume read-only, or writable."""
        with opened(path) as fd:
            ioctl.set_read_only(fd, to=to)

    def delete(self, path: Path) -> None:
        """Delete a subvolume."""
        with opened(path.parent) as fd:
            ioctl.destroy_subvolume(fd, path.name.encode())


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """A descriptor of a directory."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def progs(*words: str | Path) -> str:
    """Run btrfs-progs, which only tests use; its output."""
    command = [need.tool("btrfs"), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
