"""`repo key`: the passwords and key files that open the repository."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from repo.errors import UsageError
from tools.cli import human
from tools.cli.group import RepoCommand, RepoGroup
from tools.cli.invocation import Invocation, pass_invocation
from tools.cli.output import Column

if TYPE_CHECKING:
    from repo.format.keyslot import KeySlot
    from repo.keys import Credential

COLUMNS = (
    Column("slot", style="yellow"),
    Column("opens with"),
    Column("made"),
    Column("label", folds=True),
)


@click.group(cls=RepoGroup)
def key() -> None:
    """Add, list and remove passwords and key files.

    Each is a key slot, which holds the key of the repository wrapped for it. Adding or
    removing one rewrites no backup.
    """


@key.command("list", cls=RepoCommand)
@pass_invocation
def list_slots(run: Invocation) -> None:
    """List the key slots."""
    with run.open() as repository:
        slots = repository.slots()
    if run.console.json:
        for slot in slots:
            run.console.emit(_as_json(slot))
        return
    run.console.table(COLUMNS, [_row(slot) for slot in slots])


@key.command("add", cls=RepoCommand)
@click.option("--label", default="", metavar="TEXT", help="What to call the key slot in lists.")
@click.option(
    "--new-key-file",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="Add this key file; it is made, mode 0600, unless it exists.",
)
@click.option(
    "--new-password-file",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="Add the password in FILE.",
)
@click.option("--new-password-command", metavar="COMMAND", help="Add the password it prints.")
@pass_invocation
def add(
    run: Invocation,
    label: str,
    new_key_file: str | None,
    new_password_file: str | None,
    new_password_command: str | None,
) -> None:
    """Add a password or a key file.

    The repository is opened with one that it knows already. Without one of the options
    below, the new password is asked for at the terminal.
    """
    options = (new_key_file, new_password_file, new_password_command)
    if sum(option is not None for option in options) > 1:
        raise UsageError("more than one new key or password was given", next_step="give one")
    with run.open() as repository:
        credential = _new_credential(run, *options)
        slot = repository.add_slot(credential, label=label)
    if run.console.json:
        run.console.emit({"event": "summary", **_as_json(slot)})
    else:
        kind = _kind(slot)
        run.console.say(f"Added the key slot {slot.slot_id.hex()[:8]}: opens with a {kind}.")


@key.command("remove", cls=RepoCommand)
@click.argument("slot")
@pass_invocation
def remove(run: Invocation, slot: str) -> None:
    """Remove a key slot, named by the beginning of its id.

    The last one cannot be removed. Whoever had that password or key file and a copy of the
    old slot can still read what a copy of the repository holds.
    """
    with run.open() as repository:
        removed = repository.remove_slot(slot)
    if run.console.json:
        run.console.emit({"event": "summary", "removed": removed})
    else:
        run.console.say(f"Removed the key slot {removed[:8]}.")


def _new_credential(
    run: Invocation, key_file: str | None, password_file: str | None, command: str | None
) -> Credential:
    from repo import keyfile
    from repo.keys import KeyFile
    from tools.cli import credentials

    if key_file is not None:
        path = Path(key_file).expanduser()
        if not path.exists():
            keyfile.create(path)
            run.console.say(f"Made the key file {path}: keep a copy of it elsewhere.")
        return KeyFile(path)
    if password_file is not None:
        return credentials.read_file(password_file)
    if command is not None:
        return credentials.run_command(command)
    if not credentials.can_ask():
        raise UsageError(
            "no new password was given, and there is no terminal to ask at",
            next_step="use --new-key-file, --new-password-file or --new-password-command",
        )
    return credentials.ask("New password", twice=True)


def _row(slot: KeySlot) -> tuple[str, ...]:
    return (
        slot.slot_id.hex()[:8],
        _kind(slot),
        human.local_time(slot.created_ns),
        human.printable(slot.label),
    )


def _as_json(slot: KeySlot) -> dict[str, str]:
    return {
        "slot": slot.slot_id.hex(),
        "opens_with": slot.kind.name.lower(),
        "created": human.utc_time(slot.created_ns),
        "label": slot.label,
    }


def _kind(slot: KeySlot) -> str:
    return slot.kind.name.lower().replace("_", " ")
