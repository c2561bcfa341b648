"""Keys: what is derived from the root key, and what they seal and open.

The root key is 32 random bytes. HKDF-SHA256 (RFC 5869) makes of it one key per use, and of
those one key per container: a segment, its footer, a manifest. How the root key itself is
wrapped for passwords and key files stands in `repo.unlock`.
"""

from __future__ import annotations

import hmac
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from struct import Struct
from typing import Final, Literal

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from repo.errors import Damaged, JobFailed
from repo.format.header import Header
from repo.format.magic import FORMAT_VERSION
from repo.types import ChunkId, RepositoryId, Secret

Buffer = bytes | bytearray | memoryview
Random = Callable[[int], bytes]
"""Gives that many random bytes: os.urandom everywhere but in known-answer tests."""

Purpose = Literal["segment", "footer", "manifest"]

KEY_BYTES: Final = 32
SALT_BYTES: Final = 32
COMMITMENT_BYTES: Final = 32
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
SEAL_BYTES: Final = NONCE_BYTES + TAG_BYTES

_RECORD: Final = Struct("<I")
_NONCE_RANDOM_BYTES: Final = NONCE_BYTES - _RECORD.size
_BATCH: Final = 512
"""Nonces for which random bits are fetched at once: one system call costs as much as a seal."""

_ASSOCIATED: Final = Struct("<H16s16sIB")
assert _ASSOCIATED.size == 39  # FORMAT.md, Sealed record

_EXPORT: Final = Struct("<8s16s32s32s32s32s32s")
_EXPORT_MAGIC: Final = b"KEYS" + _RECORD.pack(FORMAT_VERSION)


def expand(
    key: Secret, label: str, *, salt: bytes, length: int = KEY_BYTES, context: bytes = b""
) -> bytes:
    """HKDF-SHA256 of `key`; the info names the project, the format version and the label.

    `context` follows the label behind a zero byte and is of fixed length for each label, so
    two uses never share an info string.
    """
    info = f"repo format {FORMAT_VERSION} {label}".encode() + b"\0" + context
    return HKDF(SHA256(), length, salt, info).derive(key.reveal())


@dataclass(frozen=True, eq=False)
class Password:
    """A password that may open a key slot: the bytes as typed, UTF-8, not normalised."""

    secret: Secret


@dataclass(frozen=True)
class KeyFile:
    """A key file that may open a key slot: where it lies (`repo.keyfile` reads and makes it)."""

    path: Path


Credential = Password | KeyFile


def new_root() -> Secret:
    """A new root key: 32 bytes of the operating system's randomness."""
    return Secret(secrets.token_bytes(KEY_BYTES))


def derive(root: Secret, repository_id: RepositoryId) -> Keys:
    """The keys of the repository that `root` belongs to."""
    if len(root.reveal()) != KEY_BYTES:
        raise ValueError("a root key has 32 bytes")

    def subkey(label: str) -> Secret:
        return Secret(expand(root, label, salt=repository_id))

    return Keys(
        repository_id=repository_id,
        id_key=subkey("id"),
        chunker_key=subkey("chunker"),
        segment_key=subkey("segment"),
        manifest_key=subkey("manifest"),
        header_key=subkey("header"),
    )


