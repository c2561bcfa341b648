"""The other repository: a second one that a command works with, and what opens it.

Its key or password is looked for like that of the first, under names of its own:
1. the command line: --to-key-file, --to-password-file, --to-password-command, --to-password-fd
2. the environment: REPO_TO_PASSWORD, REPO_TO_PASSWORD_FILE, REPO_TO_PASSWORD_COMMAND,
   REPO_TO_KEY_FILE
3. systemd: a credential named repo-to-password or repo-to-key
4. what opened the first
5. the terminal, if there is one
`--from` of `repo repair` has the same with `from` in the place of `to`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from repo.errors import NotARepository, UsageError, WrongKey
from tools.cli.choices import Choices

if TYPE_CHECKING:
    from repo.format.header import Header
    from repo.keys import Credential
    from repo.repository import Repository
    from tools.cli.credentials import Finder, Found
    from tools.cli.invocation import Invocation

_FILE = click.Path(dir_okay=False)
_FOLDER = click.Path(file_okay=False)


class Other(NamedTuple):
    """Where the other repository is, and what the command line says of its key.

    word: `to` or `from`, as its options are called; name: what to call it in errors.
    """

    word: str
    name: str
    path: Path
    index_dir: Path | None
    choices: Choices


def other_options(word: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorates a command with the options of the other repository's key and index."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(
            (
                click.option(
                    f"--{word}-key-file", type=_FILE, metavar="FILE", help="Its key file."
                ),
                click.option(
                    f"--{word}-password-file",
                    type=_FILE,
                    metavar="FILE",
                    help="Its password, in FILE.",
                ),
                click.option(
                    f"--{word}-password-command",
                    metavar="COMMAND",
                    help="Its password is what COMMAND prints.",
                ),
                click.option(
                    f"--{word}-password-fd",
                    type=click.INT,
                    metavar="N",
                    help="Its password, from file descriptor N.",
                ),
                click.option(
                    f"--{word}-index-dir", type=_FOLDER, metavar="DIR", help="Where its index lies."
                ),
            )
        ):
            command = option(command)
        return command

    return decorate


def other_of(word: str, name: str, path: str, options: dict[str, Any]) -> Other:
    """The other repository that the options of `other_options` describe."""
    index_dir = options[f"{word}_index_dir"]
    return Other(
        word,
        name,
        Path(path).expanduser().absolute(),
        Path(index_dir).absolute() if index_dir else None,
        Choices(
            key_file=options[f"{word}_key_file"],
            password_file=options[f"{word}_password_file"],
            password_command=options[f"{word}_password_command"],
            password_fd=options[f"{word}_password_fd"],
        ),
    )


def open_other(run: Invocation, other: Other) -> Repository:
    """Open it: a context manager. Raises RepoError, which says that it is the other one."""
    from repo.repository import Repository
    from repo.storage.folder import Folder
    from repo.upkeep.sides import side

    with side(other.name):
        try:
            Folder.open(other.path)
        except NotARepository as error:
            next_step = error.next_step
            if other.word == "to":
                next_step = "check --to, or let --init make it"
            raise NotARepository(error.what, where=str(other.path), next_step=next_step) from error

        def use(credential: Credential) -> Repository:
            return Repository.open(
                other.path,
                credential,
                index_dir=other.index_dir,
                on_notice=lambda text: run.notice(f"{other.name}: {text}"),
            )

        return _with_credential(run, other, use)


def make_other(run: Invocation, other: Other, like: Header) -> Repository:
    """Make it, with the chunk, frame and segment sizes of a header. Raises RepoError."""
    from repo import keyfile
    from repo.repository import Repository
    from repo.upkeep.sides import side
    from tools.cli import credentials

    with side(other.name):
        key_file = other.choices.key_file
        if key_file is not None and not Path(key_file).expanduser().exists():
            keyfile.create(Path(key_file).expanduser())
            run.console.say(f"Made the key file {key_file}: keep a copy of it elsewhere.")
        found = _finder(other).find() or run.finder.find()
        if found is None:
            if not credentials.can_ask():
                raise _nothing_found(other)
            password = credentials.ask(f"New password of {other.path}", twice=True)
            found = credentials.Found(password, "the terminal")
        return Repository.create(
            other.path,
            found.credential,
            header=_new_header(like),
            index_dir=other.index_dir,
            on_notice=lambda text: run.notice(f"{other.name}: {text}"),
        )


def _new_header(like: Header) -> Header:
    import secrets
    import time
    from dataclasses import replace

    from repo.types import RepositoryId

    new_id = RepositoryId(secrets.token_bytes(16))
    return replace(like, repository_id=new_id, created_ns=time.time_ns())


def _with_credential(
    run: Invocation, other: Other, use: Callable[[Credential], Repository]
) -> Repository:
    from tools.cli import credentials

    own = _finder(other).find()
    if own is not None:
        return use(own.credential)
    first: Found | None = run.finder.find()
    if first is not None:
        try:
            return use(first.credential)
        except WrongKey as error:
            if not credentials.can_ask():
                raise WrongKey(
                    f"it does not open with {first.origin}, and nothing else was given",
                    where=str(other.path),
                    next_step=f"give --{other.word}-key-file or --{other.word}-password-file",
                ) from error
    if not credentials.can_ask():
        raise _nothing_found(other)
    return use(credentials.ask(f"Password of {other.path}"))


def _nothing_found(other: Other) -> UsageError:
    return UsageError(
        f"no password and no key was given for {other.name}, and there is no terminal to ask at",
        where=str(other.path),
        next_step=f"give --{other.word}-key-file or --{other.word}-password-file",
    )


def _finder(other: Other) -> Finder:
    from tools.cli.credentials import Finder

    prefix = f"REPO_{other.word.upper()}_"
    environ = {
        f"REPO_{name.removeprefix(prefix)}": value
        for name, value in os.environ.items()
        if name.startswith(prefix)
    }
    os.environ.pop(f"{prefix}PASSWORD", None)  # no child process inherits it
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if folder:
        for kind, variable in (("password", "REPO_PASSWORD_FILE"), ("key", "REPO_KEY_FILE")):
            path = Path(folder, f"repo-{other.word}-{kind}")
            if path.is_file() and not environ:
                environ[variable] = str(path)
    return Finder(other.choices, None, environ)
