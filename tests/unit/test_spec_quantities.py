"""Quantities are read with their unit, and never without."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.spec.quantities import NotAQuantity, bits_per_second, nanoseconds, ratio


@pytest.mark.parametrize(
    ("text", "bits"),
    [("1bit", 1), ("100mbit", 10**8), ("1gbit", 10**9), ("2.5Gbit", 2_500_000_000), ("10 tbit", 10**13)],
)
def test_a_rate_is_in_decimal_bits(text: str, bits: int) -> None:
    assert bits_per_second(text) == bits


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1ns", 1),
        ("5us", 5_000),
        ("5µs", 5_000),
        ("1.5ms", 1_500_000),
        ("240s", 240 * 10**9),
        ("4min", 240 * 10**9),
        ("4m", 240 * 10**9),
        ("1h", 3600 * 10**9),
    ],
)
def test_a_duration_has_a_unit_from_nanoseconds_to_hours(text: str, ns: int) -> None:
    assert nanoseconds(text) == ns


@pytest.mark.parametrize(("text", "share"), [("0.1%", 0.001), ("100%", 1.0), ("0%", 0.0)])
def test_a_percentage_is_a_share_of_one(text: str, share: float) -> None:
    assert ratio(text) == pytest.approx(share)


@pytest.mark.parametrize("parse", [bits_per_second, nanoseconds, ratio])
@pytest.mark.parametrize("text", ["", "fast", "10", "-1ms", "1e3ms", "1 2ms", "10parsec", "ms", "1,5ms"])
def test_anything_else_is_refused_with_an_example(parse, text: str) -> None:
    with pytest.raises(NotAQuantity) as raised:
        parse(text)
    assert raised.value.remedy.startswith("write it like")


@pytest.mark.parametrize("text", ["0.5bit", "0.5ns", "101%"])
def test_what_cannot_be_made_is_refused(text: str) -> None:
    for parse in (bits_per_second, nanoseconds, ratio):
        with pytest.raises(NotAQuantity):
            parse(text)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 10**6), st.sampled_from([("us", 10**3), ("ms", 10**6), ("s", 10**9)]))
def test_whole_durations_are_exact(number: int, unit: tuple[str, int]) -> None:
    assert nanoseconds(f"{number}{unit[0]}") == number * unit[1]
