"""How the cost of a mode grows with the number of Services: a slope, never a log-log fit of raw latency.

Owns the grouping of cells that differ in nothing but the number of Services.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from testbed.analysis import rounds, statistics
from testbed.analysis.rounds import DIRECT, Cell, Value
from testbed.analysis.statistics import Interval
from testbed.analysis.unit import READINGS
from testbed.results.format import CellKey

PER = 1000
"""Slopes are given for this many Services."""


@dataclass(frozen=True)
class Scaling:
    """One lane over all numbers of Services with the other factors fixed.

    `last_slope` is what 1,000 Services add to a connection to the last Service in the order of rules,
    `mean_slope` for one to a Service anywhere. `visible` is the smallest slope that identical lanes
    allow to see, None without a twin.
    """

    kernel: str
    endpoints: int
    traffic: str
    connections: int
    lane: str
    mode: str
    services: tuple[int, ...]
    mean_slope: Interval
    last_slope: Interval
    visible: float | None
    resolvable: bool | None


def scalings(cells: Sequence[Cell]) -> list[Scaling]:
    """One entry a lane for every group of cells with at least two numbers of Services."""
    groups: dict[tuple[str, int, str, int], list[Cell]] = {}
    for cell in cells:
        key = cell.key
        groups.setdefault((key.kernel, key.endpoints, key.traffic, key.connections), []).append(cell)
    found: list[Scaling] = []
    for group in groups.values():
        if len({cell.key.services for cell in group}) < 2:
            continue
        visible = _visible_slope(group)
        lanes = dict.fromkeys(lane for cell in group for lane in cell.lanes if lane != DIRECT)
        found += [_scaling(group, lane, visible) for lane in lanes]
    return found


def _scaling(group: Sequence[Cell], lane: str, visible: float | None) -> Scaling:
    present = [cell for cell in group if lane in cell.lanes]
    key: CellKey = present[0].key
    last = _slope_over_direct(present, lane, rounds.last_first_byte_ns)
    return Scaling(
        kernel=key.kernel,
        endpoints=key.endpoints,
        traffic=key.traffic,
        connections=key.connections,
        lane=lane,
        mode=present[0].mode(lane),
        services=tuple(cell.key.services for cell in present),
        mean_slope=_slope_over_direct(present, lane, rounds.first_byte_ns),
        last_slope=last,
        visible=visible,
        resolvable=None if visible is None else statistics.resolvable(last, visible),
    )


def _slope_over_direct(cells: Sequence[Cell], lane: str, value: Value) -> Interval:
    points: list[tuple[float, float]] = []
    for cell in cells:
        ours, direct = cell.against_direct(lane, value)
        points += [(cell.key.services / PER, cost / READINGS) for cost in ours - direct]
    return _slope(points)


def _visible_slope(cells: Sequence[Cell]) -> float | None:
    """The smallest slope that can be seen: that of a twin over its mode, which has none."""
    points: list[tuple[float, float]] = []
    for cell in cells:
        if cell.twins is not None:
            twin, original = cell.twins
            differences = cell.differences(twin, original, rounds.last_first_byte_ns)
            points += [(cell.key.services / PER, difference / READINGS) for difference in differences]
    found = _slope(points)
    return statistics.smallest_visible(found) if np.isfinite(found.half_width) else None


def _slope(points: Sequence[tuple[float, float]]) -> Interval:
    return statistics.slope([x for x, _ in points], [y for _, y in points])
