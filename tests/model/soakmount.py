"""A mount of the soak: its process, a reader on it, and both ways in which it ends."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from mount import mountpoint
from mount.ending import unmount_and_wait
from tests.model import reader
from tests.support import command

NOTHING_THERE: Final = "no such"


class SoakMount:
    """`repo mount` of one point or of all, from its start to its end."""

    def __init__(self, made: command.Repository, point: str, path: Path, truth: Path) -> None:
        """Start it at `path`, which is made. truth: a folder with all trees that points hold."""
        self.path = path
        self.point = point
        self._truth = truth
        self._reader: subprocess.Popen[str] | None = None
        path.mkdir()
        self._log = path.with_name(f"{path.name}.log")
        words = command.words(
            "mount", point, path, "--foreground", "--cache-size", "4MiB", "--log-file", self._log
        )
        self._process = subprocess.Popen(
            words,
            env=made.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )

    def poll(self) -> bool:
        """Begin to read as soon as it is there; whether there is nothing more to wait for."""
        if self._reader is None and self._process.poll() is None and self._is_mounted:
            self._reader = subprocess.Popen(
                [sys.executable, "-I", reader.__file__, str(self.path), str(self._truth)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
            )
        reader_ended = self._reader is not None and self._reader.poll() is not None
        return reader_ended or self._process.poll() is not None

    def kill(self) -> dict[str, int]:
        """End it as a crash does, and take away what is left of it; what was read."""
        self._process.kill()
        self._process.communicate(timeout=command.SECONDS_MAX)
        read = self._end_of_reading()
        self.clean_up()
        return read

    def end(self) -> dict[str, int]:
        """End it as a user does; what was read. Fails unless it had no point to show."""
        read = self._end_of_reading()
        while not self._is_mounted and self._process.poll() is None:
            time.sleep(0.05)  # it has not come up yet
        if self._is_mounted:
            unmount_and_wait(str(self.path), lazy=False)
        said, _ = self._process.communicate(timeout=command.SECONDS_MAX)
        status = self._process.returncode
        told = f"repo mount {self.point} ended with {status}: {said}"
        assert status == 0 or (status == 2 and NOTHING_THERE in said), told
        assert "Traceback" not in said, told
        self.clean_up()
        return read

    def _end_of_reading(self) -> dict[str, int]:
        if self._reader is None:
            return {"files": 0, "points": 0}
        said, _ = self._reader.communicate(timeout=command.SECONDS_MAX)
        if self._reader.returncode:
            raise AssertionError(f"a reader of {self.point}: {said}\n{self._log.read_text()}")
        read: dict[str, int] = json.loads(said)
        return read

    def clean_up(self) -> None:
        """Leave nothing, whatever state it is in."""
        for process in (self._process, self._reader):
            if process is not None and process.poll() is None:
                process.kill()
                process.communicate()
        if self._is_mounted:
            subprocess.run(["umount", "-l", self.path], check=True)
        if self.path.exists():
            self.path.rmdir()
        self._log.unlink(missing_ok=True)

    @property
    def _is_mounted(self) -> bool:
        return mountpoint.mount_at(self.path) is not None
