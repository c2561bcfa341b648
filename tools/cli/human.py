"""Values as people read them: sizes, counts, times, names. Pure functions, no terminal."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_NS: Final = 1_000_000_000


def size(count: float) -> str:
    """Bytes in IEC units, three digits: 17 B, 1.21 GiB, 12.3 MiB, 999 KiB."""
    if count < 0:
        return "-" + size(-count)
    unit = 0
    value = float(count)
    # 999.5 would be printed as 1000: it belongs to the next unit, whose three digits say it.
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value /= 1024
        unit += 1
    if unit == 0:
        return f"{int(value)} B"
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{digits}f} {_UNITS[unit]}"


def count(number: int) -> str:
    """A number with separators: 78,579."""
    return f"{number:,}"


def plural(number: int, one: str, many: str = "") -> str:
    """A counted noun: 1 file, 2 files, 3 directories (with many="directories")."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def duration(seconds: float) -> str:
    """How long something took: 0.42 s, 12.3 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = whole // 60
    return f"{minutes // 60} h {minutes % 60} min"


def clock(seconds: float) -> str:
    """A running time: 0:07, 12:34, 1:02:03."""
    whole = int(seconds)
    hours, rest = divmod(whole, 3600)
    minutes, seconds_left = divmod(rest, 60)
    if hours:
        return f"{hours}:{minutes:02}:{seconds_left:02}"
    return f"{minutes}:{seconds_left:02}"


def percent(part: float, whole: float) -> str:
    """A share: 0.4 %, 37 %; "-" of nothing."""
    if not whole:
        return "-"
    share = 100 * part / whole
    return f"{share:.1f} %" if 0 < share < 10 else f"{share:.0f} %"


def local_time(ns: int) -> str:
    """Nanoseconds since 1970 as local ISO time to the second; SOURCE@TIME takes it back."""
    return _at(ns).astimezone().strftime("%Y-%m-%dT%H:%M:%S")


def local_time_and_zone(ns: int) -> str:
    """Nanoseconds since 1970 as local ISO time with its distance from UTC."""
    return _at(ns).astimezone().isoformat(timespec="seconds")


def utc_time(ns: int) -> str:
    """Nanoseconds since 1970 as UTC, ISO form with all nine digits: for --json."""
    return f"{_at(ns).strftime('%Y-%m-%dT%H:%M:%S')}.{ns % _NS:09}Z"


def _at(ns: int) -> datetime:
    try:
        return datetime.fromtimestamp(ns // _NS, UTC)
    except (ValueError, OverflowError, OSError):
        # A file may carry any 64-bit time; the calendar ends in the year 9999.
        return datetime.max.replace(tzinfo=UTC, microsecond=0) if ns > 0 else _BEGINNING


_BEGINNING: Final = datetime(1, 1, 2, tzinfo=UTC)


def printable(name: bytes | str) -> str:
    r"""A file name that cannot steer the terminal: what is not printable becomes an escape.

    Bytes that are not UTF-8 become \xNN, control characters \n, \t or \xNN, and the
    backslash itself is doubled, so that two different names never look the same.
    """
    if isinstance(name, bytes):
        name = name.decode("utf-8", "surrogateescape")
    if name.isprintable() and "\\" not in name:
        return name
    return "".join(_escaped(character) for character in name)


def one_line(text: str) -> str:
    """A message that stays on its line and cannot steer the terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


_SHORT: Final = {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\\": "\\\\"}


def _escaped(character: str) -> str:
    if character in _SHORT:
        return _SHORT[character]
    if character.isprintable():
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return (
        f"\\x{code:02x}"
        if code < 0x100
        else f"\\u{code:04x}"
        if code < 0x10000
        else f"\\U{code:08x}"
    )
