from __future__ import annotations

from pathlib import Path

import pytest

from tools.cli.choices import Choices
from tools.cli.config import Configuration, Settings
from tools.cli.location import Location, default_path, locate

CONFIGURED = Configuration(Settings(repository="/c", index_dir="/ci"), "the file")


def find(choices: Choices, configuration: Configuration, **environ: str) -> Location:
    return locate(choices, configuration, environ, user_id=1000)


def test_the_order_of_who_is_asked() -> None:
    by_option = Choices(repository="/r")
    both = find(by_option, CONFIGURED, REPO_LOCATION="/e")
    assert (both.path, both.chosen_by) == (Path("/r"), "--repository")
    by_environment = find(Choices(), CONFIGURED, REPO_LOCATION="/e")
    assert (by_environment.path, by_environment.chosen_by) == (Path("/e"), "REPO_LOCATION")
    by_file = find(Choices(), CONFIGURED)
    assert (by_file.path, by_file.chosen_by) == (Path("/c"), "the file")
    default = find(Choices(), Configuration(), HOME="/home/u")
    assert default.path == Path("/home/u/.local/share/repo")


def test_defaults() -> None:
    assert default_path({"XDG_DATA_HOME": "/x"}, user_id=5) == Path("/x/repo")
    assert default_path({"XDG_DATA_HOME": "/x"}, user_id=0) == Path("/var/lib/repo")


def test_a_configured_index_stays_with_its_repository() -> None:
    assert find(Choices(), CONFIGURED).index_dir == Path("/ci")
    assert find(Choices(repository="/c"), CONFIGURED).index_dir == Path("/ci")
    other = find(Choices(repository="/r"), CONFIGURED)
    assert other.index_dir is None
    assert not other.configured
    assert find(Choices(repository="/r", index_dir="/i"), CONFIGURED).index_dir == Path("/i")
    assert find(Choices(), CONFIGURED, REPO_INDEX_DIR="/e").index_dir == Path("/e")


def test_a_relative_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find(Choices(repository="r"), Configuration()).path == tmp_path / "r"
