"""A volume: a btrfs of the benchmark's own, in an image that goes with it."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from repo.errors import UsageError
from repo.types import GIB, KIB
from tools.bench.command import Command, run
from tools.bench.contender import remove_tree
from tools.bench.mountpoint import unmount_below

_BYTES_LEAST: Final = 2 * GIB
_BYTES_OF_A_FILE: Final = 6 * KIB
_TOOLS: Final = ("mkfs.btrfs", "btrfs", "mount")


@contextlib.contextmanager
def btrfs_volume(folder: Path, *, files: int) -> Iterator[Path]:
    """A new btrfs with room for so many small files; the path of a subvolume in it.

    The image is sparse and lies in `folder`, which must not be there yet. It is unmounted, and
    all of it removed, at the end. Raises UsageError where the machine cannot do it.
    """
    if os.geteuid() != 0:
        raise UsageError("a btrfs of its own needs root", next_step="run the benchmark as root")
    for tool in _TOOLS:
        if shutil.which(tool) is None:
            raise UsageError(
                f"a btrfs of its own needs {tool}", next_step="apt-get install btrfs-progs mount"
            )
    mounted = folder / "mounted"
    image = folder / "image"
    mounted.mkdir(parents=True)
    try:
        with image.open("wb") as file:
            file.truncate(_BYTES_LEAST + files * _BYTES_OF_A_FILE)
        # One copy of the metadata: what is measured is no disk.
        run(Command(("mkfs.btrfs", "--quiet", "--metadata", "single", str(image))))
        run(Command(("mount", "-o", "loop,noatime", str(image), str(mounted))))
        run(Command(("btrfs", "subvolume", "create", str(mounted / "live"))))
        yield mounted / "live"
    finally:
        unmount_below(folder)
        remove_tree(folder)
