"""What each lane of a cell costs over the direct lane, and what can be resolved there.

Owns the rows of the numeric table. Costs are in the unit of the run's clock, see `unit`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from testbed.analysis import rounds, statistics
from testbed.analysis.rounds import DIRECT, Cell, Value
from testbed.analysis.statistics import Floats, Interval
from testbed.analysis.unit import in_units
from testbed.results.format import CellKey


@dataclass(frozen=True)
class LaneEffect:
    """One lane in one cell.

    `cost` and `ratio` are against the direct lane, paired by round; `last_cost` is the cost of the
    last Service in the order of rules. `resolvable` says whether the cost is larger than the cell's smallest
    visible effect; None for the direct lane and where no twin was measured.
    """

    cell: CellKey
    lane: str
    mode: str
    rounds: int
    requests: int
    errors: int
    first_byte: Interval
    connect: Interval
    p99: Interval
    request_rate: Interval
    cost: Interval | None
    connect_cost: Interval | None
    last_cost: Interval | None
    ratio: Interval | None
    resolvable: bool | None
    proxy_cpu: Interval | None
    proxy_switches: Interval | None


@dataclass(frozen=True)
class Identical:
    """What two lanes of the same mode showed against each other in one cell."""

    cell: CellKey
    lanes: tuple[str, str]
    difference: Interval
    ratio: Interval
    visible: float

    @property
    def unbiased(self) -> bool:
        return self.difference.covers(0.0)


@dataclass(frozen=True)
class PairEffect:
    """Two modes of one cell against each other; `p_holm` is adjusted over all pairs of the run."""

    cell: CellKey
    ours: str
    theirs: str
    difference: Interval
    resolvable: bool | None
    p_holm: float = math.nan


def identical(cell: Cell) -> Identical | None:
    """The A/A pair of the cell, or None without one."""
    if cell.twins is None:
        return None
    twin, original = cell.twins
    difference = _interval(cell.differences(twin, original, rounds.first_byte_ns))
    ours, theirs = cell.values(twin, rounds.first_byte_ns), cell.values(original, rounds.first_byte_ns)
    shared = min(ours.size, theirs.size)
    return Identical(
        cell=cell.key,
        lanes=cell.twins,
        difference=difference,
        ratio=statistics.paired_ratio(ours[:shared], theirs[:shared]),
        visible=statistics.smallest_visible(difference),
    )


def lane_effects(cell: Cell) -> list[LaneEffect]:
    """Every lane of the cell."""
    pair = identical(cell)
    return [_lane_effect(cell, lane, pair.visible if pair else None) for lane in cell.lanes]


def pair_effects(cells: list[Cell]) -> list[PairEffect]:
    """Every two modes of every cell, twins left out."""
    found: list[PairEffect] = []
    p_values: list[float] = []
    for cell in cells:
        pair = identical(cell)
        modes = [lane for lane in cell.lanes if lane != DIRECT and lane == cell.mode(lane)]
        for place, theirs in enumerate(modes):
            for ours in modes[place + 1 :]:
                differences = cell.differences(ours, theirs, rounds.first_byte_ns)
                effect = _interval(differences)
                seen = statistics.resolvable(effect, pair.visible) if pair else None
                found.append(PairEffect(cell.key, ours, theirs, effect, seen))
                p_values.append(statistics.signed_rank_p(differences))
    adjusted = statistics.holm(p_values)
    return [
        PairEffect(one.cell, one.ours, one.theirs, one.difference, one.resolvable, p)
        for one, p in zip(found, adjusted, strict=True)
    ]


def _lane_effect(cell: Cell, lane: str, visible: float | None) -> LaneEffect:
    blocks = cell.blocks(lane)
    cost = None if lane == DIRECT else _cost(cell, lane, rounds.first_byte_ns)
    return LaneEffect(
        cell=cell.key,
        lane=lane,
        mode=cell.mode(lane),
        rounds=len(blocks),
        requests=sum(block.requests for block in blocks),
        errors=sum(sum(block.errors.values()) for block in blocks),
        first_byte=_interval(cell.values(lane, rounds.first_byte_ns)),
        connect=_interval(cell.values(lane, rounds.connect_ns)),
        p99=_interval(cell.values(lane, rounds.first_byte_p99_ns)),
        request_rate=statistics.interval(cell.values(lane, rounds.request_rate)),
        cost=cost,
        connect_cost=None if lane == DIRECT else _cost(cell, lane, rounds.connect_ns),
        last_cost=None if lane == DIRECT else _cost(cell, lane, rounds.last_first_byte_ns),
        ratio=None if lane == DIRECT else _ratio(cell, lane),
        resolvable=None if cost is None or visible is None else statistics.resolvable(cost, visible),
        proxy_cpu=_if_any(in_units(cell.values(lane, rounds.proxy_cpu_ns))),
        proxy_switches=_if_any(cell.values(lane, rounds.proxy_switches)),
    )


def _cost(cell: Cell, lane: str, value: Value) -> Interval | None:
    ours, direct = cell.against_direct(lane, value)
    return _interval(ours - direct) if ours.size else None


def _ratio(cell: Cell, lane: str) -> Interval | None:
    ours, direct = cell.against_direct(lane, rounds.first_byte_ns)
    return statistics.paired_ratio(ours, direct) if ours.size else None


def _interval(readings: Floats) -> Interval:
    return statistics.interval(in_units(readings))


def _if_any(values: Floats) -> Interval | None:
    return statistics.interval(values) if np.size(values) else None
