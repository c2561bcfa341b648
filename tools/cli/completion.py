"""`repo completion`: the script that teaches a shell to complete our command lines."""

from __future__ import annotations

import click

from tools.cli.group import RepoCommand

SHELLS = ("bash", "zsh", "fish")

# \b tells click to keep the lines of a paragraph as they are.
_HELP = """Print a shell completion script.

\b
bash:  repo completion bash > /etc/bash_completion.d/repo
zsh:   repo completion zsh > "${fpath[1]}/_repo"
fish:  repo completion fish > ~/.config/fish/completions/repo.fish
"""


def script(shell: str) -> str:
    """The completion script of a shell, which asks `repo` itself for the words."""
    from click.shell_completion import get_completion_class

    from tools.cli.main import COMPLETE, cli

    kind = get_completion_class(shell)
    assert kind is not None
    # Not kind.source(): that of bash starts a bash to look at its version, on whatever host
    # makes the package.
    maker = kind(cli, {}, "repo", COMPLETE)
    return maker.source_template % maker.source_vars()


@click.command(cls=RepoCommand, on_repository=False, help=_HELP)
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print the script of one shell."""
    click.echo(script(shell), nl=False)
