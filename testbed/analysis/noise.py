"""The noise of the machine around the kernel under test, matched to blocks by time.

Owns the rule by which a block is left out for noise that only the host could see. Reads the launcher's record
of running totals (`noise.csv`); must not know lanes.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from testbed.analysis.statistics import Floats
from testbed.results.format import NOISE_FILE, BlockRecord

TOO_MUCH_PRESSURE = 0.25
TOO_MUCH_STEAL = 0.05
ABOVE_USUAL = 2.0
"""A block is left out where CPU pressure (the share of time in which some task waited for a CPU) is above
`TOO_MUCH_PRESSURE` and above so many times the median of its own lane and cell, or steal above
`TOO_MUCH_STEAL` of a CPU. Its own lane, because on the host's kernel some modes make more pressure than
others, and must not be left out for that."""

NS_PER_US = 1000.0
TICKS_PER_S = 100.0
"""USER_HZ, the unit of /proc/stat on every architecture that Linux runs on today."""


@dataclass(frozen=True)
class NoiseSummary:
    """The host while blocks were measured: medians over blocks, and the worst block. Shares of one CPU."""

    pressure: float
    worst_pressure: float
    busy_cpus: float
    steal: float
    left_out: int


@dataclass(frozen=True)
class Noise:
    """Running totals over time; a total that this host does not have stays 0."""

    time_ns: Floats
    pressure_ns: Floats
    busy_ns: Floats
    steal_ns: Floats

    def pressure(self, blocks: Sequence[BlockRecord]) -> Floats:
        return self._share(self.pressure_ns, blocks)

    def steal(self, blocks: Sequence[BlockRecord]) -> Floats:
        return self._share(self.steal_ns, blocks)

    def busy(self, blocks: Sequence[BlockRecord]) -> Floats:
        return self._share(self.busy_ns, blocks)

    def _share(self, total_ns: Floats, blocks: Sequence[BlockRecord]) -> Floats:
        """How much of each block's time a total grew by; 0 for blocks outside of the record."""
        starts = np.array([block.unix_ns for block in blocks], dtype=np.float64)
        lengths = np.array([max(block.ended_ns - block.started_ns, 1) for block in blocks], dtype=np.float64)
        grown = np.interp(starts + lengths, self.time_ns, total_ns) - np.interp(
            starts, self.time_ns, total_ns
        )
        share: Floats = grown / lengths
        return share


def read_noise(directory: Path) -> Noise | None:
    """The record of a run, or None without one; a torn last line is left out."""
    path = directory / NOISE_FILE
    if not path.exists():
        return None
    text = path.read_text(encoding="ascii", errors="replace")
    rows = list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))
    if len(rows) < 2:
        return None
    return Noise(
        time_ns=_column(rows, "time_ns"),
        pressure_ns=_column(rows, "psi_cpu_us") * NS_PER_US,
        busy_ns=_column(rows, "busy_ticks") * 1e9 / TICKS_PER_S,
        steal_ns=_column(rows, "steal_ticks") * 1e9 / TICKS_PER_S,
    )


def quiet_blocks(
    blocks: Iterable[BlockRecord], noise: Noise | None
) -> tuple[list[BlockRecord], NoiseSummary | None]:
    """The blocks that the host left in peace, and what the host did meanwhile (None without a record)."""
    every = list(blocks)
    counting = [block for block in every if block.counts]
    if noise is None or not counting:
        return every, None
    pressure, steal = noise.pressure(counting), noise.steal(counting)
    bearable = np.maximum(TOO_MUCH_PRESSURE, ABOVE_USUAL * _usual(counting, pressure))
    loud = (pressure > bearable) | (steal > TOO_MUCH_STEAL)
    left_out = {block.id for block, out in zip(counting, loud, strict=True) if out}
    summary = NoiseSummary(
        pressure=float(np.median(pressure)),
        worst_pressure=float(pressure.max()),
        busy_cpus=float(np.median(noise.busy(counting))),
        steal=float(np.median(steal)),
        left_out=len(left_out),
    )
    return [block for block in every if block.id not in left_out], summary


def _usual(blocks: Sequence[BlockRecord], pressure: Floats) -> Floats:
    """For each block, the median pressure of its lane's blocks in its cell."""
    groups: dict[object, list[int]] = defaultdict(list)
    for place, block in enumerate(blocks):
        groups[block.company, block.lane, block.cell].append(place)
    usual = np.zeros(len(blocks))
    for places in groups.values():
        usual[places] = np.median(pressure[places])
    return usual


def _column(rows: Sequence[dict[str, str]], name: str) -> Floats:
    """A column of numbers; 0 where the host offered none."""
    return np.array([float(row.get(name) or 0) for row in rows], dtype=np.float64)
