"""A job that takes a snapshot under its hooks, as a process of its own that a test may kill.

Run as `python -m tests.ingest.hooks.job HOOKS REPOSITORY WINDOW BODY`. BODY: `end`, `raise`, or the
path of a FIFO to wait at while frozen. Prints `snapshot` while frozen, then how it ended.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ingest.hooks.hooks import Hooks
from repo.errors import RepoError


def say(text: object) -> None:
    """A line for the test to read, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    """Freeze, do what BODY says, thaw; exit with the status that `repo` would."""
    folder, repository, window, body = sys.argv[1:]
    hooks = Hooks(
        folder,
        location=Path(repository),
        on_notice=lambda text: say(f"notice: {text}"),
        window_seconds=float(window),
    )
    try:
        with hooks.frozen(source="host:/data", snapshot="/snap/1") as quiesced:
            say(f"snapshot {quiesced}")
            if body == "raise":
                raise OSError("the snapshot failed")
            if body != "end":
                Path(body).read_bytes()
    except RepoError as error:
        say(error)
        return error.exit_status
    except OSError as error:
        say(error)
        return 6
    say(f"problems {hooks.problems}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
