"""Cutting: the native chunker agrees with its specification, and both keep their laws."""

from __future__ import annotations

import array
import hashlib
import itertools
import random
from collections.abc import Callable

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from repo.errors import UsageError
from repo.kernel import native, reference
from repo.kernel.cut import CutParameters, Cutter

KEY = bytes(range(32))
SMALL = CutParameters(64, 256, 1024)

# What the reference of version 0.1.0 finds in the streams of the tests below. Existing
# repositories rely on it: it never changes.
KNOWN_CUTS = [214907, 414434, 769930, 1007756, 1217146, 1443694, 1818228, 2054671, 2097152]
KNOWN_SMALL_DIGEST = "dd300bc128e50ea416cbbd192c8020c69a66bb19d11bbbdaed623dd8bc79e9e7"


def stream(length: int, seed: int = 0) -> bytes:
    """Content that looks random and is the same everywhere and for ever."""
    return blake3(b"stream %d" % seed).digest(length=length)


@pytest.fixture(params=["native", "reference"])
def cutter_of(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Callable[[CutParameters, bytes], Cutter]:
    """Make cutters that work by the native chunker, then by the reference."""
    if request.param == "native":
        assert native.AVAILABLE, "the C extension is not built: run tools/test"
    else:
        monkeypatch.setattr(native, "AVAILABLE", False)
    return Cutter


@st.composite
def contents(draw: st.DrawFn) -> bytes:
    """Draw content of several cut lengths: random runs, repetitions, constant runs."""
    pieces = []
    for _ in range(draw(st.integers(0, 6))):
        rng = random.Random(draw(st.integers(0, 2**32)))
        length = draw(st.integers(0, 3000))
        match draw(st.sampled_from(["random", "constant", "period", "text"])):
            case "random":
                pieces.append(rng.randbytes(length))
            case "constant":
                pieces.append(rng.randbytes(1) * length)
            case "period":
                period = rng.randbytes(rng.randint(1, 200))
                pieces.append((period * (length // len(period) + 1))[:length])
            case _:
                pieces.append(bytes(rng.choices(b"etaoin shrdlu\n", k=length)))
    return b"".join(pieces)


@st.composite
def parameter_sets(draw: st.DrawFn) -> CutParameters:
    minimum = draw(st.integers(64, 600))
    bits = draw(st.integers((minimum - 1).bit_length(), 11))
    return CutParameters(minimum, 1 << bits, draw(st.integers(1 << bits, 5000)))


@given(contents(), parameter_sets(), st.binary(min_size=32, max_size=32), st.booleans())
def test_native_agrees_with_reference(
    data: bytes, parameters: CutParameters, key: bytes, final: bool
) -> None:
    cutter = Cutter(parameters, key)
    assert cutter.native, "the C extension is not built: run tools/test"
    table = reference.gear_table(key)
    sizes = reference.plan(parameters.minimum, parameters.average, parameters.maximum)
    assert cutter.cuts(data, final=final) == reference.cuts(table, data, sizes, final)


@pytest.mark.parametrize("content", ["random", "text", "zeros"])
def test_native_agrees_with_reference_at_default_sizes(content: str) -> None:
    data = {
        "random": stream(3 << 20),
        "text": b"".join(b"%d bottles of beer on the wall\n" % n for n in range(70_000)),
        "zeros": bytes(3 << 20),
    }[content]
    parameters = CutParameters()
    table = reference.gear_table(KEY)
    sizes = reference.plan(parameters.minimum, parameters.average, parameters.maximum)
    for final in (False, True):
        expected = reference.cuts(table, data, sizes, final)
        assert Cutter(parameters, KEY).cuts(data, final=final) == expected


def test_known_answer_default_sizes(
    cutter_of: Callable[[CutParameters, bytes], Cutter],
) -> None:
    assert cutter_of(CutParameters(), KEY).cuts(stream(2 << 20), final=True) == KNOWN_CUTS


def test_known_answer_small_sizes(cutter_of: Callable[[CutParameters, bytes], Cutter]) -> None:
    found = cutter_of(SMALL, KEY).cuts(stream(1 << 18), final=True)
    assert hashlib.sha256(repr(found).encode()).hexdigest() == KNOWN_SMALL_DIGEST


@given(contents(), parameter_sets(), st.data())
def test_cuts_do_not_depend_on_how_the_stream_arrives(
    data: bytes, parameters: CutParameters, draw: st.DataObject
) -> None:
    cutter = Cutter(parameters, KEY)
    borders = draw.draw(st.lists(st.integers(0, len(data)), max_size=12).map(sorted))
    found = []
    begin = 0  # where the tail that is carried over begins
    for border in borders:
        tail = data[begin:border]
        offsets = cutter.cuts(tail, final=False)
        assert len(tail) - (offsets[-1] if offsets else 0) < parameters.maximum
        found += [begin + offset for offset in offsets]
        begin += offsets[-1] if offsets else 0
    found += [begin + offset for offset in cutter.cuts(data[begin:], final=True)]
    assert found == cutter.cuts(data, final=True)


@given(contents(), parameter_sets(), st.booleans())
def test_lengths_lie_between_minimum_and_maximum(
    data: bytes, parameters: CutParameters, final: bool
) -> None:
    offsets = Cutter(parameters, KEY).cuts(data, final=final)
    lengths = [end - start for start, end in itertools.pairwise([0, *offsets])]
    whole = lengths[:-1] if final else lengths
    assert all(parameters.minimum <= length <= parameters.maximum for length in whole)
    if final:
        assert (offsets[-1] if offsets else 0) == len(data)
        assert all(0 < length <= parameters.maximum for length in lengths)


@pytest.mark.parametrize("change", ["insert", "delete", "overwrite"])
def test_falls_back_into_step_after_a_change(
    cutter_of: Callable[[CutParameters, bytes], Cutter], change: str
) -> None:
    cutter = cutter_of(SMALL, KEY)
    before = stream(200_000)
    at = 50_000
    middle, resume = {
        "insert": (b"an insertion", at),
        "delete": (b"", at + 100),
        "overwrite": (stream(100, seed=1), at + 100),
    }[change]
    after = before[:at] + middle + before[resume:]
    shift = len(after) - len(before)
    old = set(cutter.cuts(before, final=True))
    new = {offset - shift for offset in cutter.cuts(after, final=True)}
    # Nothing before the change differs, and behind it 10 average chunks put all back in step.
    assert {offset for offset in old if offset <= at} == {
        offset + shift for offset in new if offset + shift <= at
    }
    settled = resume + 10 * SMALL.average
    assert {offset for offset in old if offset > settled} == {
        offset for offset in new if offset > settled
    }


def test_the_mean_length_comes_near_the_average() -> None:
    parameters = CutParameters(1024, 4096, 16384)
    offsets = Cutter(parameters, KEY).cuts(stream(16 << 20), final=True)
    mean = offsets[-1] / len(offsets)
    assert 0.9 * parameters.average < mean < parameters.average


def test_constant_content_is_cut_at_one_length(
    cutter_of: Callable[[CutParameters, bytes], Cutter],
) -> None:
    offsets = cutter_of(SMALL, KEY).cuts(bytes(100_000), final=False)
    assert len({end - start for start, end in itertools.pairwise([0, *offsets])}) == 1


def test_equal_sizes_cut_at_fixed_lengths(
    cutter_of: Callable[[CutParameters, bytes], Cutter],
) -> None:
    cutter = cutter_of(CutParameters(256, 256, 256), KEY)
    assert cutter.cuts(stream(1000), final=False) == [256, 512, 768]
    assert cutter.cuts(stream(1000), final=True) == [256, 512, 768, 1000]


@pytest.mark.parametrize("length", [0, 1, 63, 64, 65, 1023, 1024, 1025])
def test_short_streams(cutter_of: Callable[[CutParameters, bytes], Cutter], length: int) -> None:
    offsets = cutter_of(SMALL, KEY).cuts(stream(length), final=True)
    assert offsets[-1:] == ([length] if length else [])


def test_another_key_cuts_elsewhere() -> None:
    data = stream(100_000)
    first = set(Cutter(SMALL, KEY).cuts(data, final=True))
    second = set(Cutter(SMALL, bytes(32)).cuts(data, final=True))
    assert len(first & second) < len(first) / 10


def test_any_contiguous_buffer_will_do(
    cutter_of: Callable[[CutParameters, bytes], Cutter],
) -> None:
    cutter = cutter_of(SMALL, KEY)
    data = stream(10_000)
    expected = cutter.cuts(data, final=True)
    assert cutter.cuts(bytearray(data), final=True) == expected
    assert cutter.cuts(array.array("H", data), final=True) == expected
    assert cutter.cuts(memoryview(b"x" + data)[1:], final=True) == expected
    with pytest.raises(BufferError):
        cutter.cuts(memoryview(data)[::2], final=True)


@pytest.mark.parametrize(
    ("minimum", "average", "maximum"),
    [(63, 256, 1024), (64, 255, 1024), (512, 256, 1024), (64, 256, 128), (64, 256, 1 << 31)],
)
def test_impossible_sizes_are_refused(minimum: int, average: int, maximum: int) -> None:
    with pytest.raises(UsageError, match="chunk size"):
        CutParameters(minimum, average, maximum)


def test_a_key_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="31 bytes instead of 32"):
        Cutter(SMALL, bytes(31))


@pytest.mark.parametrize(
    ("table_bytes", "minimum", "switch", "maximum"),
    [(2047, 64, 64, 64), (2048, 63, 64, 64), (2048, 65, 64, 65), (2048, 64, 65, 64)],
)
def test_the_native_chunker_guards_its_memory(
    table_bytes: int, minimum: int, switch: int, maximum: int
) -> None:
    sizes = reference.Plan(minimum, switch, maximum, 0, 0)
    with pytest.raises(ValueError, match=r"gear table|need 64"):
        native.cuts(bytes(table_bytes), bytes(1000), sizes, final=True)
