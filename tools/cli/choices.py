"""The choices every command takes: which repository, which key, and how to print.

They may stand before the command or after it: `repo -r DIR points` and `repo points -r DIR`
are the same; the later one wins. A password is never among them: whatever stands in argv
is seen by every user of the machine.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import Any, Final, Protocol

import click


@dataclass
class Choices:
    """What the command line said, before the environment and the configuration are asked."""

    repository: str | None = None
    config: str | None = None
    profile: str | None = None
    index_dir: str | None = None
    key_file: str | None = None
    password_file: str | None = None
    password_command: str | None = None
    password_fd: int | None = None
    json: bool = False
    quiet: bool = False
    debug: bool = False
    no_color: bool = False


ALL: Final = frozenset(field.name for field in fields(Choices))


class HasChoices(Protocol):
    """What click's context carries: the run that these options belong to."""

    choices: Choices


class CommonOption(click.Option):
    """An option of every command: it writes itself into the `Choices` of this run."""

    def __init__(self, declarations: list[str], **attributes: Any) -> None:
        super().__init__(
            declarations, expose_value=False, callback=_remember, default=None, **attributes
        )


def _remember(ctx: click.Context, parameter: click.Parameter, value: Any) -> None:
    if value is None or parameter.name is None:
        return
    run: HasChoices = ctx.obj
    setattr(run.choices, parameter.name, value)


_FILE: Final = click.Path(dir_okay=False)
_FOLDER: Final = click.Path(file_okay=False)
_REPOSITORY_HELP: Final = (
    "The repository. Else REPO_LOCATION, else the configuration, else the default."
)

NATURAL: Final = frozenset({"repository", "json", "quiet"})
"""The common options that the help of a command on a repository repeats."""


def common_options(shown: Collection[str]) -> list[click.Parameter]:
    """New common options for one command, whose help shows those of the names in `shown`."""
    options = [
        CommonOption(["-r", "--repository"], type=_FOLDER, metavar="DIR", help=_REPOSITORY_HELP),
        CommonOption(
            ["--config"], type=_FILE, metavar="FILE", help="Read this configuration only."
        ),
        CommonOption(["--profile"], metavar="NAME", help="Take this profile of the configuration."),
        CommonOption(["--index-dir"], type=_FOLDER, metavar="DIR", help="Where the index lies."),
        CommonOption(["--key-file"], type=_FILE, metavar="FILE", help="Unlock with this key file."),
        CommonOption(
            ["--password-file"], type=_FILE, metavar="FILE", help="Read the password from FILE."
        ),
        CommonOption(
            ["--password-command"], metavar="COMMAND", help="The password is what COMMAND prints."
        ),
        CommonOption(
            ["--password-fd"],
            type=click.INT,
            metavar="N",
            help="Read the password from file descriptor N.",
        ),
        _flag("--json", line="Print one JSON object per line."),
        _flag("-q", "--quiet", line="Print results and errors only."),
        _flag("--no-color", line="Print without colours."),
        _flag("--debug", line="Show where an error came from."),
    ]
    for option in options:
        option.hidden = option.name not in shown
    return list(options)


def _flag(*declarations: str, line: str) -> CommonOption:
    return CommonOption(list(declarations), is_flag=True, flag_value=True, help=line)
