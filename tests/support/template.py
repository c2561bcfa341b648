"""A template: one repository per session, made by `repo init`, that tests get fresh copies of."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support import command


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> command.Repository:
    """A new repository that nobody changes."""
    return command.Repository.make(tmp_path_factory.mktemp("template"))


@pytest.fixture
def made(template: command.Repository, tmp_path: Path) -> command.Repository:
    """A new repository of the test's own: a copy, for a `repo init` each time costs too much."""
    return copy(template, tmp_path / "made")


def copy(original: command.Repository, folder: Path) -> command.Repository:
    """A repository like `original`, key file and all, below `folder`."""
    made = command.Repository(folder)
    made.home.mkdir(parents=True)
    shutil.copytree(original.path, made.path, symlinks=True)
    shutil.copy2(original.key_file, made.key_file)
    return made
