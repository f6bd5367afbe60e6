"""Numbers as people read them: intervals, times, factors, shares."""

from __future__ import annotations

import math
from collections.abc import Sequence

from testbed.analysis.statistics import Interval

NOT_RESOLVABLE = "not resolvable"
DIGITS = 3


def number(value: float, digits: int = DIGITS) -> str:
    """So many significant digits, at most three after the point: 0.412, 4.12, 41.2, 412, 4,120."""
    if not math.isfinite(value):
        return "?"
    size = abs(value)
    before_point = sum(size >= 10**power for power in range(digits))
    decimals = min(digits - before_point, 3)
    return f"{value:,.{decimals}f}" if round(size, 3) else "0"


def signed(value: float, digits: int = DIGITS) -> str:
    return f"+{number(value, digits)}" if value > 0 else number(value, digits)


def bounds(found: Interval, sign: bool = False, digits: int = DIGITS) -> str:
    """`[low, high]`, or a word where there were too few rounds for an interval."""
    if not (math.isfinite(found.low) and math.isfinite(found.high)):
        return "[too few rounds]"
    word = signed if sign else number
    return f"[{word(found.low, digits)}, {word(found.high, digits)}]"


def factor(found: Interval, decimals: int = 2) -> str:
    """`×1.03 [1.01, 1.05]`."""
    value = f"×{found.value:.{decimals}f}"
    if not (math.isfinite(found.low) and math.isfinite(found.high)):
        return f"{value} [too few rounds]"
    return f"{value} [{found.low:.{decimals}f}, {found.high:.{decimals}f}]"


def seconds(duration_ns: float) -> str:
    """`0.31 s`, `12 ms`."""
    return f"{number(duration_ns / 1e9)} s" if duration_ns >= 1e8 else f"{number(duration_ns / 1e6)} ms"


def instructions(count: float) -> str:
    """`12 k instr.`, `412 M instr.`, `2.71 G instr.`"""
    for size, prefix in ((1e9, "G"), (1e6, "M")):
        if count >= size:
            return f"{number(count / size)} {prefix} instr."
    return f"{number(count / 1e3)} k instr."


def shares(counts: Sequence[int]) -> str:
    """`34/33/33 %`; only the extremes where there are many endpoints."""
    total = sum(counts)
    if not total:
        return "no answers"
    percent = [f"{100 * count / total:.0f}" for count in counts]
    return "/".join(percent) + " %" if len(counts) <= 6 else f"{percent[-1]} to {percent[0]} %"


def services(count: int) -> str:
    return f"{count:,} Service{'' if count == 1 else 's'}"


def listing(words: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
