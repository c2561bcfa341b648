from __future__ import annotations

from pathlib import Path

import pytest

from repo.errors import UsageError
from tools.cli import config
from tools.cli.config import Configuration


def load(text: str, folder: Path, *, profile: str | None = None) -> Configuration:
    file = folder / "config.toml"
    file.write_text(text)
    return config.load(config=str(file), profile=profile, environ={})


def test_settings_and_their_paths(tmp_path: Path) -> None:
    settings = load(
        """
        repository = "store"
        key_file = "/etc/key"
        password_command = ["pass", "show", "x"]
        [ingest]
        exclude = ["*.tmp"]
        exclude_from = ["rules"]
        streams = 4
        compression = "off"
        """,
        tmp_path,
    ).settings
    assert settings.repository == str(tmp_path / "store")
    assert settings.key_file == "/etc/key"
    assert settings.password_command == ("pass", "show", "x")
    assert settings.ingest.exclude == ("*.tmp",)
    assert settings.ingest.exclude_from == (str(tmp_path / "rules"),)
    assert settings.ingest.streams == 4
    assert settings.ingest.compression == "off"


@pytest.mark.parametrize(
    ("text", "what", "next_step"),
    [
        ("repositry = 'x'", "unknown setting repositry", "did you mean repository?"),
        ("[ingest]\nexlude = []", "unknown setting ingest.exlude", "did you mean exclude?"),
        (
            "[profiles.a.ingest]\nstream = 1",
            "unknown setting profiles.a.ingest.stream",
            "did you mean streams?",
        ),
        ("[profils.a]", "unknown setting profils", "did you mean profiles?"),
    ],
)
def test_an_unknown_name_proposes_the_nearest(
    text: str, what: str, next_step: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        load(text, tmp_path)
    assert caught.value.what == what
    assert caught.value.where == str(tmp_path / "config.toml")
    assert caught.value.next_step == next_step


def test_a_name_unlike_any_lists_all(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="known are repository, index_dir"):
        load("qqq = 1", tmp_path)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("repository = 3", "repository: expected text, got a number"),
        (
            "[ingest]\nexclude_caches = 'yes'",
            "ingest.exclude_caches: expected true or false, got text",
        ),
        (
            "[profiles.a.ingest]\ntags = [1]",
            "profiles.a.ingest.tags[0]: expected text, got a number",
        ),
        ("ingest = 1", "ingest: expected a table, got a number"),
        ("[ingest]\nstreams = 'many'", "ingest.streams: unknown value 'many'"),
        ("profiles = 1", "profiles: expected tables"),
        ("[profiles]\na = 1", "profiles.a: expected a table"),
        ("default_profile = 1", "default_profile: expected the name"),
        ("a = ", "the configuration is not TOML"),
    ],
)
def test_a_wrong_type_names_the_setting(text: str, what: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load(text, tmp_path)
    assert caught.value.what.startswith(what)


PROFILES = """
repository = "/a"
default_profile = "work"
[ingest]
exclude = ["*.o"]
streams = 2
[profiles.work]
index_dir = "/w"
[profiles.off]
repository = "/o"
ingest.streams = "auto"
"""


def test_a_profile_wins_over_what_holds_always(tmp_path: Path) -> None:
    settings = load(PROFILES, tmp_path, profile="off").settings
    assert settings.repository == "/o"
    assert settings.index_dir is None
    assert settings.ingest.streams == "auto"
    assert settings.ingest.exclude == ("*.o",)


def test_the_default_profile_and_the_one_of_the_environment(tmp_path: Path) -> None:
    assert load(PROFILES, tmp_path).settings.index_dir == "/w"
    file = str(tmp_path / "config.toml")
    chosen = config.load(config=file, profile=None, environ={"REPO_PROFILE": "off"})
    assert chosen.settings.repository == "/o"
    assert chosen.origin == f"profile off of {file}"


def test_an_unknown_profile_proposes_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no profile wrk.*did you mean work"):
        load(PROFILES, tmp_path, profile="wrk")


def test_the_users_file_wins_over_the_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = tmp_path / "etc.toml"
    machine.write_text('repository = "/m"\nindex_dir = "/i"\n')
    monkeypatch.setattr(config, "SYSTEM_FILE", machine)
    environ = {"HOME": str(tmp_path)}
    assert config.load(config=None, profile=None, environ=environ).settings.repository == "/m"
    user = config.user_file(environ)
    assert user == tmp_path / ".config/repo/config.toml"
    user.parent.mkdir(parents=True)
    user.write_text('repository = "/u"')
    settings = config.load(config=None, profile=None, environ=environ).settings
    assert (settings.repository, settings.index_dir) == ("/u", "/i")


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        config.load(config=str(tmp_path / "none"), profile=None, environ={})


def test_no_file_is_no_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "SYSTEM_FILE", tmp_path / "none")
    loaded = config.load(config=None, profile=None, environ={"HOME": str(tmp_path)})
    assert loaded == Configuration()
