"""`repo manual`: manual pages in roff, written from what click knows of the commands."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

from repo import errors
from tools.cli import commands
from tools.cli.choices import CommonOption
from tools.cli.group import RepoCommand
from tools.cli.invocation import Invocation, pass_invocation
from tools.cli.version import VERSION

EXIT_STATUSES: Final[tuple[tuple[int, str], ...]] = (
    (0, "Done."),
    (errors.JobFailed.exit_status, "Failed; nothing was published."),
    (errors.UsageError.exit_status, "The command line, or what it asks for, makes no sense."),
    (3, "Published, with problems of single files."),
    (errors.Damaged.exit_status, "Damage was found."),
    (errors.QuiesceFailed.exit_status, "A freeze hook failed; nothing was taken."),
    (errors.SnapshotFailed.exit_status, "The snapshot provider failed."),
    (errors.SnapshotVanished.exit_status, "The snapshot vanished while it was read."),
    (errors.NotARepository.exit_status, "The repository is missing, or is not one of ours."),
    (errors.WrongKey.exit_status, "No key slot opens with the password or key given."),
    (errors.RepositoryFailed.exit_status, "Input or output of the repository failed."),
    (errors.TryLater.exit_status, "Something else is in the way; try later."),
    (errors.Interrupted.exit_status, "Interrupted; the next run goes on from here."),
    (141, "Nobody read our output any more."),
)

ENVIRONMENT: Final[tuple[tuple[str, str], ...]] = (
    ("REPO_LOCATION", "The repository, unless --repository says otherwise."),
    ("REPO_PROFILE", "The profile of the configuration, unless --profile says otherwise."),
    ("REPO_INDEX_DIR", "Where the index lies, unless --index-dir says otherwise."),
    ("REPO_QUEUE", "Where the queue lies, whatever the configuration says."),
    ("REPO_PASSWORD", "The password. It is taken out of the environment of child processes."),
    ("REPO_PASSWORD_FILE", "A file that holds the password."),
    ("REPO_PASSWORD_COMMAND", "A command that prints the password. No shell reads it."),
    ("REPO_KEY_FILE", "A key file."),
    (
        "CREDENTIALS_DIRECTORY",
        "Set by systemd: a credential named repo-password or repo-key is found by itself.",
    ),
    ("NO_COLOR", "When set and not empty: no colours."),
)

FILES: Final[tuple[tuple[str, str], ...]] = (
    ("/etc/repo/config.toml", "The configuration of the machine."),
    ("~/.config/repo/config.toml", "The configuration of the user; its settings win."),
    ("/var/lib/repo", "The default repository of root."),
    ("~/.local/share/repo", "The default repository of others."),
)

DESCRIPTION: Final = """\
repo keeps backups of directory trees and snapshots in a repository: a folder of sealed
segments. What is the same is stored once, wherever it comes from; everything is compressed
and encrypted before it is written.

Each run of repo-ingest makes a backup point for each source. Every point is a full: it is
listed, mounted and restored by itself, whatever it shares with others.
"""

POINTS: Final = """\
A POINT is the beginning of an id, as long as it takes to be the only one; latest, the newest of
all; latest:SOURCE, the newest of a source; or SOURCE@TIME, the newest of a source at a local ISO
time such as 2026-01-31T18:00.
"""

SECRETS: Final = """\
The first of these that is there opens the repository: the options --key-file, --password-file,
--password-command or --password-fd; the environment (see below, in the order of the list); the
configuration, when the repository is the one that it names; a systemd credential; the terminal.

A password is never an argument. One newline at the end of a password file does not count.
"""

CONFIGURATION: Final = """\
TOML. The settings at the top hold always, those of the chosen profile are added and win. An
unknown name is an error.

\b
repository = "/srv/backup"
key_file = "~/backup.key"        # or password_file, password_command
index_dir = "/var/cache/backup"
queue = "/var/spool/repo"
default_profile = "offsite"      # else REPO_PROFILE or --profile

\b
[ingest]
exclude = ["*.tmp", ".cache/"]   # exclude_from = ["FILE"]
exclude_caches = true
one_file_system = true
tags = ["nightly"]
streams = "auto"                 # or a number
compression = "auto"             # or "off", or a zstd level
take = "auto"                    # or "never"; the same for pin and keep_snapshot
hooks = "/etc/repo/hooks.d"      # or "off"

\b
[profiles.offsite]
repository = "/mnt/offsite"
password_command = ["pass", "show", "offsite"]
"""

OUTPUT: Final = """\
Results go to standard output; progress, warnings and errors go to standard error. Sizes are in
IEC units and times are local.

With --json standard output holds JSON objects only, one per line, with sizes in bytes and times
in UTC. Long work prints {"event":"progress"} every second, {"event":"problem"} and
{"event":"notice"} as they come, and {"event":"summary"} as the last line. A command that fails
prints {"event":"error"} with kind, what, where, next_step and exit_status instead. A name that
is not UTF-8 is shown with U+FFFD, and exactly in a second field, in base64: path and path_base64.
"""


@click.command(cls=RepoCommand, on_repository=False)
@click.option(
    "--to",
    "folder",
    required=True,
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where to write them; made when missing.",
)
@pass_invocation
def manual(run: Invocation, folder: Path) -> None:
    """Write the manual pages.

    One page per command, repo.1, repo-ingest.1 and so on, for section 1 of the manual:
    `repo manual --to /usr/local/share/man/man1`.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in pages():
            (folder / name).write_text(text, encoding="utf-8")
            run.console.say(str(folder / name))
    except OSError as error:
        raise errors.JobFailed(
            f"cannot write the manual pages: {error.strerror}",
            where=str(error.filename or folder),
            next_step="give another folder with --to",
        ) from error