class NonceBits:
    """Random bits for nonces, fetched in batches that no two processes share."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._process = 0
        self._unused: list[bytes] = []

    def take(self) -> bytes:
        """8 random bytes that were never handed out. May be called from any thread."""
        if self._process != os.getpid():  # after a fork the child must not go on with our batch
            self._unused = []
            self._process = os.getpid()
        while True:
            try:
                return self._unused.pop()  # atomic, so that threads never take the same bits
            except IndexError:
                self._refill()

    def _refill(self) -> None:
        size = _NONCE_RANDOM_BYTES
        bits = self._random(_BATCH * size)
        self._unused.extend(bits[at : at + size] for at in range(0, len(bits), size))


class ContainerKey:
    """The key of one segment, footer or manifest: seals and opens its numbered records.

    A sealed record is nonce (12) || ciphertext || tag (16), AES-256-GCM. The nonce is the
    record number, which the one owner of the container gives out once, and 64 random bits,
    which still hold should that owner be wrong. Bound into the tag: format version, repository,
    container, record number and kind.

    A new one is a writer's: it seals, and its `commitment` goes into the container. Checking
    the commitment found in a container makes it a reader's: it opens, and seals no more.
    """

    def __init__(
        self, name: str, identity: bytes, key: Secret, commitment: bytes, bits: NonceBits
    ) -> None:
        """Made by `Keys.container`. `identity`: repository id and container id, 32 bytes."""
        self.name = name
        self.commitment = commitment
        self._repository_id = identity[:16]
        self._container_id = identity[16:]
        self._cipher = AESGCM(key.reveal())
        self._bits = bits
        self._sealed: dict[int, object] = {}
        self._process = os.getpid()
        self._reader = False

    def check_commitment(self, found: bytes, *, where: str = "") -> None:
        """Go on as a reader, if `found` is the commitment of this key; else raise Damaged.

        Nothing is opened before: AES-GCM does not commit to its key, so a ciphertext may have been
        made that opens under two.
        """
        if not hmac.compare_digest(found, self.commitment):
            raise Damaged(
                "the key commitment does not match",
                where=where or self.name,
                next_step="run `repo verify`",
            )
        self._reader = True

    def seal(self, record: int, kind: int, plain: Buffer) -> bytes:
        """The sealed record. A record number is taken once: JobFailed when it comes again."""
        nonce = self._nonce(record)
        return nonce + self._cipher.encrypt(nonce, plain, self._associated(record, kind))

    def seal_into(self, record: int, kind: int, plain: Buffer, out: memoryview) -> int:
        """Like `seal`, into the start of `out`, which must not overlap `plain`: bytes written.

        Raises ValueError when `out` is shorter than `plain` and SEAL_BYTES.
        """
        end = memoryview(plain).nbytes + SEAL_BYTES
        if out.nbytes < end:
            raise ValueError(f"a sealed record of {end} bytes does not fit {out.nbytes}")
        nonce = self._nonce(record)
        associated = self._associated(record, kind)
        out[:NONCE_BYTES] = nonce
        self._cipher.encrypt_into(nonce, plain, associated, out[NONCE_BYTES:end])
        return end

    def open(self, record: int, kind: int, sealed: Buffer) -> bytes:
        """The plain record. Raises Damaged unless these bytes were sealed as this very record."""
        if not self._reader:
            raise self._defect("open", "the commitment was not checked")
        # Not decrypt_into: that leaves unauthenticated plaintext in the buffer when it fails.
        try:
            return self._cipher.decrypt(
                sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], self._associated(record, kind)
            )
        except (InvalidTag, ValueError):  # ValueError: shorter than a nonce
            raise Damaged(
                "authentication failed",
                where=f"{self.name}, record {record}",
                next_step="run `repo verify`",
            ) from None

    def _associated(self, record: int, kind: int) -> bytes:
        return _ASSOCIATED.pack(
            FORMAT_VERSION, self._repository_id, self._container_id, record, kind
        )

    def _nonce(self, record: int) -> bytes:
        if self._reader:
            raise self._defect("seal", "the key is a reader's")
        if self._process != os.getpid():
            raise self._defect("seal", "the key was made by another process")
        # setdefault is atomic: of two threads with one number only one finds its own mark.
        mark = object()
        if self._sealed.setdefault(record, mark) is not mark:
            raise self._defect("seal", f"record {record} was sealed before")
        return _RECORD.pack(record) + self._bits.take()

    def _defect(self, refused: str, why: str) -> JobFailed:
        return JobFailed(
            f"refused to {refused}: {why}",
            where=self.name,
            next_step="this is a defect of repo: please report it",
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Keys:
    """The keys of one repository, without its root key. Prints no key."""

    repository_id: RepositoryId
    id_key: Secret
    chunker_key: Secret
    segment_key: Secret
    manifest_key: Secret
    header_key: Secret
    bits: NonceBits = field(default_factory=lambda: NonceBits(os.urandom), repr=False)

    def chunk_id(self, data: Buffer) -> ChunkId:
        """The id of a chunk: keyed BLAKE3-256 of its plaintext."""
        return ChunkId(blake3(data, key=self.id_key.reveal()).digest())

    def header_tag(self, data: bytes) -> bytes:
        """The 32-byte tag of a header's `tagged_bytes()`: keyed BLAKE3-256."""
        return blake3(data, key=self.header_key.reveal()).digest()

    def sign_header(self, header: Header) -> Header:
        """The same header with its tag."""
        return replace(header, tag=self.header_tag(header.tagged_bytes()))

    def check_header(self, header: Header) -> None:
        """Raises Damaged unless the holder of the root key made this header as it is."""
        if not hmac.compare_digest(header.tag, self.header_tag(header.tagged_bytes())):
            raise Damaged(
                "the header was altered after the repository was made",
                where="header",
                next_step="put back a copy of the file `header`, and find out who wrote to it",
            )

    def container(self, salt: bytes, purpose: Purpose, container_id: bytes) -> ContainerKey:
        """The key of one container: `container_id` is 16 bytes, `salt` 32 random ones.

        HKDF over the salt gives key and commitment; both depend on repository, purpose and id.
        """
        if len(salt) != SALT_BYTES or len(container_id) != 16:
            raise ValueError("a container has a salt of 32 bytes and an id of 16")
        identity = self.repository_id + container_id
        source = self.manifest_key if purpose == "manifest" else self.segment_key
        both = expand(
            source, purpose, salt=salt, length=KEY_BYTES + COMMITMENT_BYTES, context=identity
        )
        name = f"{purpose} {container_id.hex()}"
        return ContainerKey(name, identity, Secret(both[:KEY_BYTES]), both[KEY_BYTES:], self.bits)

    def export(self) -> bytes:
        """The derived keys, for a worker at the other end of an inherited socket. Never stored."""
        return _EXPORT.pack(
            _EXPORT_MAGIC,
            self.repository_id,
            self.id_key.reveal(),
            self.chunker_key.reveal(),
            self.segment_key.reveal(),
            self.manifest_key.reveal(),
            self.header_key.reveal(),
        )

    @classmethod
    def load(cls, data: bytes) -> Keys:
        """The keys in what `export` gave. Raises JobFailed when it is something else."""
        if len(data) != _EXPORT.size or not data.startswith(_EXPORT_MAGIC):
            raise JobFailed(
                "a worker was handed no keys of this version",
                next_step="start the command again; was repo updated while it ran?",
            )
        _, repository_id, *subkeys = _EXPORT.unpack(data)
        id_key, chunker_key, segment_key, manifest_key, header_key = map(Secret, subkeys)
        return cls(
            repository_id=RepositoryId(repository_id),
            id_key=id_key,
            chunker_key=chunker_key,
            segment_key=segment_key,
            manifest_key=manifest_key,
            header_key=header_key,
        )
