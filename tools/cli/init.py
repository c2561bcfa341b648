"""`repo init`: make a repository."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from repo.errors import UsageError
from repo.format.layout import HEADER
from tools.cli.group import RepoCommand
from tools.cli.invocation import Invocation, pass_invocation

if TYPE_CHECKING:
    from tools.cli.credentials import Found


@click.command(cls=RepoCommand)
@click.option("--label", default="", metavar="TEXT", help="What to call the key slot in lists.")
@pass_invocation
def init(run: Invocation, label: str) -> None:
    """Make a repository.

    It opens with the password or the key file given now; more are added by `repo key add`.
    --key-file F makes F, mode 0600, unless it exists. When a key file and a password are
    given, either opens the repository. Without one of them the backups are lost: keep a copy
    apart from the repository.
    """
    from repo.hardening import harden_process
    from repo.repository import Repository

    path = run.location.path
    if (path / HEADER).exists():  # said before a password is asked for or a key file is made
        raise UsageError(
            "there is a repository here already",
            where=str(path),
            next_step="use it as it is, or choose another folder with --repository",
        )
    harden_process()
    made = _make_key_file(run.choices.key_file)
    try:
        first, *others = _credentials(run)
        repository = Repository.create(
            path,
            first.credential,
            label=label,
            index_dir=run.location.index_dir,
            on_notice=run.notice,
        )
    except BaseException:
        # A key file that opens nothing would only mislead; with our header there it opens it.
        if made is not None and not (path / HEADER).exists():
            with suppress(OSError):
                made.unlink()
        raise
    with repository:
        for other in others:
            repository.add_slot(other.credential, label=label)
        _tell(run, repository.header.repository_id.hex(), path, [first, *others], made)


def _make_key_file(name: str | None) -> Path | None:
    """The key file, if it was not there and is made now."""
    if name is None or Path(name).expanduser().exists():
        return None
    from repo import keyfile

    path = Path(name).expanduser()
    keyfile.create(path)
    return path


def _credentials(run: Invocation) -> list[Found]:
    from tools.cli import credentials

    given = run.finder.find_all_given()
    if given:
        return given
    if not credentials.can_ask():
        raise credentials.nothing_found()
    password = credentials.ask(f"New password of {run.location.path}", twice=True)
    return [credentials.Found(password, "the terminal")]


def _opens_with(found: Found) -> str:
    from repo.keys import KeyFile

    if isinstance(found.credential, KeyFile):
        return f"the key file {found.credential.path}"
    return f"the password from {found.origin}"


def _tell(
    run: Invocation, repository_id: str, path: Path, slots: list[Found], made: Path | None
) -> None:
    if run.console.json:
        run.console.emit(
            {
                "event": "summary",
                "repository": repository_id,
                "path": str(path),
                "key_slots": len(slots),
                "key_file_made": None if made is None else str(made),
            }
        )
        return
    run.console.say(f"Made the repository {repository_id[:8]} in {path}.")
    if made is not None:
        run.console.say(f"Made the key file {made}: keep a copy of it elsewhere.")
    run.console.say(
        "It opens with: "
        + ", ".join(_opens_with(found) for found in slots)
        + ". Without that, nothing can be restored."
    )
