"""A JSON line: one record for programs. File names may be any bytes, JSON only text."""

from __future__ import annotations

from typing import Any


def encode(record: object) -> str:
    """A record as JSON without a line break.

    Text that came from bytes which are not UTF-8 (surrogates, as os.fsdecode makes them) gets
    U+FFFD in their place: a line is never lost for a name.
    """
    import msgspec

    try:
        return msgspec.json.encode(record).decode()
    except UnicodeEncodeError:
        return msgspec.json.encode(_valid(record)).decode()


def name(key: str, value: bytes) -> dict[str, str]:
    """A file name as text, and exactly, in base64, when it is not UTF-8."""
    try:
        return {key: value.decode()}
    except UnicodeDecodeError:
        import base64

        return {
            key: value.decode(errors="replace"),
            f"{key}_base64": base64.b64encode(value).decode(),
        }


def _valid(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    if isinstance(value, dict):
        return {_valid(key): _valid(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_valid(inner) for inner in value]
    return value
