"""The command of the benchmark: `python -m tools.bench`."""

from __future__ import annotations

import os
import sys
from datetime import datetime
from pathlib import Path

import click
from rich.console import Console

from repo.errors import Interrupted, JobFailed, RepoError
from tools.bench.benchmark import Choices, run_benchmark
from tools.bench.cases import CASE_NAMES
from tools.bench.inputs import LARGE_RANDOM_BYTES
from tools.bench.peers import PEER_NAMES
from tools.bench.sizes import SizeType

_FILE_WIDTH = 120


def default_work() -> Path:
    """The work folder: below the user's cache folder, so that nobody else can have made it."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(cache) / "repo-bench"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("cases", nargs=-1, metavar="[CASE]...", type=click.Choice(CASE_NAMES))
@click.option(
    "--input",
    "input_name",
    type=click.Choice(["linux", "large"]),
    default="linux",
    help="linux: the tree of the Debian package linux-source-6.1 (default). "
    "large: a tar of /usr and a file of random bytes.",
)
@click.option("--source", type=click.Path(path_type=Path), help="A tree of your own instead.")
@click.option(
    "--work",
    type=click.Path(path_type=Path, file_okay=False),
    default=default_work,
    help="Folder for inputs (kept for the next time) and repositories (removed).",
)
@click.option("--install", is_flag=True, help="Let apt-get install the package of the input.")
@click.option("--large-size", type=SizeType(), help="Cut the tar of large off after SIZE.")
@click.option(
    "--random-size",
    type=SizeType(),
    default=LARGE_RANDOM_BYTES,
    help="Its random bytes (2 GiB).",
)
@click.option(
    "--peers",
    default="restic,borg",
    metavar="NAMES",
    help=f"Whom to compare with, of {','.join(PEER_NAMES)} (restic,borg), or none. "
    "plain is the file system without a backup: the limit.",
)
@click.option("--ours-command", metavar="COMMAND", help="Our command, when not the installed one.")
@click.option("--ours-args", default="", metavar="ARGS", help="More arguments for its ingest.")
@click.option("--against", metavar="COMMAND", help="Another build of ours, as a contender.")
@click.option("--against-args", metavar="ARGS", help="More arguments for the ingest of that.")
@click.option("--runs", type=click.IntRange(1), default=3, help="Timed runs of each (3).")
@click.option(
    "--chunks", type=click.IntRange(1), default=1_000_000, help="Chunks for the case index."
)
@click.option(
    "--files",
    type=click.IntRange(1),
    default=100_000,
    help="Files of the trees for the cases increment and move (100,000).",
)
@click.option("--pss/--no-pss", default=True, help="One more run each to sample peak memory.")
@click.option("--keep", is_flag=True, help="Leave the repositories where they are.")
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Write JSON here."
)
def main(**options: object) -> None:
    """Run this project and its peers on the same work, in turn, and compare.

    Cases: ingest, ingest-again, restore, mount-find, mount-tar, mount-sequential, list and index
    (all of these when none is named); and such as take long: diff, merge, prune and aged make a
    history of up to 30 backups first; mount-tar-again reads a mount twice, mount-random reads
    blocks of 4 KiB of the largest file, mount-slow all of it over a store that takes 5 ms more for
    each read, fetching ahead and not; resume kills a first backup after 30, 60 and 90 % and tells
    what the next one reads again; increment (100 changes in --files files, and in ten times as
    many) and move (a folder with a tenth of them) back up a btrfs that they make in an image, as
    root, and leave the input alone. Machines are noisy: only the ratios of one run count.

    Times hold from the start of a command to its end; a mount is timed from the moment that it
    answers. Ours is opened by a key file, while restic and borg derive a key from a password at
    every start, as they always do.
    """
    choices = Choices(**options)  # type: ignore[arg-type] # click hands over an untyped mapping
    notes = Console(stderr=True)
    try:
        sys.exit(run_benchmark(choices, _table_console(), lambda text: _note(notes, text)))
    except RepoError as error:
        click.echo(f"bench: {error}", err=True)
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        sys.exit(Interrupted.exit_status)
    except OSError as error:
        click.echo(f"bench: {error.strerror} ({error.filename})", err=True)
        sys.exit(JobFailed.exit_status)


def _table_console() -> Console:
    """Standard output; a file or a pipe has room for the whole table."""
    console = Console()
    return console if console.is_terminal else Console(width=_FILE_WIDTH)


def _note(console: Console, text: str) -> None:
    now = datetime.now().astimezone().strftime("%H:%M:%S")
    console.print(f"{now} {text}", highlight=False, markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
