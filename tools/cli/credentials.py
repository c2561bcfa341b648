"""Credentials: the password or key file that opens the repository, and where it was found.

Asked in this order, the first that is there wins:
1. the command line: --key-file, --password-file, --password-command, --password-fd (one of them)
2. the environment: REPO_PASSWORD, REPO_PASSWORD_FILE, REPO_PASSWORD_COMMAND, REPO_KEY_FILE
3. the configuration, when the repository is the one it names
4. systemd: a credential named repo-password or repo-key in $CREDENTIALS_DIRECTORY
5. the terminal, if there is one

A password never comes by argv. REPO_PASSWORD leaves our own environment as soon as it was
looked at, so that no worker, hook or password command inherits it.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, MutableMapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from repo.errors import JobFailed, UsageError
from repo.types import Secret

if TYPE_CHECKING:
    from repo.keys import Credential, Password
    from tools.cli.choices import Choices
    from tools.cli.config import Settings

PASSWORD_BYTES_MAX: Final = 1 << 16
"""Longer than any password: whoever names a disk image as password file gets an error."""

COMMAND_SECONDS_MAX: Final = 300
"""A password command may ask somebody for a token, but does not hang a nightly job for ever."""


class Found(NamedTuple):
    """A credential, and in words where it came from."""

    credential: Credential
    origin: str


class Finder:
    """Looks for credentials in the places above.

    settings: those of the configuration, or None when they belong to another repository.
    """

    def __init__(
        self,
        choices: Choices,
        settings: Settings | None,
        environ: MutableMapping[str, str] = os.environ,
    ) -> None:
        self._choices = choices
        self._settings = settings
        self._environ = environ
        # Taken at once, whoever wins: from here on no child process can inherit it.
        self._spoken = environ.pop("REPO_PASSWORD", None)

    def find(self) -> Found | None:
        """The credential that needs nobody at the terminal; None when there is none."""
        for look in (
            self._from_command_line,
            self._from_environment,
            self._from_configuration,
            self._from_systemd,
        ):
            found = look()
            if found is not None:
                return found
        return None

    def find_all_given(self) -> list[Found]:
        """What a new repository is opened with later: a key file and a password can be given."""
        key_file = self._choices.key_file
        if key_file is None:
            found = self.find()
            return [found] if found is not None else []
        self._choices.key_file = None
        try:
            password = self._from_command_line() or self._password_from_environment()
        finally:
            self._choices.key_file = key_file
        key = Found(_key_file(key_file), "--key-file")
        return [key] if password is None else [key, password]

    def _from_command_line(self) -> Found | None:
        c = self._choices
        given: list[tuple[str, Callable[[], Credential]]] = []
        if c.key_file is not None:
            name = c.key_file
            given.append(("--key-file", lambda: _key_file(name)))
        if c.password_file is not None:
            file = c.password_file
            given.append(("--password-file", lambda: read_file(file)))
        if c.password_command is not None:
            command = c.password_command
            given.append(("--password-command", lambda: run_command(command)))
        if c.password_fd is not None:
            number = c.password_fd
            given.append(("--password-fd", lambda: read_descriptor(number)))
        if len(given) > 1:
            raise UsageError(
                "more than one key or password was given",
                where=", ".join(option for option, _ in given),
                next_step="give one of them",
            )
        return Found(given[0][1](), given[0][0]) if given else None

    def _from_environment(self) -> Found | None:
        found = self._password_from_environment()
        if found is None and (name := self._environ.get("REPO_KEY_FILE")):
            found = Found(_key_file(name), "REPO_KEY_FILE")
        return found

    def _password_from_environment(self) -> Found | None:
        if self._spoken is not None:
            return Found(make_password(self._spoken.encode(), "REPO_PASSWORD"), "REPO_PASSWORD")
        if name := self._environ.get("REPO_PASSWORD_FILE"):
            return Found(read_file(name), "REPO_PASSWORD_FILE")
        if command := self._environ.get("REPO_PASSWORD_COMMAND"):
            return Found(run_command(command), "REPO_PASSWORD_COMMAND")
        return None

    def _from_configuration(self) -> Found | None:
        s = self._settings
        if s is None:
            return None
        if s.key_file is not None:
            return Found(_key_file(s.key_file), "key_file of the configuration")
        if s.password_file is not None:
            return Found(read_file(s.password_file), "password_file of the configuration")
        if s.password_command is not None:
            return Found(run_command(s.password_command), "password_command of the configuration")
        return None

    def _from_systemd(self) -> Found | None:
        folder = self._environ.get("CREDENTIALS_DIRECTORY")
        if not folder:
            return None
        key, password = Path(folder, "repo-key"), Path(folder, "repo-password")
        if password.is_file():
            return Found(read_file(str(password)), "the systemd credential repo-password")
        if key.is_file():
            return Found(_key_file(str(key)), "the systemd credential repo-key")
        return None


def read_file(name: str) -> Password:
    """The password in a file: its content without the newline at the end."""
    try:
        with open(name, "rb") as file:
            content = file.read(PASSWORD_BYTES_MAX + 1)
    except OSError as error:
        raise UsageError(
            f"the password file cannot be read: {error.strerror}",
            where=name,
            next_step="check its name and mode",
        ) from error
    return make_password(content, name)


def read_descriptor(number: int) -> Password:
    """The password that waits in an open file descriptor, which is closed."""
    if number < 0:
        raise UsageError("a file descriptor is never negative", where="--password-fd")
    try:
        with open(number, "rb") as file:
            content = file.read(PASSWORD_BYTES_MAX + 1)
    except OSError as error:
        raise UsageError(
            f"the password cannot be read: {error.strerror}",
            where=f"file descriptor {number}",
            next_step="open it for us: repo --password-fd 3 ... 3<FILE",
        ) from error
    return make_password(content, f"file descriptor {number}")


def run_command(command: str | Sequence[str]) -> Password:
    """The password that a command prints. A string is split like a shell would, but no shell runs.

    Its stderr and terminal are ours: it may ask. Raises JobFailed when it fails.
    """
    import subprocess

    words = shlex.split(command) if isinstance(command, str) else list(command)
    if not words:
        raise UsageError("the password command is empty", next_step="name a program")
    try:
        ran = subprocess.run(
            words, stdout=subprocess.PIPE, check=False, timeout=COMMAND_SECONDS_MAX
        )
    except OSError as error:
        raise UsageError(
            f"the password command cannot be run: {error.strerror}",
            where=words[0],
            next_step="check its name",
        ) from error
    except subprocess.TimeoutExpired:
        raise JobFailed(
            "the password command did not end in time",
            where=words[0],
            next_step=f"it may take {COMMAND_SECONDS_MAX} s",
        ) from None
    if ran.returncode != 0:
        raise JobFailed(
            f"the password command failed with status {ran.returncode}",
            where=words[0],
            next_step="run it by hand to see why",
        )
    return make_password(ran.stdout, words[0])


def make_password(content: bytes, where: str) -> Password:
    """A password as it was read: one newline at the end does not count. Raises UsageError."""
    from repo.keys import Password

    value = content.removesuffix(b"\n").removesuffix(b"\r")
    if not value:
        raise UsageError("the password is empty", where=where, next_step="give one")
    if len(value) > PASSWORD_BYTES_MAX:
        raise UsageError(
            "the password is too long", where=where, next_step="is this the right file?"
        )
    return Password(Secret(value))


def can_ask() -> bool:
    """Whether somebody sits at a terminal: our input is one, and it can be opened."""
    if not sys.stdin or not sys.stdin.isatty():
        return False
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def ask(prompt: str, *, twice: bool = False) -> Password:
    """The password somebody types; typed twice when it is a new one. Raises UsageError."""
    from getpass import getpass

    for _ in range(3):
        value = getpass(f"{prompt}: ")
        if not value:
            print("The password is empty.", file=sys.stderr)
        elif twice and getpass("The same again: ") != value:
            print("They differ.", file=sys.stderr)
        else:
            return make_password(value.encode(errors="surrogateescape"), "the terminal")
    raise UsageError("no password was given", where="the terminal", next_step="try again")


def nothing_found() -> UsageError:
    """The error when no place held a credential and nobody can be asked."""
    return UsageError(
        "no password and no key was given, and there is no terminal to ask at",
        next_step="set REPO_PASSWORD_FILE or REPO_KEY_FILE, or use --key-file",
    )


def _key_file(name: str) -> Credential:
    from repo.keys import KeyFile

    return KeyFile(Path(name).expanduser())
