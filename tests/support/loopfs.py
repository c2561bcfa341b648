"""A file system of a test's own: a sparse image, made and loop-mounted; or a tmpfs."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from repo.types import MIB
from tests.support import need

_MKFS: Final = {
    "ext2": ["mkfs.ext2", "-q", "-F"],
    "ext4": ["mkfs.ext4", "-q", "-F"],
    "xfs": ["mkfs.xfs", "-q", "-f"],
    "btrfs": ["mkfs.btrfs", "-q", "-f"],
}


class LoopFilesystem:
    """A mounted file system. `path`: where it is mounted; `image`: its file, None for a tmpfs."""

    def __init__(self, kind: str, path: Path, image: Path | None, options: str) -> None:
        self.kind = kind
        self.path = path
        self.image = image
        self._options = options

    def mount(self) -> None:
        """Mount it (again)."""
        if self.image is None:
            words = ["mount", "-t", self.kind, "-o", self._options, self.kind, str(self.path)]
        else:
            options = ",".join(filter(None, ("loop", self._options)))
            words = ["mount", "-t", self.kind, "-o", options, str(self.image), str(self.path)]
        _run(words)

    def unmount(self) -> None:
        """Unmount it and whatever is mounted inside; raises AssertionError when it is busy.

        Even then nothing stays behind: the mount is detached, and goes with its last user.
        """
        result = _attempt(["umount", "--recursive", str(self.path)])
        if result.returncode == 0 or not self.path.is_mount():
            return
        _attempt(["umount", "--recursive", "--lazy", str(self.path)])
        raise AssertionError(result.stderr.strip())

    def remount(self) -> None:
        """Unmount and mount: what is found then is what was on the device."""
        self.unmount()
        self.mount()


@contextmanager
def mounted(
    kind: str,
    directory: Path,
    *,
    size_bytes: int = 512 * MIB,
    options: str = "",
    making: Sequence[str] = (),
) -> Iterator[LoopFilesystem]:
    """Make a file system of `kind` (ext2, ext4, xfs, btrfs, tmpfs) below `directory` and mount it.

    The image is sparse: only what is written takes space. xfs needs 300 MiB, btrfs 110 MiB.
    options: for mount(8). making: words for mkfs. Skips (fails in CI) where the machine cannot.
    """
    need.filesystem(kind)
    path = directory / f"{kind}-mounted"
    image = None
    if kind == "tmpfs":
        need.root()
        options = ",".join(filter(None, (f"size={size_bytes}", options)))
    else:
        need.loop_devices()
        image = directory / f"{kind}-image"
        with image.open("xb") as file:
            file.truncate(size_bytes)
        _run([need.tool(_MKFS[kind][0]), *_MKFS[kind][1:], *making, str(image)])
    path.mkdir()
    filesystem = LoopFilesystem(kind, path, image, options)
    try:
        filesystem.mount()
        yield filesystem
    finally:
        try:
            if path.is_mount():
                filesystem.unmount()
        finally:
            if image is not None:
                image.unlink()


def _attempt(words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, check=False)


def _run(words: list[str]) -> None:
    result = _attempt(words)
    assert result.returncode == 0, f"{' '.join(words)}: {result.stderr.strip()}"


def bind(what: Path, where: Path) -> None:
    """Show a directory at another place, too."""
    need.root()
    _run(["mount", "--bind", str(what), str(where)])


def unbind(where: Path) -> None:
    """Take a bind mount away."""
    _run(["umount", str(where)])


@contextmanager
def overlay(lower: Path, directory: Path) -> Iterator[Path]:
    """An overlay over `lower`; its upper layer is a tmpfs made below `directory`."""
    need.filesystem("overlay")
    with mounted("tmpfs", directory) as upper:
        for name in ("upper", "work"):
            (upper.path / name).mkdir()
        merged = directory / "merged"
        merged.mkdir()
        layers = f"lowerdir={lower},upperdir={upper.path}/upper,workdir={upper.path}/work"
        _run(["mount", "-t", "overlay", "-o", layers, "overlay", str(merged)])
        try:
            yield merged
        finally:
            unbind(merged)
