"""The header: what a repository is, and the parameters it was made with.

256 bytes, written once by `repo init` (FORMAT.md, Header). Two seals close it: a keyed tag,
which only the holder of the root key can make and check, and a checksum that needs no key.
Every format version keeps the length, the first 24 bytes and the checksum where they are, so
that an older program can tell a newer repository from a damaged one.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Final

from xxhash import xxh3_64_intdigest

from repo.errors import Damaged, NotARepository
from repo.format import limits
from repo.format.magic import FORMAT_VERSION, HEADER_MAGIC
from repo.types import GIB, KIB, MIB, RepositoryId, SegmentClass

HEADER_BYTES: Final = 256

HEADER_FIELDS: Final = Struct(
    "<8s"  #   0  magic
    "H6x"  #   8  format version; reserved
    "Q"  #    16  features
    "16s"  #  24  repository id
    "I"  #    40  chunk minimum
    "I"  #    44  chunk average
    "I"  #    48  chunk maximum
    "I"  #    52  frame bytes
    "Q"  #    56  segment bytes, class data
    "Q"  #    64  segment bytes, class meta
    "Q"  #    72  segment bytes, class image
    "Q"  #    80  created
    "128x"  # 88  reserved
    "32s"  # 216  tag
    "Q"  #   248  checksum
)
assert HEADER_FIELDS.size == HEADER_BYTES  # FORMAT.md, Header

_TAGGED: Final = slice(0, 216)
_CHECKED: Final = slice(0, 248)
_RESERVED: Final = (slice(10, 16), slice(88, 216))

FEATURES_KNOWN: Final = 0
"""The feature bits that this version understands: none yet."""

SEGMENT_BYTES_MIN: Final = 64 * KIB
"""One block of the keyless checksums."""

META_FRAME_BYTES_MAX: Final = 128 * KIB
"""Frames of the class meta are closed at so many bytes, whatever the others take."""

TAG_BYTES: Final = 32
UNTAGGED: Final = bytes(TAG_BYTES)

_NEWER = "use a newer version of repo"
_CHECK_PATH = "check the path given by --repository or REPO_LOCATION"
_RESTORE = "put back a copy of the file `header`; its content never changes after `repo init`"


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """The parameters of a repository. Sizes are bytes, `created_ns` is Unix time in nanoseconds.

    A segment is closed when it has the segment bytes of its class.
    `tag` is the keyed tag of `tagged_bytes()`: made by `Keys.sign_header`, checked after
    unlocking by `Keys.check_header`. Raises NotARepository when a parameter is absurd.
    """

    repository_id: RepositoryId
    created_ns: int
    chunk_minimum: int = 64 * KIB
    chunk_average: int = 256 * KIB
    chunk_maximum: int = MIB
    frame_bytes: int = MIB
    data_segment_bytes: int = 256 * MIB
    meta_segment_bytes: int = 64 * MIB
    image_segment_bytes: int = GIB
    version: int = FORMAT_VERSION
    features: int = 0
    tag: bytes = UNTAGGED

    def __post_init__(self) -> None:
        _check(self)

    def segment_bytes(self, segment_class: SegmentClass) -> int:
        """The size at which a segment of this class is closed."""
        match segment_class:
            case SegmentClass.DATA:
                return self.data_segment_bytes
            case SegmentClass.META:
                return self.meta_segment_bytes
            case SegmentClass.IMAGE:
                return self.image_segment_bytes

    def class_frame_bytes(self, segment_class: SegmentClass) -> int:
        """The plain bytes at which a frame in a segment of this class is closed.

        Nodes are looked up one by one, all over a tree: who wants one opens its whole frame.
        """
        if segment_class is SegmentClass.META:
            return min(self.frame_bytes, META_FRAME_BYTES_MAX)
        return self.frame_bytes

    def pack(self) -> bytes:
        """The 256 bytes, tag and checksum included."""
        body = self._pack(self.tag, 0)[_CHECKED]
        return self._pack(self.tag, xxh3_64_intdigest(body))

    def tagged_bytes(self) -> bytes:
        """What the keyed tag covers: everything before it."""
        return self._pack(UNTAGGED, 0)[_TAGGED]

    def _pack(self, tag: bytes, checksum: int) -> bytes:
        return HEADER_FIELDS.pack(
            HEADER_MAGIC,
            self.version,
            self.features,
            self.repository_id,
            self.chunk_minimum,
            self.chunk_average,
            self.chunk_maximum,
            self.frame_bytes,
            self.data_segment_bytes,
            self.meta_segment_bytes,
            self.image_segment_bytes,
            self.created_ns,
            tag,
            checksum,
        )

    @classmethod
    def parse(cls, data: bytes) -> Header:
        """The header in the whole content of the file `header`.

        Raises NotARepository when it is not a header, is of a newer version or has absurd
        parameters; Damaged when its bytes are not those that were written. The tag is not
        checked here: that needs the key.
        """
        if data[: len(HEADER_MAGIC)] != HEADER_MAGIC:
            raise NotARepository(
                "the folder holds no repository of ours", where="header", next_step=_CHECK_PATH
            )
        if len(data) != HEADER_BYTES:
            raise Damaged(
                f"the header has {len(data)} bytes instead of {HEADER_BYTES}",
                where="header",
                next_step=_RESTORE,
            )
        fields = HEADER_FIELDS.unpack(data)
        if fields[-1] != xxh3_64_intdigest(data[_CHECKED]):
            raise Damaged(
                "the header's checksum does not match", where="header", next_step=_RESTORE
            )
        _, version, features, repository_id, minimum, average, maximum, frame, *rest = fields
        data_bytes, meta_bytes, image_bytes, created_ns, tag, _ = rest
        _check_version(version, features)
        if any(any(data[part]) for part in _RESERVED):
            raise NotARepository(
                "the repository was made by a newer version", where="header", next_step=_NEWER
            )
        return cls(
            repository_id=RepositoryId(repository_id),
            created_ns=created_ns,
            chunk_minimum=minimum,
            chunk_average=average,
            chunk_maximum=maximum,
            frame_bytes=frame,
            data_segment_bytes=data_bytes,
            meta_segment_bytes=meta_bytes,
            image_segment_bytes=image_bytes,
            version=version,
            features=features,
            tag=tag,
        )


def _check_version(version: int, features: int) -> None:
    if version != FORMAT_VERSION:
        age = "a newer version" if version > FORMAT_VERSION else "no version that was ever released"
        raise NotARepository(
            f"the repository was made by {age} (format {version}, this one reads {FORMAT_VERSION})",
            where="header",
            next_step=_NEWER,
        )
    unknown = features & ~FEATURES_KNOWN
    if unknown:
        raise NotARepository(
            f"the repository was made by a newer version (features {unknown:#x})",
            where="header",
            next_step=_NEWER,
        )


def _check(header: Header) -> None:
    """Refuse what no version of this program writes: it would cost memory, or never end."""
    _check_version(header.version, header.features)
    if len(header.repository_id) != 16 or len(header.tag) != TAG_BYTES:
        raise NotARepository(
            "the repository id or tag has the wrong length", where="header", next_step=_RESTORE
        )
    least, most = limits.CHUNKER_BYTES_MIN, limits.CHUNKER_BYTES_MAX
    minimum, average, maximum = header.chunk_minimum, header.chunk_average, header.chunk_maximum
    if not least <= minimum < average < maximum <= most:
        raise _absurd(
            f"chunk sizes {minimum}, {average}, {maximum} do not rise within {least}..{most}"
        )
    if average & (average - 1):
        raise _absurd(f"chunk average {average} is no power of two")
    _check_range("frame bytes", header.frame_bytes, limits.FRAME_BYTES_MIN, limits.FRAME_BYTES_MAX)
    for segment_class in SegmentClass:
        value = header.segment_bytes(segment_class)
        what = f"segment bytes of class {segment_class.name.lower()}"
        _check_range(what, value, SEGMENT_BYTES_MIN, limits.SEGMENT_BYTES_MAX)
    _check_range("creation time", header.created_ns, 0, (1 << 64) - 1)


def _check_range(what: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise _absurd(f"{what} is {value}, outside {least}..{most}")


def _absurd(what: str) -> NotARepository:
    return NotARepository(
        f"the header's parameters make no sense: {what}", where="header", next_step=_RESTORE
    )
