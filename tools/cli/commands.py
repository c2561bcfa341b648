"""The list of commands: in which section of the help, what it does in one line, where it is.

`repo --help` is written from this list alone, so that it imports no command.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Listed(NamedTuple):
    """A command as the list knows it. place: "module:attribute" of its click command."""

    place: str
    line: str


SECTIONS: Final[dict[str, dict[str, Listed]]] = {
    "Back up": {
        "init": Listed("tools.cli.init:init", "Make a repository."),
        "ingest": Listed("tools.cli.ingest:ingest", "Back up one or more sources in one job."),
    },
    "Queue": {
        "drain": Listed("tools.cli.drain:drain", "Run what `repo ingest --enqueue` queued."),
        "jobs": Listed("tools.cli.jobs:jobs", "List what is queued and what runs."),
        "status": Listed("tools.cli.status:status", "Say how the repository and its queue are."),
    },
    "Look": {
        "points": Listed("tools.cli.points:points", "List the backup points."),
        "show": Listed("tools.cli.show:show", "Explain one backup point."),
        "ls": Listed("tools.cli.ls:ls", "Browse the files of a backup point."),
        "diff": Listed("tools.cli.diff:diff", "Show in what two backup points differ."),
        "find": Listed("tools.cli.find:find", "Find names in all backup points."),
        "versions": Listed("tools.cli.versions:versions", "Show all versions of a path over time."),
        "stats": Listed("tools.cli.stats:stats", "Show what the repository holds and saves."),
    },
    "Get back": {
        "restore": Listed("tools.cli.restore:restore", "Restore a backup point, or parts of it."),
        "mount": Listed("tools.cli.mount:mount", "Show backup points as a file system."),
        "umount": Listed("tools.cli.umount:umount", "Take a mount away."),
    },
    "Keep and forget": {
        "forget": Listed("tools.cli.forget:forget", "Forget points, by rules or by name."),
        "undelete": Listed("tools.cli.undelete:undelete", "Take forgotten points back."),
        "pin": Listed("tools.cli.pin:pin", "Keep a point, whatever the rules say."),
        "unpin": Listed("tools.cli.pin:unpin", "Let a pinned point be forgotten again."),
        "gc": Listed("tools.cli.gc:gc", "Give the space of what was forgotten free."),
    },
    "Upkeep": {
        "synth": Listed("tools.cli.synth:synth", "Make a full from points, without the source."),
        "copy": Listed("tools.cli.copy:copy", "Copy points to another repository."),
        "repair": Listed("tools.cli.repair:repair", "Save what can be saved after damage."),
        "verify": Listed("tools.cli.verify:verify", "Check the repository for damage."),
        "rebuild-index": Listed(
            "tools.cli.rebuild_index:rebuild_index", "Make the index anew from the segments."
        ),
    },
    "Keys": {
        "key": Listed("tools.cli.key:key", "Add, list and remove passwords and key files."),
    },
    "Shell": {
        "completion": Listed("tools.cli.completion:completion", "Print a shell completion script."),
        "manual": Listed("tools.cli.manual:manual", "Write the manual pages."),
    },
}


def listed(name: str) -> Listed | None:
    """The entry of a command, or None when there is no such command."""
    for section in SECTIONS.values():
        if name in section:
            return section[name]
    return None


def names() -> list[str]:
    """The names of all commands, in the order of the help."""
    return [name for section in SECTIONS.values() for name in section]
