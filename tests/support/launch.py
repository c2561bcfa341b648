"""A launch: becomes a command that stops for its tracer at certain system calls.

A script of its own, run as `python -I -S launch.py NUMBER,... WORD...` by tests.support.tracer.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence
from struct import Struct
from typing import Final

# struct sock_filter, and the few instructions of it that are needed here
_FILTER = Struct("<HBBI")
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _TRACE = 0x7FFF0000, 0x7FF00000
_NO_NEW_PRIVS, _SET_SECCOMP, _MODE_FILTER = 38, 22, 2
_NUMBER_AT: Final = 0
"""Where struct seccomp_data has the number of the call."""


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def launch(numbers: Sequence[int], words: Sequence[str]) -> None:
    """Wait for the tracer, ask the kernel to stop at these calls, and become the command."""
    os.read(0, 1)  # ends when the tracer closes its side
    code = _FILTER.pack(_LOAD, 0, 0, _NUMBER_AT)
    for number in numbers:
        code += _FILTER.pack(_EQUAL, 0, 1, number) + _FILTER.pack(_RETURN, 0, 0, _TRACE)
    code += _FILTER.pack(_RETURN, 0, 0, _ALLOW)
    program = _Program(len(code) // _FILTER.size, code)
    libc = ctypes.CDLL(None, use_errno=True)
    asked: tuple[tuple[object, ...], ...] = (
        (_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0),
    )
    for arguments in asked:
        if libc.prctl(*arguments):
            raise OSError(ctypes.get_errno(), "prctl")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.execvpe(words[0], list(words), os.environ)


if __name__ == "__main__":
    launch([int(number) for number in sys.argv[1].split(",")], sys.argv[2:])
