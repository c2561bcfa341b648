"""`repo umount`: take a mount away."""

from __future__ import annotations

import click

from tools.cli import human
from tools.cli.group import RepoCommand
from tools.cli.invocation import Invocation, pass_invocation


@click.command(cls=RepoCommand)
@click.argument("directory", metavar="DIR", type=click.Path())
@click.option("--lazy", is_flag=True, help="Even when in use: the mount goes with its last user.")
@pass_invocation
def umount(run: Invocation, directory: str, lazy: bool) -> None:
    """Take away what `repo mount` shows at DIR, or what is left of a mount that died.

    Says who uses the mount when it is in use (exit status 75).
    """
    from mount import ending

    ending.unmount_and_wait(directory, lazy=lazy)
    run.console.say(f"Unmounted {human.printable(directory)}")
