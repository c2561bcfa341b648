"""A tracer: runs a command and stands between it and the kernel at chosen system calls.

What strace's fault injection does, but with one count over all threads and processes of the
command (strace counts per thread, so that the calls of one hide those of another), with calls
chosen by the files they concern, and with a function that decides at each of them: let it pass,
let it fail, cut it short, kill, or do something else meanwhile. A seccomp filter lets all other
calls run at full speed. For x86-64.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from struct import Struct
from typing import Final, NamedTuple

import pytest

from tests.support import command, launch

NUMBERS: Final = {
    "read": 0, "write": 1, "pread64": 17, "pwrite64": 18, "writev": 20, "msync": 26,
    "fsync": 74, "fdatasync": 75, "truncate": 76, "ftruncate": 77, "rename": 82, "mkdir": 83,
    "rmdir": 84, "creat": 85, "link": 86, "unlink": 87, "symlink": 88, "chmod": 90, "fchmod": 91,
    "sendto": 44, "openat": 257, "mkdirat": 258, "unlinkat": 263, "renameat": 264, "linkat": 265,
    "symlinkat": 266, "fchmodat": 268, "sync_file_range": 277, "fallocate": 285, "preadv": 295,
    "pwritev": 296, "getdents64": 217, "renameat2": 316, "copy_file_range": 326, "preadv2": 327,
    "pwritev2": 328,
}  # fmt: skip

READING: Final = frozenset({"read", "pread64", "preadv", "preadv2", "getdents64"})
SENDING: Final = frozenset({"sendto"})
MUTATING: Final = frozenset(NUMBERS) - READING - SENDING
"""Every call by which a file system is changed, or a change made durable."""

_AT_PATHS: Final = frozenset({"openat", "mkdirat", "unlinkat", "renameat", "linkat", "fchmodat"})
_PATHS: Final = frozenset(
    {"truncate", "rename", "mkdir", "rmdir", "creat", "link", "unlink", "symlink", "chmod"}
)
_NEW_FILE: Final = os.O_CREAT | os.O_TRUNC
_AT_FDCWD: Final = 2**32 - 100

KILL: Final = object()
"""Answer of a decision: SIGKILL for the command's first process, before the call is done."""

HALF: Final = object()
"""Answer of a decision: the call writes half of what it was to write."""


HOLD: Final = object()
"""Answer of a decision: whoever calls waits there until another decision is RELEASE."""

RELEASE: Final = object()
"""Answer of a decision: let the call pass, and all those that wait."""


class Call(NamedTuple):
    """A system call that is about to be done: its number among such calls, from 1, and what it is.

    process: who does it: the id of the command's first process, or of a child.
    """

    number: int
    name: str
    path: str
    process: int
    first: bool
    """Whether the command's first process does it."""


Decide = Callable[[Call], object]
"""Answers None (let it pass), KILL, HALF, HOLD, RELEASE, or an errno of a call that is not done."""


class Traced(NamedTuple):
    """How a traced command ended, and the calls that it made."""

    status: int
    out: str
    err: str
    calls: list[Call]


def available() -> None:
    """Skip where commands cannot be traced; fail there in CI."""
    if platform.machine() != "x86_64":
        reason = f"needs x86-64, not {platform.machine()}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)


def run(
    words: Sequence[str],
    *,
    env: Mapping[str, str],
    folder: Path,
    under: Sequence[Path | str],
    decide: Decide = lambda _call: None,
    calls: frozenset[str] = MUTATING,
) -> Traced:
    """Run a command; `decide` is asked before each of its `calls` on files `under` those paths.

    folder: where its output is kept meanwhile. A status below 0 is a signal's number.
    """
    available()
    with open(folder / "traced-out", "w+b") as out, open(folder / "traced-err", "w+b") as err:
        numbers = ",".join(str(NUMBERS[name]) for name in sorted(calls))
        launcher = [sys.executable, "-I", "-S", launch.__file__, numbers, *words]
        with subprocess.Popen(
            launcher, env=dict(env), stdin=subprocess.PIPE, stdout=out, stderr=err
        ) as process:
            tracer = _Tracer(process, [os.fspath(path) for path in under], decide, calls)
            watchdog = threading.Timer(command.SECONDS_MAX, tracer.kill)
            watchdog.start()
            try:
                process.returncode = tracer.run()
            finally:
                watchdog.cancel()
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode("utf-8", "backslashreplace"))
    out_text, err_text = texts
    return Traced(process.returncode, out_text, err_text, tracer.calls)


# -- the tracing side -----------------------------------------------------------------------------

