"""Rates, durations and percentages as people write them, always with a unit. Pure: text in, numbers out."""

from __future__ import annotations

import re

_NUMBER = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Zµ%/]*)\s*")
_BITS = {"bit": 1, "kbit": 10**3, "mbit": 10**6, "gbit": 10**9, "tbit": 10**12}
_NANOSECONDS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "min": 60 * 10**9,
    "m": 60 * 10**9,
}
_NANOSECONDS |= {"h": 3600 * 10**9}


class NotAQuantity(ValueError):
    """The text is not a quantity of the wanted kind; `remedy` shows how one is written."""

    def __init__(self, message: str, remedy: str) -> None:
        self.remedy = remedy
        super().__init__(message)


def bits_per_second(text: str) -> int:
    """`"1gbit"` as 1,000,000,000; units as `tc` has them, decimal.

    Raises:
        NotAQuantity: no number, no unit, another unit, or nothing left of it.
    """
    return _whole(text, _BITS, "a rate", "write it like '100mbit' or '1gbit'")


def nanoseconds(text: str) -> int:
    """`"1.5ms"` as 1,500,000; units ns, us, ms, s, min (or m) and h.

    Raises:
        NotAQuantity: no number, no unit, another unit, or a part of a nanosecond.
    """
    return _whole(text, _NANOSECONDS, "a duration", "write it like '5ms', '240s' or '4min'")


def ratio(text: str) -> float:
    """`"0.1%"` as 0.001, from 0 to 1.

    Raises:
        NotAQuantity: no number, no percent sign, or more than 100 %.
    """
    number, unit = _split(text, "a percentage", remedy := "write it like '0.1%'")
    if unit != "%":
        raise NotAQuantity(_no_unit(text, unit, "a percentage"), remedy)
    if number > 100:
        raise NotAQuantity(f"{text!r} is more than 100 %", remedy)
    return number / 100


def _whole(text: str, units: dict[str, int], noun: str, remedy: str) -> int:
    number, unit = _split(text, noun, remedy)
    factor = units.get(unit.lower())
    if factor is None:
        raise NotAQuantity(_no_unit(text, unit, noun), remedy)
    value = round(number * factor)
    if abs(value - number * factor) > 1e-6 * max(1.0, number):
        raise NotAQuantity(f"{text!r} is finer than the lab can make it", remedy)
    return value


def _split(text: str, noun: str, remedy: str) -> tuple[float, str]:
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise NotAQuantity(f"{text!r} is not {noun}", remedy)
    return float(match[1]), match[2]


def _no_unit(text: str, unit: str, noun: str) -> str:
    return f"{text!r} is not {noun}" if unit else f"{text!r} has no unit"
