"""The command `repo`: the outermost group, and the one place where errors become exit statuses."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any, Final

import click

from tools.cli import failure
from tools.cli.group import HELP_SETTINGS, ListedGroup
from tools.cli.invocation import Invocation

COMPLETE: Final = "_REPO_COMPLETE"
"""Set by the shell's completion script, to what it wants to know."""


def _print_version(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from tools.cli.version import VERSION

        click.echo(f"repo {VERSION}")
        ctx.exit()


@click.group(
    name="repo",
    cls=ListedGroup,
    context_settings=HELP_SETTINGS,
    epilog=(
        "A POINT is an id prefix, latest, latest:SOURCE, or SOURCE@TIME. "
        "`repo COMMAND --help` explains a command."
    ),
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the version.",
)
def cli() -> None:
    """Back up snapshots and trees into a deduplicated, encrypted repository."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; returns its exit status (repo.errors and repo(1) list them).

    arguments: without the program's name; those of the process when None.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal's encoding lacks must never end a command.
        _never_fail_to_print(stream)
    if os.environ.get(COMPLETE):
        from click.shell_completion import shell_complete

        return shell_complete(cli, {}, "repo", COMPLETE, os.environ[COMPLETE])
    run = Invocation()
    try:
        status = _run(words, run)
        sys.stdout.flush()
    except BrokenPipeError:
        return failure.close_broken_pipe()
    except BaseException as error:  # noqa: BLE001 (every error ends here, as one line)
        return _report(error, run, words)
    return status


def _run(words: list[str], run: Invocation) -> int:
    """The exit status of a command that raises nothing: what it returns, or 0."""
    try:
        # Not cli.main(): that has opinions of its own about errors, pipes and exit statuses.
        with cli.make_context("repo", words, obj=run) as context:
            status = cli.invoke(context)
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return failure.USAGE
    return status if isinstance(status, int) else 0


def _never_fail_to_print(stream: Any) -> None:
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")


def _report(error: BaseException, run: Invocation, words: list[str]) -> int:
    # A usage error may come before the options were read: look at the words as well.
    before_end = words[: words.index("--")] if "--" in words else words
    try:
        return failure.report(
            error,
            json=run.choices.json or "--json" in before_end,
            debug=run.choices.debug or "--debug" in before_end,
            out=sys.stdout,
            err=sys.stderr,
        )
    except BrokenPipeError:
        failure.close_broken_pipe()
        return failure.explain(error).exit_status


if __name__ == "__main__":
    sys.exit(main())
