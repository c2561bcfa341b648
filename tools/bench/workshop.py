"""A workshop: the folder in which one benchmark works, left clean however it ends."""

from __future__ import annotations

import contextlib
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from tools.bench.contender import remove_tree
from tools.bench.inputs import Say
from tools.bench.mountpoint import unmount_below


@contextlib.contextmanager
def workshop(work: Path, *, keep: bool, say: Say) -> Iterator[Path]:
    """A fresh folder below work, unmounted and (unless keep) removed at the end.

    SIGTERM ends the benchmark as Ctrl-C does: by KeyboardInterrupt.
    """
    work.mkdir(parents=True, exist_ok=True)
    area = Path(tempfile.mkdtemp(prefix="run-", dir=work))
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield area
    finally:
        # A second Ctrl-C must not leave a mount or gigabytes behind.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        impatient = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            _clean(area, keep=keep, say=say)
        finally:
            signal.signal(signal.SIGINT, impatient)
            signal.signal(signal.SIGTERM, before)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _clean(area: Path, *, keep: bool, say: Say) -> None:
    unmount_below(area)
    if keep:
        say(f"kept: {area}")
    else:
        remove_tree(area)