_CONT, _GETREGS, _SETREGS, _SEIZE, _LISTEN = 7, 12, 13, 0x4206, 0x4208
_FOLLOW: Final = 0x2 | 0x4 | 0x8 | 0x10  # FORK, VFORK, CLONE, EXEC
_SECCOMP_STOPS: Final = 0x80
_EXIT_KILL: Final = 0x100000
_EVENT_SECCOMP, _EVENT_STOP = 7, 128
_WAIT: Final = 0x40000000 | 0x20000000  # __WALL | __WNOTHREAD: threads too, of this thread only
_STOP_SIGNALS: Final = (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_libc.ptrace.restype = ctypes.c_long

_REGISTERS: Final = 27
_RAX, _ORIG_RAX = 10, 15
_ARGUMENTS: Final = (14, 13, 12, 7, 9, 8)  # rdi rsi rdx r10 r8 r9
_IOVEC = Struct("<QQ")


def _ptrace(request: int, tid: int, data: object = 0) -> None:
    address = data if isinstance(data, int) else ctypes.addressof(data)  # type: ignore[arg-type]
    if _libc.ptrace(request, tid, 0, address) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class _Tracer:
    def __init__(
        self,
        process: subprocess.Popen[bytes],
        under: Sequence[str],
        decide: Decide,
        calls: frozenset[str],
    ) -> None:
        self.calls: list[Call] = []
        self._process = process
        self._under = tuple(under)
        self._decide = decide
        self._names = {NUMBERS[name]: name for name in calls}
        self._alive = {process.pid}
        self._held: list[int] = []

    def kill(self) -> None:
        """End whatever is left of the command."""
        for tid in list(self._alive):
            with suppress(ProcessLookupError):
                os.kill(tid, signal.SIGKILL)

    def run(self) -> int:
        """Trace until the last process of the command is gone; the first one's status."""
        first = self._process.pid
        _ptrace(_SEIZE, first, _FOLLOW | _SECCOMP_STOPS | _EXIT_KILL)
        assert self._process.stdin is not None
        self._process.stdin.close()  # what the launcher waits for
        self._process.stdin = None
        status = 0
        while self._alive:
            try:
                tid, state = os.waitpid(-1, _WAIT)
            except ChildProcessError:
                break
            if os.WIFSTOPPED(state):
                self._alive.add(tid)
                with suppress(ProcessLookupError):  # killed meanwhile
                    self._stopped(tid, os.WSTOPSIG(state), state >> 16)
            else:
                self._alive.discard(tid)
                if tid == first:
                    status = os.waitstatus_to_exitcode(state)
        return status

    def _stopped(self, tid: int, number: int, event: int) -> None:
        if event == _EVENT_SECCOMP:
            if self._call(tid) is HOLD:
                self._held.append(tid)
            else:
                _ptrace(_CONT, tid)
        elif event == _EVENT_STOP and number in _STOP_SIGNALS:
            _ptrace(_LISTEN, tid)
        else:
            _ptrace(_CONT, tid, 0 if event else number)

    def _call(self, tid: int) -> object:
        """Decide over a call; what was decided."""
        registers = (ctypes.c_ulonglong * _REGISTERS)()
        _ptrace(_GETREGS, tid, registers)
        name = self._names[registers[_ORIG_RAX]]
        arguments = [registers[place] for place in _ARGUMENTS]
        if name == "openat" and not arguments[2] & _NEW_FILE:
            return None
        path = self._path(tid, name, arguments)
        if not path.startswith(self._under):
            return None
        process = _process_of(tid)
        first = process == self._process.pid
        call = Call(len(self.calls) + 1, name, path, process, first)
        self.calls.append(call)
        answer = self._decide(call)
        if answer is KILL:
            # Not `Popen.kill`: it polls first, and takes the stop of another thread for the end.
            os.kill(self._process.pid, signal.SIGKILL)
            raise ProcessLookupError
        if answer is RELEASE:
            for other in self._held:
                with suppress(ProcessLookupError):
                    _ptrace(_CONT, other)
            self._held.clear()
        elif answer is HALF:
            self._halve(tid, name, registers)
        elif isinstance(answer, int):
            registers[_ORIG_RAX] = 2**64 - 1  # no such call: it is not done
            registers[_RAX] = 2**64 - answer
            _ptrace(_SETREGS, tid, registers)
        return answer

    @staticmethod
    def _halve(tid: int, name: str, registers: ctypes.Array[ctypes.c_ulonglong]) -> None:
        if name in ("write", "pwrite64"):
            registers[_ARGUMENTS[2]] = max(1, registers[_ARGUMENTS[2]] // 2)
        elif name in ("pwritev", "writev", "pwritev2"):
            # One buffer of those given, and half of that.
            registers[_ARGUMENTS[2]] = 1
            with open(f"/proc/{tid}/mem", "r+b", buffering=0) as memory:
                memory.seek(registers[_ARGUMENTS[1]])
                base, length = _IOVEC.unpack(memory.read(_IOVEC.size))
                memory.seek(registers[_ARGUMENTS[1]])
                memory.write(_IOVEC.pack(base, max(1, length // 2)))
        _ptrace(_SETREGS, tid, registers)

    @staticmethod
    def _path(tid: int, name: str, arguments: Sequence[int]) -> str:
        """The file that a call concerns; "" when there is none any more."""
        try:
            if name in _PATHS:
                return os.path.join(os.readlink(f"/proc/{tid}/cwd"), _text(tid, arguments[0]))
            if name in _AT_PATHS:
                at = arguments[0] & 0xFFFFFFFF
                place = f"/proc/{tid}/cwd" if at == _AT_FDCWD else f"/proc/{tid}/fd/{at}"
                return os.path.join(os.readlink(place), _text(tid, arguments[1]))
            return os.readlink(f"/proc/{tid}/fd/{arguments[0] & 0xFFFFFFFF}")
        except OSError:
            return ""


def _text(tid: int, address: int) -> str:
    with open(f"/proc/{tid}/mem", "rb", buffering=0) as memory:
        memory.seek(address)
        # Two parts: the second may lie on a page that is not there.
        page = 4096 - address % 4096
        data = memory.read(page)
        if b"\0" not in data:
            data += memory.read(4096)
    return os.fsdecode(data.split(b"\0", 1)[0])


def _process_of(tid: int) -> int:
    with open(f"/proc/{tid}/status", encoding="ascii", errors="replace") as lines:
        for line in lines:
            if line.startswith("Tgid:"):
                return int(line.split()[1])
    raise ProcessLookupError(errno.ESRCH, "no such process")
