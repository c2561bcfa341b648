"""A failure as the user sees it: one line, one exit status, and with --json one object.

The line goes to stderr always. With --json the last line of stdout is besides
`{"event":"error","kind":..,"what":..,"where":..,"next_step":..,"exit_status":..}`, so that a
program reads one stream only. A traceback is printed with --debug alone.
"""

from __future__ import annotations

import sys
from typing import Final, NamedTuple, TextIO

import click

from repo.errors import Interrupted, RepoError
from tools.cli import jsonline
from tools.cli.human import one_line

INTERNAL: Final = 1
USAGE: Final = 2
INTERRUPTED: Final = Interrupted.exit_status
PIPE_CLOSED: Final = 141  # what a shell reports for a program that SIGPIPE ended


class Failure(NamedTuple):
    """Why a command ended, in parts."""

    kind: str
    what: str
    where: str
    next_step: str
    exit_status: int

    def line(self) -> str:
        """The line on stderr: "repo: what (where); next step"."""
        text = self.what
        if self.where:
            text += f" ({self.where})"
        if self.next_step:
            text += f"; {self.next_step}"
        return one_line(f"repo: {text}")


def explain(error: BaseException) -> Failure:
    """What to tell the user about an exception that ended a command."""
    error = _innermost(error)
    if isinstance(error, RepoError):
        return Failure(
            type(error).__name__, error.what, error.where, error.next_step, error.exit_status
        )
    if isinstance(error, click.UsageError):
        return _usage(error)
    if isinstance(error, click.ClickException):
        return Failure("UsageError", _plain(error.format_message()), "", "", USAGE)
    if isinstance(error, (KeyboardInterrupt, click.Abort, EOFError)):
        return Failure("Interrupted", "interrupted", "", "", INTERRUPTED)
    if isinstance(error, OSError) and error.strerror:
        where = "" if error.filename is None else _name(error.filename)
        return Failure("OSError", error.strerror, where, "run with --debug to see more", INTERNAL)
    what = f"internal error: {type(error).__name__}"
    if str(error):
        what += f": {str(error).splitlines()[0]}"
    return Failure("InternalError", what, "", "run with --debug to see where", INTERNAL)


def report(
    error: BaseException, *, json: bool, debug: bool, out: TextIO | None, err: TextIO | None
) -> int:
    """Print a failure as asked, and return the exit status of the command."""
    failure = explain(error)
    if debug and err is not None:
        import traceback

        traceback.print_exception(error, file=err)
    if err is not None:
        if isinstance(error, KeyboardInterrupt) and err.isatty():
            print(file=err)  # the line so far ends in ^C or in a prompt
        print(failure.line(), file=err, flush=True)
    if json and out is not None:
        event = {"event": "error", **failure._asdict()}
        print(jsonline.encode(event), file=out, flush=True)
    return failure.exit_status


def _usage(error: click.UsageError) -> Failure:
    help_of = error.ctx.command_path if error.ctx is not None else "repo"
    next_step = f"see {help_of} --help"
    what = error.format_message()
    if isinstance(error, (click.NoSuchOption, click.NoSuchCommand)):
        what = error.message
        if error.possibilities:
            next_step = f"did you mean {' or '.join(error.possibilities)}? {next_step}"
    return Failure("UsageError", _plain(what), "", next_step, USAGE)


def _plain(message: str) -> str:
    """A message of click in the form of ours: a lower-case clause without a full stop."""
    text = " ".join(message.split()).removesuffix(".")
    return text[:1].lower() + text[1:]


def _name(filename: object) -> str:
    text = filename.decode(errors="backslashreplace") if isinstance(filename, bytes) else filename
    return str(text)


def _innermost(error: BaseException) -> BaseException:
    """The exception to report out of a group: a repository's failure before all others."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    leaves = [_innermost(inner) for inner in error.exceptions]
    for wanted in (RepoError, KeyboardInterrupt):
        for leaf in leaves:
            if isinstance(leaf, wanted):
                return leaf
    return leaves[0]


def close_broken_pipe() -> int:
    """Nobody reads our output any more: end without a word. Returns the exit status."""
    import os

    # Python flushes stdout once more at exit; into /dev/null that cannot fail again.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return PIPE_CLOSED
