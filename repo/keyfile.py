"""A key file: 32 random bytes that open a key slot, outside the repository.

Made as text, so that it survives copying and printing: comment lines and one line
`repo-key-1 <64 hex digits> <8 hex digits>`, the last the start of the key's SHA-256 against
slips. Read are this form and a file of exactly 32 raw bytes.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from repo.errors import JobFailed, UsageError, WrongKey
from repo.keys import KEY_BYTES
from repo.storage.durable import fsync_directory, write_all
from repo.types import Secret

FILE_BYTES_MAX: Final = 4096
_WORD: Final = "repo-key-1"
_COMMENT: Final = (
    "# Key file of a repo repository. Whoever has it can read every backup.\n"
    "# Keep a copy apart from the repository: without key or password the backups are lost.\n"
)


def read(path: Path) -> Secret:
    """The key in a key file, a pipe or a descriptor (`/dev/fd/3`).

    Raises UsageError when it cannot be read or everybody may read or write it, WrongKey when
    it holds no key.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise UsageError(
            f"cannot read the key file: {error.strerror}",
            where=str(path),
            next_step="check the path and its mode",
        ) from error
    if stat.S_ISREG(mode) and mode & stat.S_IRWXO:
        raise UsageError(
            "everybody may open the key file",
            where=str(path),
            next_step=f"run `chmod 600 {path}`, and make a new key if others had access",
        )
    return parse(data, where=str(path))


def create(path: Path) -> Secret:
    """Make a key file with a new key, mode 0600, durably; an existing one is never replaced.

    Raises UsageError when the path is taken, JobFailed when the file cannot be written.
    """
    key = Secret(secrets.token_bytes(KEY_BYTES))
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise UsageError(
            "the key file exists already", where=str(path), next_step="give another path"
        ) from None
    except OSError as error:
        raise _cannot_make(path, error) from error
    try:
        with open(fd, "wb", buffering=0) as file:
            write_all(file.fileno(), pack(key))
            os.fsync(file.fileno())
        # A repository whose only key a power cut took away is lost: the name must be durable.
        fsync_directory(path.absolute().parent)
    except OSError as error:
        with suppress(OSError):
            path.unlink()
        raise _cannot_make(path, error) from error
    return key


def pack(key: Secret) -> bytes:
    """The text form of a key."""
    return f"{_COMMENT}{_WORD} {key.reveal().hex()} {_check_digits(key.reveal())}\n".encode()


def parse(data: bytes, *, where: str) -> Secret:
    """The key in the content of a key file. Raises WrongKey when it is neither form."""
    if len(data) == KEY_BYTES:
        return Secret(data)
    if len(data) > FILE_BYTES_MAX:
        raise _no_key("is too long for a key file", where)
    # latin-1 reads any bytes; what is not a key in ASCII is refused below.
    lines = [line.strip() for line in data.decode("latin-1").split("\n")]
    words = " ".join(line for line in lines if line and not line.startswith("#")).split()
    if len(words) != 3 or words[0] != _WORD:
        raise _no_key("holds no key of ours", where)
    try:
        key = bytes.fromhex(words[1])
    except ValueError:
        raise _no_key("has a key that is not hexadecimal", where) from None
    if len(key) != KEY_BYTES or not hmac.compare_digest(
        words[2].lower().encode(), _check_digits(key).encode()
    ):
        raise _no_key("was altered: its check digits do not match", where)
    return Secret(key)


def _check_digits(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()[:8]


def _no_key(what: str, where: str) -> WrongKey:
    return WrongKey(f"the file {what}", where=where, next_step="give the right key file")


def _cannot_make(path: Path, error: OSError) -> JobFailed:
    return JobFailed(
        f"cannot make the key file: {error.strerror}",
        where=str(path),
        next_step="give a path that can be written",
    )
