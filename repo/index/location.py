"""A location: the folder of a repository's index, beside it only on a local file system.

LMDB maps its file into memory and relies on locks: over a network either may lie to it.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Final

from repo.errors import RepositoryFailed
from repo.format.layout import INDEX
from repo.types import RepositoryId

_LOCAL: Final = frozenset(
    (
        0x0000EF53,  # ext2, ext3, ext4
        0x58465342,  # XFS
        0x9123683E,  # btrfs
        0x01021994,  # tmpfs
        0x858458F6,  # ramfs
        0x794C7630,  # overlayfs
        0xF2F52010,  # F2FS
        0x2FC12FC1,  # ZFS
        0xCA451A4E,  # bcachefs
        0x3153464A,  # JFS
        0x52654973,  # ReiserFS
    )
)
"""f_type of the file systems known to keep maps and locks on one machine; all others do not
count as local."""

_libc = ctypes.CDLL(None, use_errno=True)


def index_folder(
    repository_path: str | os.PathLike[str],
    repository_id: RepositoryId | bytes,
    index_dir: str | os.PathLike[str] | None = None,
) -> Path:
    """The folder that the index of this repository belongs into; it need not exist yet.

    index_dir: the user's choice (`--index-dir`), a folder for the indexes of any number of
    repositories. Without it: `index` in the repository when that lies on a local file system and
    can be written to, else a cache folder: /var/cache/repo for root, $XDG_CACHE_HOME/repo for
    others.
    Raises RepositoryFailed when the repository's file system cannot be asked.
    """
    name = bytes(repository_id).hex()
    if index_dir is not None:
        return Path(index_dir) / name
    inside = Path(repository_path) / INDEX
    if is_local(repository_path) and os.access(
        inside if inside.exists() else repository_path, os.W_OK
    ):
        return inside
    return _cache_folder() / name


def is_local(path: str | os.PathLike[str]) -> bool:
    """Whether a path lies on a file system known as local. Raises RepositoryFailed."""
    # struct statfs begins with f_type, of the width of a long; 512 bytes hold all of it.
    buffer = ctypes.create_string_buffer(512)
    if _libc.statfs(os.fsencode(path), buffer) != 0:
        raise RepositoryFailed(
            "cannot ask for the file system: " + os.strerror(ctypes.get_errno()),
            where=os.fspath(path),
            next_step="check that the repository is mounted and may be read",
        )
    kind = ctypes.c_long.from_buffer(buffer).value & 0xFFFF_FFFF
    return kind in _LOCAL


def _cache_folder() -> Path:
    if os.geteuid() == 0:
        return Path("/var/cache/repo")
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # the XDG specification: a relative path counts as unset
        base = os.path.expanduser("~/.cache")
    return Path(base) / "repo"
