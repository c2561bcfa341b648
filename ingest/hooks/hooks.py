"""Hooks: what the scripts of a user are run for in a job, and what becomes of it when they fail."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from ingest.hooks import frozen, script
from ingest.hooks.script import Facts
from repo.errors import JobFailed, QuiesceFailed, RepoError, UsageError

WINDOW_SECONDS: Final = 10.0
"""From the start of the first freeze script; then everything is thawed, and the job has failed."""

SECONDS: Final = {
    "post-snapshot": 60.0,
    "pre-read": 300.0,
    "post-ingest": 300.0,
    "removed": 60.0,
    "failed": 60.0,
}
"""What a script of each phase may take."""

VETOES: Final = frozenset({"post-snapshot", "pre-read"})
"""Phases in which a script that fails ends the job: nothing is published."""

ANSWER_SECONDS: Final = 60.0
"""Beyond window and thaw: a watchdog that says nothing for so long is taken for dead."""


class Hooks:
    """Of one job. Without a folder, or with nothing in it, everything here costs a look at it."""

    def __init__(
        self,
        folder: str,
        *,
        location: Path,
        protected: Sequence[Path] = (),
        on_notice: Callable[[str], None],
        window_seconds: float = WINDOW_SECONDS,
    ) -> None:
        """folder: `hooks.d`, or nothing for no hooks. location: the repository. protected: what
        lies on file systems that no script may freeze, besides the repository.
        """
        self.job = secrets.token_hex(8)
        self.problems = 0
        """Scripts that failed without ending the job."""
        self._folder = os.path.abspath(folder) if folder and os.path.isdir(folder) else ""
        self._location = location
        self._protected = (location, *protected)
        self._on_notice = on_notice
        self._window = window_seconds
        if self._folder:
            for text in frozen.thaw_leftovers(frozen.place(os.geteuid(), os.environ)):
                on_notice(text)

    def run(self, phase: str, *, source: str = "", snapshot: str = "", status: str = "ok") -> None:
        """Run the scripts of a phase (any but freeze and thaw), in their order.

        In a phase that can end the job, the first one that fails does: JobFailed. In the others
        it is told, counted, and the next one runs. Raises UsageError for a script that others
        can change.
        """
        facts = self._facts(source, snapshot, status)
        for path in self._find(phase):
            failure = script.run(path, phase, facts, SECONDS[phase])
            if failure is None:
                continue
            if phase in VETOES:
                raise JobFailed(
                    f"a {phase} hook failed: {failure.reason}",
                    where=failure.path,
                    next_step="nothing was published; run it by hand to see why",
                )
            self.problems += 1
            self._on_notice(f"a {phase} hook failed: {failure}")

    @contextmanager
    def reporting(self, sources: Sequence[str]) -> Iterator[None]:
        """What is done inside is the job: when it fails, the scripts of `failed` hear of it."""
        try:
            yield
        except BaseException as error:
            status = error.exit_status if isinstance(error, RepoError) else 1
            if isinstance(error, KeyboardInterrupt):
                status = 130
            with suppress(RepoError):
                for source in sources:
                    self.run("failed", source=source, status=str(status))
            raise

    @contextmanager
    def frozen(self, *, source: str = "", snapshot: str = "") -> Iterator[bool]:
        """Freeze, do what is inside (take a snapshot), thaw, on every path out.

        Yields whether there was anything to freeze, so that what is taken is consistent for the
        applications. Raises QuiesceFailed: on the way in nothing was taken; on the way out what
        was taken is worth nothing, because the window was over before.
        """
        if not self._find("freeze"):
            yield False
            return
        guard = _Guard(self._window)
        try:
            guard.freeze(
                folder=self._folder,
                facts=self._facts(source, snapshot, "ok"),
                protected=[str(path) for path in self._protected],
            )
            yield True
        except BaseException:
            self._tell(guard.thaw())
            raise
        thawed = guard.thaw()
        self._tell(thawed)
        if thawed["why"] != "asked":
            raise QuiesceFailed(
                f"thawed before the snapshot was taken: the window of {self._window:g} s was over"
                if thawed["why"] == "window"
                else "the watchdog of the freeze died",
                where=self._folder,
                next_step="nothing was taken; see what the freeze hooks wait for",
            )

    def _tell(self, thawed: dict[str, Any]) -> None:
        for failure in thawed["failures"]:
            self.problems += 1
            self._on_notice(f"SOMETHING MAY STILL BE FROZEN: a thaw hook failed: {failure}")

    def _find(self, phase: str) -> list[str]:
        if not self._folder:
            return []
        try:
            return script.find(self._folder, phase)
        except script.Unsafe as error:
            raise UsageError(
                f"a hook is not run: {error}",
                where=self._folder,
                next_step="make it and its folder yours alone (chown, chmod go-w)",
            ) from error
        except OSError as error:
            raise UsageError(
                f"the hooks cannot be listed: {error.strerror}",
                where=str(error.filename or self._folder),
                next_step="check the permissions of the folder",
            ) from error

    def _facts(self, source: str, snapshot: str, status: str) -> Facts:
        return Facts(self.job, source, snapshot, status, str(self._location))


class _Guard:
    """The master's side of a watchdog."""

    def __init__(self, window_seconds: float) -> None:
        self._window = window_seconds
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "ingest.hooks.watchdog", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        self._connection = ours
        self._lines = ours.makefile("rb", buffering=0)
        ours.settimeout(window_seconds + ANSWER_SECONDS)
        self._thawed: dict[str, Any] | None = None

    def freeze(self, *, folder: str, facts: Facts, protected: Sequence[str]) -> None:
        """Have the scripts run. Raises QuiesceFailed; then everything is thawed again."""
        begin = {
            "folder": folder,
            "facts": facts._asdict(),
            "protected": protected,
            "window": self._window,
        }
        with suppress(OSError):
            self._connection.sendall(json.dumps(begin).encode() + b"\n")
        answer = self._read()
        if answer.get("event") == "frozen":
            return
        self._thawed = self._thawed_of(answer)
        raise QuiesceFailed(
            "a freeze hook failed, no snapshot was taken",
            where=self._thawed["failure"] or "the watchdog died",
            next_step="mend it, or run with --hooks off",
        )

    def thaw(self) -> dict[str, Any]:
        """Have everything thawed, if it is not yet; what came of it. Never raises."""
        if self._thawed is None:
            with suppress(OSError):
                self._connection.sendall(b"thaw\n")
            answer = self._read()
            if answer.get("event") == "frozen":  # not waited for: the job was interrupted
                answer = self._read()
            self._thawed = self._thawed_of(answer)
        self._connection.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(ANSWER_SECONDS)
        return self._thawed

    def _thawed_of(self, answer: dict[str, Any]) -> dict[str, Any]:
        if answer.get("event") == "thawed":
            return answer
        # It was killed: the kernel has dropped its lock, and what it wrote down is ours to do.
        with suppress(OSError):
            self._process.kill()
        self._process.wait()
        said = frozen.thaw_leftovers(frozen.place(os.geteuid(), os.environ))
        failures = [text for text in said if text.startswith("thaw failed")]
        return {"why": "died", "failure": "", "failures": failures}

    def _read(self) -> dict[str, Any]:
        """The next message; an empty one when the watchdog is dead."""
        try:
            line = self._lines.readline()
            message = json.loads(line) if line else {}
        except (OSError, ValueError):
            return {}
        return message if isinstance(message, dict) else {}
