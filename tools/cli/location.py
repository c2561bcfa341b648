"""A location: which repository this run is about, and who said so."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from tools.cli.choices import Choices
from tools.cli.config import Configuration

SYSTEM_DEFAULT: Final = Path("/var/lib/repo")


class Location(NamedTuple):
    """Where the repository is.

    configured: it is the one that the configuration names, so that the index folder and the
    key that stand there belong to it.
    """

    path: Path
    chosen_by: str
    index_dir: Path | None
    configured: bool


def locate(
    choices: Choices, configuration: Configuration, environ: Mapping[str, str], *, user_id: int
) -> Location:
    """The repository: -r, else REPO_LOCATION, else the configuration, else the default.

    A key file or an index folder of the configuration never meets a repository that was named
    elsewhere, unless it is the very same folder.
    """
    settings = configuration.settings
    if choices.repository is not None:
        path, chosen_by = Path(choices.repository), "--repository"
    elif environ.get("REPO_LOCATION"):
        path, chosen_by = Path(environ["REPO_LOCATION"]), "REPO_LOCATION"
    elif settings.repository is not None:
        path, chosen_by = Path(settings.repository), configuration.origin
    else:
        path, chosen_by = default_path(environ, user_id=user_id), "the default"
    path = path.expanduser().absolute()
    configured = settings.repository is None or _same(path, Path(settings.repository))
    index = choices.index_dir or environ.get("REPO_INDEX_DIR")
    if not index and configured:
        index = settings.index_dir
    return Location(path, chosen_by, Path(index).absolute() if index else None, configured)


def default_path(environ: Mapping[str, str], *, user_id: int) -> Path:
    """/var/lib/repo for root, $XDG_DATA_HOME/repo for others."""
    if user_id == 0:
        return SYSTEM_DEFAULT
    base = environ.get("XDG_DATA_HOME") or os.path.join(environ.get("HOME", "/"), ".local/share")
    return Path(base) / "repo"


def _same(a: Path, b: Path) -> bool:
    return os.path.realpath(a) == os.path.realpath(b)
