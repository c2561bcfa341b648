from __future__ import annotations

import os
from pathlib import Path

import pytest

from repo.errors import JobFailed, UsageError
from repo.keys import KeyFile, Password
from tools.cli import credentials
from tools.cli.choices import Choices
from tools.cli.config import Settings
from tools.cli.credentials import Finder, Found


def shown(found: Found | None) -> tuple[str, str] | None:
    """The credential as text, and where it came from."""
    if found is None:
        return None
    credential = found.credential
    if isinstance(credential, Password):
        return credential.secret.reveal().decode(), found.origin
    assert isinstance(credential, KeyFile)
    return str(credential.path), found.origin


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text("from file\n")
    return path


def test_the_order_of_places(file: Path, tmp_path: Path) -> None:
    systemd = tmp_path / "credentials"
    systemd.mkdir()
    (systemd / "repo-password").write_text("from systemd")
    environ = {
        "REPO_PASSWORD": "spoken",
        "REPO_PASSWORD_FILE": str(file),
        "REPO_PASSWORD_COMMAND": "echo from command",
        "REPO_KEY_FILE": "/k",
        "CREDENTIALS_DIRECTORY": str(systemd),
    }
    settings = Settings(password_command="echo from configuration")

    def found(choices: Choices | None = None) -> tuple[str, str] | None:
        return shown(Finder(choices or Choices(), settings, dict(environ)).find())

    assert found(Choices(key_file="/o")) == ("/o", "--key-file")
    assert found() == ("spoken", "REPO_PASSWORD")
    del environ["REPO_PASSWORD"]
    assert found() == ("from file", "REPO_PASSWORD_FILE")
    del environ["REPO_PASSWORD_FILE"]
    assert found() == ("from command", "REPO_PASSWORD_COMMAND")
    del environ["REPO_PASSWORD_COMMAND"]
    assert found() == ("/k", "REPO_KEY_FILE")
    del environ["REPO_KEY_FILE"]
    assert found() == ("from configuration", "password_command of the configuration")
    settings = Settings()
    assert found() == ("from systemd", "the systemd credential repo-password")
    (systemd / "repo-password").rename(systemd / "repo-key")
    assert found() == (str(systemd / "repo-key"), "the systemd credential repo-key")
    del environ["CREDENTIALS_DIRECTORY"]
    assert found() is None


def test_a_password_leaves_the_environment_whoever_wins() -> None:
    environ = {"REPO_PASSWORD": "x"}
    finder = Finder(Choices(key_file="/k"), None, environ)
    assert environ == {}
    assert shown(finder.find()) == ("/k", "--key-file")


def test_a_password_command_does_not_inherit_the_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REPO_PASSWORD", "x")
    finder = Finder(Choices(password_command="sh -c 'echo seen:$REPO_PASSWORD'"), None)
    assert shown(finder.find()) == ("seen:", "--password-command")


def test_a_descriptor(file: Path) -> None:
    fd = os.open(file, os.O_RDONLY)
    found = Finder(Choices(password_fd=fd), None, {}).find()
    assert shown(found) == ("from file", "--password-fd")
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_the_key_files_of_a_configuration(file: Path) -> None:
    key = Finder(Choices(), Settings(key_file="/k"), {}).find()
    assert shown(key) == ("/k", "key_file of the configuration")
    password = Finder(Choices(), Settings(password_file=str(file)), {}).find()
    assert shown(password) == ("from file", "password_file of the configuration")


def test_two_on_the_command_line_are_refused() -> None:
    with pytest.raises(UsageError, match="--key-file, --password-file"):
        Finder(Choices(key_file="/k", password_file="/p"), None, {}).find()


def test_a_new_repository_takes_a_key_file_and_a_password(file: Path) -> None:
    found = Finder(Choices(key_file="/k", password_file=str(file)), None, {}).find_all_given()
    assert list(map(shown, found)) == [("/k", "--key-file"), ("from file", "--password-file")]
    found = Finder(Choices(key_file="/k"), None, {"REPO_PASSWORD": "x"}).find_all_given()
    assert list(map(shown, found)) == [("/k", "--key-file"), ("x", "REPO_PASSWORD")]
    assert len(Finder(Choices(key_file="/k"), None, {}).find_all_given()) == 1
    assert Finder(Choices(), None, {}).find_all_given() == []


@pytest.mark.parametrize(
    ("content", "password"),
    [(b"a b\n", b"a b"), (b"x\r\n", b"x"), (b"two\n\n", b"two\n"), (b" x ", b" x ")],
)
def test_one_newline_at_the_end_does_not_count(content: bytes, password: bytes) -> None:
    assert credentials.make_password(content, "here").secret.reveal() == password


@pytest.mark.parametrize("content", [b"", b"\n", b"x" * 100_000])
def test_what_is_no_password(content: bytes) -> None:
    with pytest.raises(UsageError):
        credentials.make_password(content, "here")


def test_what_goes_wrong_names_its_place(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="none"):
        credentials.read_file(str(tmp_path / "none"))
    with pytest.raises(UsageError, match="file descriptor 987"):
        credentials.read_descriptor(987)
    with pytest.raises(UsageError, match="never negative"):
        credentials.read_descriptor(-1)
    with pytest.raises(UsageError, match="no-such-program"):
        credentials.run_command("no-such-program")
    with pytest.raises(UsageError, match="is empty"):
        credentials.run_command("")
    with pytest.raises(JobFailed, match="status 3"):
        credentials.run_command(["sh", "-c", "exit 3"])


def test_no_shell_reads_a_password_command() -> None:
    assert credentials.run_command("echo '$HOME; x'").secret.reveal() == b"$HOME; x"


def test_nobody_is_asked_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/null") as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        assert not credentials.can_ask()


def test_a_new_password_is_typed_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    typed = iter(["", "one", "two", "three", "three"])
    monkeypatch.setattr("getpass.getpass", lambda _prompt: next(typed))
    assert credentials.ask("New", twice=True).secret.reveal() == b"three"
    typed = iter(["", "", ""])
    with pytest.raises(UsageError, match="no password was given"):
        credentials.ask("New")
