"""How a quantity prints: microseconds of the wall clock, or thousands of instructions.

Owns the words and the names of columns that depend on the clock of a run. Readings are integers in fields
that end in `_ns`; by the instruction clock 1 ns is one executed instruction, and nothing that is printed may
call it a time. Must not know tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from testbed.analysis import wording
from testbed.analysis.statistics import Interval
from testbed.spec.clock import INSTRUCTIONS, WALL, Clock

READINGS = 1000.0
"""Readings in one unit: a µs has so many ns, a thousand instructions so many instructions."""

QUANTITIES = frozenset(
    {
        "first_byte",
        "connect",
        "p99",
        "cost",
        "connect_cost",
        "last_cost",
        "proxy_cpu",
        "difference",
        "visible",
        "smallest_visible",
        "mean_slope",
        "last_slope",
        "alone",
        "together",
        "shift",
        "before",
        "after",
        "position",
    }
)
"""Names of the analysis's values that are in the unit of the run's clock."""


@dataclass(frozen=True)
class Unit:
    """The unit of one clock.

    `name` follows a number, `suffix` a column's name; `rate` is what requests are counted over; numbers have
    `digits` significant ones. `caveat` is what a reader of a table in this unit must know, empty where there
    is nothing.
    """

    clock: Clock
    name: str
    suffix: str
    rate: str
    rate_suffix: str
    digits: int
    caveat: str = ""
    column_ends: tuple[tuple[str, str], ...] = ()

    def number(self, value: float) -> str:
        """As precise as the clock repeats itself: `412`, `412.07`."""
        return wording.number(value, self.digits)

    def signed(self, value: float) -> str:
        return wording.signed(value, self.digits)

    def bounds(self, found: Interval, sign: bool = False) -> str:
        return wording.bounds(found, sign, self.digits)

    def added(self, found: Interval) -> str:
        """`+7.27 µs [+6.93, +7.64]`."""
        return f"{self.signed(found.value)} {self.name} {self.bounds(found, sign=True)}"

    def amount(self, value: float) -> str:
        """`53.1 µs`, `2.704 k instr.`"""
        return f"{self.number(value)} {self.name}"

    def factor(self, found: Interval) -> str:
        """`×1.03 [1.01, 1.05]`."""
        return wording.factor(found, self.digits - 1)

    def duration(self, reading: float) -> str:
        """What something took, from a reading: `0.31 s`, `12 ms`, `412 M instr.`"""
        if self.clock == WALL:
            return wording.seconds(reading)
        return wording.instructions(reading)

    def column(self, name: str) -> str:
        """The name of a column or key in CSV and JSON: `cost` is `cost_us` or `cost_kinstr`."""
        if name in QUANTITIES:
            return f"{name}_{self.suffix}"
        if name == "request_rate":
            return f"requests_per_{self.rate_suffix}"
        for end, ours in self.column_ends:
            if name.endswith(end):
                return name.removesuffix(end) + ours
        return name


MICROSECONDS = Unit(WALL, name="µs", suffix="us", rate="s", rate_suffix="s", digits=3)

KILO_INSTRUCTIONS = Unit(
    INSTRUCTIONS,
    name="k instr.",
    suffix="kinstr",
    rate="G instr.",
    rate_suffix="ginstr",
    digits=5,
    caveat=(
        "Executed instructions are counted, not time: this clock sees no caches, no branch prediction and "
        "only one CPU. A walk over 10,000 rules waits for memory on real hardware, so its slope here is the "
        "length of a path and a lower bound on time; two versions of one mode can be compared safely, two "
        "modes only where the wall clock agrees."
    ),
    column_ends=(("_ns", "_instr"), ("_seconds", "_ginstr"), ("_seconds_sum", "_ginstr_sum")),
)


def unit_of(facts: Mapping[str, Any]) -> Unit:
    """The unit of a run, from its run.json."""
    return KILO_INSTRUCTIONS if facts.get("clock") == INSTRUCTIONS else MICROSECONDS


def in_units(readings: Any) -> Any:
    """Readings in ns or instructions as µs or thousands of instructions."""
    return np.asarray(readings, dtype=np.float64) / READINGS