def pages() -> Iterator[tuple[str, str]]:
    """Each manual page: its file name and its roff."""
    from tools.cli.main import cli

    top = click.Context(cli, info_name="repo")
    yield "repo.1", _main_page(cli, top)
    for name in commands.names():
        command = cli.get_command(top, name)
        assert command is not None
        yield from _command_pages(command, click.Context(command, info_name=name, parent=top))


def _command_pages(command: click.Command, ctx: click.Context) -> Iterator[tuple[str, str]]:
    title = ctx.command_path.replace(" ", "-")
    yield f"{title}.1", _command_page(command, ctx)
    if isinstance(command, click.Group):
        for name in command.list_commands(ctx):
            inner = command.get_command(ctx, name)
            assert inner is not None
            yield from _command_pages(inner, click.Context(inner, info_name=name, parent=ctx))


def _main_page(command: click.Command, ctx: click.Context) -> str:
    lines = _head("repo", inspect.cleandoc(command.help or ""))
    lines += _synopsis(command, ctx)
    lines += [".SH DESCRIPTION", *_paragraphs(DESCRIPTION), ".SH COMMANDS"]
    for title, section in commands.SECTIONS.items():
        lines.append(f".SS {escape(title)}")
        for name, entry in section.items():
            lines += [".TP", rf"\fBrepo\-{escape(name)}\fR(1)", escape(entry.line)]
    lines += [".SH POINTS", *_paragraphs(POINTS)]
    lines += [".SH OPTIONS", escape("These stand before or after the command."), *_options(command)]
    lines += [".SH PASSWORDS AND KEYS", *_paragraphs(SECRETS)]
    lines += [".SH CONFIGURATION", *_paragraphs(CONFIGURATION)]
    lines += [".SH OUTPUT", *_paragraphs(OUTPUT)]
    lines += _listed("EXIT STATUS", [(str(number), text) for number, text in EXIT_STATUSES])
    lines += _listed("ENVIRONMENT", ENVIRONMENT)
    lines += _listed("FILES", FILES)
    return "\n".join(lines) + "\n"


def _command_page(command: click.Command, ctx: click.Context) -> str:
    title = ctx.command_path.replace(" ", "-")
    text = inspect.cleandoc(command.help or "")
    lines = _head(title, text.partition("\n\n")[0].replace("\n", " "))
    lines += _synopsis(command, ctx)
    lines += [".SH DESCRIPTION", *_paragraphs(text)]
    if isinstance(command, click.Group):
        lines.append(".SH COMMANDS")
        for name in command.list_commands(ctx):
            inner = command.get_command(ctx, name)
            assert inner is not None
            page = rf"\fB{escape(title)}\-{escape(name)}\fR(1)"
            lines += [".TP", page, escape(inner.get_short_help_str(200))]
    own = _options(command)
    if own:
        lines += [".SH OPTIONS", *own]
    lines += [".SH SEE ALSO", r"\fBrepo\fR(1), for the options of every command, exit statuses,"]
    lines += ["environment and files"]
    return "\n".join(lines) + "\n"


def _head(title: str, line: str) -> list[str]:
    # No date: the same version writes the same bytes on every host.
    head = f'.TH "{escape(title.upper())}" "1" "" "repo {escape(VERSION)}" "repo"'
    return [head, ".SH NAME", rf"{escape(title)} \- {escape(line.rstrip('.'))}"]


def _synopsis(command: click.Command, ctx: click.Context) -> list[str]:
    pieces = " ".join(command.collect_usage_pieces(ctx))
    return [".SH SYNOPSIS", rf"\fB{escape(ctx.command_path)}\fR {escape(pieces)}"]


def _paragraphs(text: str) -> list[str]:
    lines: list[str] = []
    for number, paragraph in enumerate(text.split("\n\n")):
        if number:
            lines.append(".PP")
        if paragraph.startswith("\b\n"):
            lines += [".nf", *(escape(line) for line in paragraph[2:].split("\n")), ".fi"]
        else:
            lines.append(escape(" ".join(paragraph.split("\n"))))
    return lines


def _options(command: click.Command) -> list[str]:
    """The options of a command; for one below `repo` only those that are its own."""
    lines: list[str] = []
    outermost = isinstance(command, click.Group) and command.name == "repo"
    for parameter in command.params:
        if not isinstance(parameter, click.Option):
            if isinstance(parameter, click.Argument) and parameter.help:
                name = rf"\fI{escape(parameter.human_readable_name)}\fR"
                lines += [".TP", name, escape(parameter.help)]
            continue
        if isinstance(parameter, CommonOption) and not outermost:
            continue
        names = ", ".join(rf"\fB{escape(name)}\fR" for name in parameter.opts)
        if not parameter.is_flag:
            names += rf" \fI{escape(_metavar(parameter))}\fR"
        lines += [".TP", names, escape(parameter.help or "")]
    return lines


def _metavar(option: click.Option) -> str:
    if option.metavar:
        return option.metavar
    if isinstance(option.type, click.Choice):
        return "|".join(str(choice) for choice in option.type.choices)
    return option.type.name.upper()


def _listed(title: str, entries: list[tuple[str, str]] | tuple[tuple[str, str], ...]) -> list[str]:
    lines = [f".SH {title}"]
    for name, text in entries:
        lines += [".TP", rf"\fB{escape(name)}\fR", escape(text)]
    return lines


def escape(text: str) -> str:
    """Text that roff prints as it stands."""
    text = text.replace("\\", r"\e").replace("-", r"\-")
    # A dot or an apostrophe at the start of a line would be a request.
    return "\n".join(rf"\&{line}" if line[:1] in (".", "'") else line for line in text.split("\n"))
