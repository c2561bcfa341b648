"""`repo mount`: show backup points as a read-only file system."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from repo.errors import UsageError
from repo.types import MIB
from tools.cli import human
from tools.cli.group import RepoCommand
from tools.cli.invocation import Invocation, pass_invocation
from tools.cli.points import warnings_of

if TYPE_CHECKING:
    from mount.daemon import Detached
    from mount.session import MountRequest

_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE: Final = re.compile(r"(\d+)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
_CACHE_BYTES_MIN: Final = 4 * MIB


class Size(click.ParamType[int]):
    """A number of bytes: 4194304, 256M, 256MiB, 1 GiB; units are powers of 1024."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Check what was typed. Fails as a usage error."""
        if isinstance(value, int):
            return value
        match = _SIZE.fullmatch(str(value).strip())
        if match is None:
            self.fail(f"{value!r} is not a size like 256MiB or 1GiB", param, ctx)
        size = int(match[1]) * _UNITS[match[2].upper()]
        if size < _CACHE_BYTES_MIN:
            self.fail(f"{value!r} is below {human.size(_CACHE_BYTES_MIN)}", param, ctx)
        return size


class Octal(click.ParamType[int]):
    """Permission bits, as chmod takes them."""

    name = "octal"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Check what was typed. Fails as a usage error."""
        if re.fullmatch(r"0?[0-7]{1,3}", str(value)) is None:
            self.fail(f"{value!r} is not an octal number like 022", param, ctx)
        return int(str(value), 8)


_ID: Final = click.IntRange(0, (1 << 32) - 2)


@click.command(cls=RepoCommand)
@click.argument("point")
@click.argument("directory", required=False, metavar="[DIR]", type=click.Path(file_okay=False))
@click.option("--foreground", is_flag=True, help="Stay; a service manager is told when ready.")
@click.option("--allow-other", is_flag=True, help="Let other users in, as file modes allow.")
@click.option("--uid", type=_ID, metavar="N", help="Show everything as owned by this user.")
@click.option("--gid", type=_ID, metavar="N", help="Show everything as owned by this group.")
@click.option("--umask", type=Octal(), default=0, metavar="OCTAL", help="Take permissions away.")
@click.option(
    "--cache-size",
    type=Size(),
    default="256MiB",
    show_default=True,
    metavar="SIZE",
    help="Memory for content that was read.",
)
@click.option(
    "--deadline",
    type=click.FloatRange(min=0.1),
    default=120,
    show_default=True,
    metavar="SECONDS",
    help="A read that waits longer for the repository fails.",
)
@click.option("--log-file", type=click.Path(dir_okay=False), metavar="FILE", help="Log to FILE.")
@click.option("--stats", is_flag=True, help="Show what the mount at POINT (its folder) has done.")
@click.option("--adapter", type=click.Choice(["device", "pyfuse3"]), default="device", hidden=True)
@pass_invocation
def mount(run: Invocation, /, **options: Any) -> int:
    """Show a backup point as a read-only file system at DIR, or all of them.

    POINT is an id prefix, latest, latest:SOURCE, or SOURCE@TIME; its root shows at DIR. With
    the word all, DIR holds by-source/SOURCE/TIME, by-id/ID and latest/SOURCE, and new points
    appear by themselves. Without DIR, a folder below /run/media/$USER is taken, if there is one.

    The mount goes on in the background until `repo umount DIR`. With --stats, `repo mount
    --stats DIR` shows its counters; the signal USR1 writes them to its log.
    """
    point: str = options["point"]
    if options["stats"]:
        return _show_statistics(run, point)
    from mount import daemon
    from mount.answers import Appearance
    from mount.session import MountRequest

    where, made = _place(point, options["directory"])
    request = MountRequest(
        point=point,
        mountpoint=where,
        cache_bytes=options["cache_size"],
        appearance=Appearance(options["uid"], options["gid"], options["umask"]),
        allow_other=options["allow_other"],
        deadline_seconds=options["deadline"],
        adapter=options["adapter"],
    )
    detached = None
    if not options["foreground"]:
        detached = daemon.detach()
        if detached.status is not None:
            return detached.status
    daemon.log_to(options["log_file"], background=detached is not None)
    try:
        _serve(run, request, detached)
    finally:
        if made:
            Path(where).rmdir()
    return 0


def _serve(run: Invocation, request: MountRequest, detached: Detached | None) -> None:
    from mount import daemon, session

    def ready() -> None:
        where = human.printable(os.path.abspath(request.mountpoint))
        if run.console.json:
            run.console.event("mounted", at=where)
        run.console.say(f"Mounted {human.printable(request.point)} at {where}")
        run.console.say(f"Unmount it with: repo umount {shlex.quote(where)}")
        if detached is not None:
            detached.ready()
        daemon.notify_manager()

    with run.open() as repository:
        if request.point != session.ALL:
            for text in warnings_of(repository.point(request.point, unfinished=True)):
                run.notice(text)
        session.mount(repository, request, ready)


def _place(point: str, directory: str | None) -> tuple[str, bool]:
    """Where to mount, and whether that folder was made for it."""
    if directory is not None:
        return directory, False
    from mount.session import default_place

    name = re.sub(r"[^A-Za-z0-9._@:-]+", "_", point)
    place = default_place(f"repo-{name}")
    if place is None:
        raise UsageError(
            "there is no folder to mount on by default",
            where="/run/media/$USER",
            next_step=f"say where: repo mount {human.printable(point)} DIR",
        )
    made = not place.exists()
    place.mkdir(mode=0o700, exist_ok=True)
    return str(place), made


def _show_statistics(run: Invocation, directory: str) -> int:
    from mount import mountpoint, statistics

    found = mountpoint.mount_at(directory)
    if found is None or found.filesystem != mountpoint.FILESYSTEM:
        raise UsageError(
            "no backup is mounted here",
            where=human.printable(directory),
            next_step="`findmnt -t fuse.repo` lists the mounts",
        )
    figures = statistics.ask(found)
    if run.console.json:
        run.console.emit(figures)
    else:
        run.console.fields((name, str(value)) for name, value in figures.items())
    return 0
