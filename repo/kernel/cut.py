"""A cutter: divides a stream into chunks where its content says so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from repo.errors import UsageError
from repo.kernel import native, reference
from repo.types import GIB, KIB, MIB

if TYPE_CHECKING:
    from typing_extensions import Buffer

KEY_BYTES: Final = reference.KEY_BYTES
"""Length of the chunker key."""

SMALLEST_MINIMUM: Final = reference.WINDOW_BYTES
LARGEST_MAXIMUM: Final = GIB


@dataclass(frozen=True, slots=True)
class CutParameters:
    """The sizes that chunks of a repository keep, in bytes; they live in its header.

    minimum, maximum: every chunk has a length between these, except that the last of a stream
    may be shorter. average: a power of two that the mean length comes near to on content
    without repetitions. Raises UsageError unless 64 <= minimum <= average <= maximum <= 1 GiB.
    """

    minimum: int = 64 * KIB
    average: int = 256 * KIB
    maximum: int = MIB

    def __post_init__(self) -> None:
        in_order = (
            SMALLEST_MINIMUM <= self.minimum <= self.average <= self.maximum <= LARGEST_MAXIMUM
        )
        if not in_order:
            raise UsageError(
                "chunk sizes must keep 64 <= minimum <= average <= maximum <= 1 GiB",
                where=f"minimum {self.minimum}, average {self.average}, maximum {self.maximum}",
            )
        if self.average.bit_count() != 1:
            raise UsageError(
                "the average chunk size must be a power of two", where=f"average {self.average}"
            )


class Cutter:
    """Finds the cut points of streams, the same ones for the same key and parameters for ever.

    Holds nothing of a stream, so one cutter serves many streams and threads at once.
    """

    __slots__ = ("_cuts", "_gear", "_plan", "native", "parameters")

    def __init__(self, parameters: CutParameters, key: bytes) -> None:
        """`key`: the 32-byte chunker key of the repository. Raises ValueError on another length."""
        if len(key) != KEY_BYTES:
            raise ValueError(f"the chunker key has {len(key)} bytes instead of {KEY_BYTES}")
        self.parameters: Final = parameters
        self.native: Final = native.AVAILABLE
        """Whether the C twin does the work; the cut points are the same either way."""
        self._gear = reference.gear_table(key)
        self._plan = reference.plan(parameters.minimum, parameters.average, parameters.maximum)
        self._cuts = native.cuts if self.native else reference.cuts

    def cuts(self, data: Buffer, *, final: bool) -> list[int]:
        """Return the end offsets of the chunks in `data`, ascending; `data` begins a chunk.

        When `final`, `data` ends the stream and the last offset is its length (no offset for no
        data). Otherwise the tail after the last cut, shorter than the maximum, is not cut: call
        again with that tail and what follows it. The cut points of a stream do not depend on how
        it was divided into buffers. Raises BufferError when `data` is not contiguous.
        """
        return self._cuts(self._gear, data, self._plan, final)
