"""Whether lanes disturb each other: what a lane costs alone against what it costs beside all others.

Exists only where a run measured both. Must not render.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from testbed.analysis import rounds, statistics
from testbed.analysis.effects import identical
from testbed.analysis.rounds import DIRECT, Cell, Company
from testbed.analysis.statistics import Floats, Interval
from testbed.analysis.unit import in_units
from testbed.results.format import CellKey


@dataclass(frozen=True)
class Interference:
    """One lane of one cell: `shift` is how much dearer it is beside all others than alone.

    A mode's cost is over the direct lane that was measured with it; the direct lane's is its time to first
    byte. `disturbed` says whether the shift is larger than the cell's smallest visible effect; None without a
    twin.
    """

    cell: CellKey
    lane: str
    alone: Interval
    together: Interval
    shift: Interval
    disturbed: bool | None


def interferences(cells: Sequence[Cell]) -> list[Interference]:
    """Every lane that was measured both ways."""
    return [
        _interference(cell, lane, company)
        for cell in cells
        if "" in cell.companies
        for lane, company in cell.companies.items()
        if lane and lane in company.by_lane and lane in cell.companies[""].by_lane
    ]


def _interference(cell: Cell, lane: str, company: Company) -> Interference:
    alone, together = _cost(company, lane), _cost(cell.companies[""], lane)
    shift = statistics.unpaired_difference(together, alone)
    pair = identical(cell)
    return Interference(
        cell=cell.key,
        lane=lane,
        alone=statistics.interval(alone),
        together=statistics.interval(together),
        shift=shift,
        disturbed=statistics.resolvable(shift, pair.visible) if pair else None,
    )


def _cost(company: Company, lane: str) -> Floats:
    if lane == DIRECT:
        (times,) = company.paired(rounds.first_byte_ns, DIRECT)
    else:
        ours, direct = company.paired(rounds.first_byte_ns, lane, DIRECT)
        times = ours - direct
    found: Floats = in_units(times)
    return found
