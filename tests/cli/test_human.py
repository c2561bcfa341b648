from __future__ import annotations

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.cli import human


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "0.98 KiB"),
        (1024, "1.00 KiB"),
        (12_345_678, "11.8 MiB"),
        (1_299_227_607, "1.21 GiB"),
        (1023 * 1024, "1.00 MiB"),
        (5 * 1024**6, "5.00 EiB"),
        (-2048, "-2.00 KiB"),
    ],
)
def test_sizes_have_three_digits(count: int, text: str) -> None:
    assert human.size(count) == text


@given(st.integers(0, 2**63))
def test_a_size_is_short_and_near(count: int) -> None:
    value, unit = human.size(count).split()
    factor = 1024 ** ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB").index(unit)
    assert len(value) <= 4
    assert abs(float(value) * factor - count) <= count * 0.006 + 0.5


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.123, "0.12 s"), (12.34, "12.3 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert human.duration(seconds) == text


@pytest.mark.parametrize(("seconds", "text"), [(7.9, "0:07"), (754, "12:34"), (3723, "1:02:03")])
def test_clocks(seconds: float, text: str) -> None:
    assert human.clock(seconds) == text


def test_times_are_local_for_people_and_utc_for_programs() -> None:
    ns = 1_700_000_000_123_456_789
    assert human.utc_time(ns) == "2023-11-14T22:13:20.123456789Z"
    local = human.local_time_and_zone(ns)
    assert datetime.fromisoformat(local).timestamp() == 1_700_000_000
    assert local.startswith(human.local_time(ns))


@given(st.integers(-(2**63), 2**63 - 1))
def test_any_time_a_file_can_carry_is_printed(ns: int) -> None:
    assert human.utc_time(ns).endswith("Z")
    assert human.local_time(ns)


def test_a_name_never_steers_the_terminal() -> None:
    assert human.printable(b"plain \xc3\xa4.txt") == "plain ä.txt"
    assert human.printable(b"\x1b[31mred\n") == "\\x1b[31mred\\n"
    assert human.printable(b"latin \xe4") == "latin \\xe4"
    assert human.printable(b"back\\slash") == "back\\\\slash"
    assert human.printable("\u202egpj.exe") == "\\u202egpj.exe"


@given(st.binary())
def test_every_name_is_printable_and_tells_itself_apart(name: bytes) -> None:
    shown = human.printable(name)
    assert shown.isprintable()
    back = shown.encode().decode("unicode_escape") if name.isascii() else None
    assert back is None or back.encode("latin-1") == name


@given(st.text())
def test_a_message_stays_on_its_line(text: str) -> None:
    assert human.one_line(text).isprintable()


def test_shares() -> None:
    assert human.percent(1, 3) == "33 %"
    assert human.percent(1, 300) == "0.3 %"
    assert human.percent(0, 5) == "0 %"
    assert human.percent(1, 0) == "-"
