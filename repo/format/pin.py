"""A pin: the sealed record that a point must not be forgotten, and why."""

from __future__ import annotations

from typing import Any

import msgspec

from repo.errors import Damaged
from repo.format.node import UNPARSABLE


class Pin(msgspec.Struct, frozen=True):
    """Times are nanoseconds since 1970 (UTC).

    `until_ns` 0: a pin, until somebody takes it away. Else a hold, which nobody takes away
    before that time, and which ends by itself then.
    """

    reason: str = ""
    pinned_ns: int = 0
    until_ns: int = 0
    made_by: str = ""

    def holds(self, now_ns: int) -> bool:
        """Whether the point must be kept now."""
        return not self.until_ns or now_ns < self.until_ns

    def pack(self) -> bytes:
        """The plain record, before it is sealed."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def parse(cls, data: bytes, *, where: str) -> Pin:
        """The pin in a plain record. Raises Damaged."""
        try:
            pin: Pin = _decoder.decode(data)
        except UNPARSABLE as error:
            raise Damaged(f"a pin does not parse: {error}", where=where) from error
        return pin


_decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(Pin)
