"""Numbers as people read them: intervals, times, factors, shares."""

from __future__ import annotations

import math
from collections.abc import Sequence

from testbed.analysis.statistics import Interval

NOT_RESOLVABLE = "not resolvable"


def number(value: float) -> str:
    """Three significant digits, thousands separated: 0.412, 4.12, 41.2, 412, 4,120."""
    if not math.isfinite(value):
        return "?"
    size = abs(value)
    digits = 3 if size < 1 else 2 if size < 10 else 1 if size < 100 else 0
    return f"{value:,.{digits}f}" if round(size, 3) else "0"


def signed(value: float) -> str:
    return f"+{number(value)}" if value > 0 else number(value)


def bounds(found: Interval, sign: bool = False) -> str:
    """`[low, high]`, or a word where there were too few rounds for an interval."""
    if not (math.isfinite(found.low) and math.isfinite(found.high)):
        return "[too few rounds]"
    word = signed if sign else number
    return f"[{word(found.low)}, {word(found.high)}]"


def added(found: Interval, unit: str = "µs") -> str:
    """`+7.27 µs [+6.93, +7.64]`."""
    return f"{signed(found.value)} {unit} {bounds(found, sign=True)}"


def factor(found: Interval) -> str:
    """`×1.03 [1.01, 1.05]`."""
    if not (math.isfinite(found.low) and math.isfinite(found.high)):
        return f"×{found.value:.2f} [too few rounds]"
    return f"×{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def seconds(duration_ns: float) -> str:
    """`0.31 s`, `12 ms`."""
    return f"{number(duration_ns / 1e9)} s" if duration_ns >= 1e8 else f"{number(duration_ns / 1e6)} ms"


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
