"""Versions of the kernel side by side: what a mode costs under one release against another.

Exists only where a run booted several kernels. Must not render.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from testbed.analysis import rounds, statistics
from testbed.analysis.effects import identical
from testbed.analysis.rounds import DIRECT, Cell
from testbed.analysis.statistics import Interval
from testbed.analysis.unit import in_units
from testbed.results.format import CellKey


@dataclass(frozen=True)
class KernelEffect:
    """One lane under two kernels, `before` the one that was named first.

    A mode's cost is over the direct lane of the same boot; the direct lane's is its time to first byte.
    `resolvable` says whether the difference is larger than the sum of both kernels' smallest visible effects:
    each boot has luck of its own, which rounds of one boot cannot show. None without twins.
    """

    cell: CellKey
    lane: str
    kernels: tuple[str, str]
    before: Interval
    after: Interval
    difference: Interval
    resolvable: bool | None


def kernel_effects(cells: Sequence[Cell], releases: Sequence[str]) -> list[KernelEffect]:
    """Every lane of every cell under each later kernel against the first one."""
    by_key = {cell.key: cell for cell in cells}
    found = []
    for key, cell in by_key.items():
        if not releases or key.kernel != releases[0]:
            continue
        for release in releases[1:]:
            other = by_key.get(replace(key, kernel=release))
            if other is not None:
                found += [_effect(cell, other, lane) for lane in cell.lanes if lane in other.lanes]
    return found


def _effect(cell: Cell, other: Cell, lane: str) -> KernelEffect:
    before, after = (in_units(_costs(one, lane)) for one in (cell, other))
    difference = statistics.unpaired_difference(after, before)
    pairs = [identical(one) for one in (cell, other)]
    visible = [pair.visible for pair in pairs if pair is not None]
    return KernelEffect(
        cell=replace(cell.key, kernel=""),
        lane=lane,
        kernels=(cell.key.kernel, other.key.kernel),
        before=statistics.interval(before),
        after=statistics.interval(after),
        difference=difference,
        resolvable=statistics.resolvable(difference, sum(visible)) if len(visible) == len(pairs) else None,
    )


def _costs(cell: Cell, lane: str) -> statistics.Floats:
    if lane == DIRECT:
        return cell.values(lane, rounds.first_byte_ns)
    ours, direct = cell.against_direct(lane, rounds.first_byte_ns)
    difference: statistics.Floats = ours - direct
    return difference
