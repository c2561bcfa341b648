"""Commands as the user meets them: loaded when called, helped in sections, alike in options."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

import click

from tools.cli import commands
from tools.cli.choices import ALL, NATURAL, CommonOption, common_options

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

HELP_SETTINGS: Final = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class RepoCommand(click.Command):
    """A command that takes the common options besides its own.

    on_repository: whether it works on a repository, so that its help repeats the natural ones.
    """

    def __init__(self, *args: Any, on_repository: bool = True, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.params.extend(common_options(NATURAL if on_repository else ()))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the command's own options, then the natural common ones."""
        _write_options(self, ctx, formatter)


class RepoGroup(click.Group):
    """A command made of commands (`repo key add`)."""

    command_class = RepoCommand

    def __init__(self, *args: Any, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.params.extend(common_options(NATURAL))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands, then the options."""
        self.format_commands(ctx, formatter)
        _write_options(self, ctx, formatter)


class ListedGroup(click.Group):
    """The outermost group: its commands come from the list, and are imported when called."""

    def __init__(self, *args: Any, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.params.extend(common_options(ALL))
        # The names alone: click proposes the nearest one from here when one is mistyped.
        self.commands = dict.fromkeys(commands.names(), _NOT_LOADED)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All commands, in the order of the help."""
        return commands.names()

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command's module and return the command; None when there is none."""
        entry = commands.listed(cmd_name)
        if entry is None:
            return None
        module, _, attribute = entry.place.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands in their sections, from the list alone."""
        width = max(len(name) for name in commands.names())
        for title, section in commands.SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl(
                    [(name.ljust(width), entry.line) for name, entry in section.items()]
                )

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands, which are what somebody looks for, then the options."""
        self.format_commands(ctx, formatter)
        super(click.Group, self).format_options(ctx, formatter)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete the name of a command from the list alone."""
        from click.shell_completion import CompletionItem

        entries = [(name, commands.listed(name)) for name in commands.names()]
        found = [
            CompletionItem(name, help=entry.line)
            for name, entry in entries
            if entry is not None and name.startswith(incomplete)
        ]
        return found + super(click.Group, self).shell_complete(ctx, incomplete)


_NOT_LOADED: Final = click.Command(None)


def _write_options(
    command: click.Command, ctx: click.Context, formatter: click.HelpFormatter
) -> None:
    own: list[tuple[str, str]] = []
    common: list[tuple[str, str]] = []
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx)
        if record is None or isinstance(parameter, click.Argument):
            continue
        (common if isinstance(parameter, CommonOption) else own).append(record)
    with formatter.section("Options"):
        formatter.write_dl(own)
    if common:
        with formatter.section("Options of every command (all: repo --help)"):
            formatter.write_dl(common)
