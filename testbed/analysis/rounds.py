"""Pairing: what each lane of a cell showed in each round, as arrays in the same order of rounds.

Owns the choice of which blocks count and what number stands for a block. Must not compute intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from testbed.analysis.statistics import Floats
from testbed.results.format import BlockRecord, CellKey

DIRECT = "direct"
TWIN_SUFFIX = "-twin"

Value = Callable[[BlockRecord], float]
"""A number that stands for a block, NaN where it has none."""


@dataclass(frozen=True)
class Company:
    """Lanes that stood side by side in one cell: `by_lane[lane][round]` is a block that counts."""

    by_lane: Mapping[str, Mapping[int, BlockRecord]]

    def paired(self, value: Value, *lanes: str) -> tuple[Floats, ...]:
        """One array a lane, of the rounds in which all these lanes have a value, in the order of rounds."""
        rounds = sorted(set.intersection(*(set(self.by_lane.get(lane, ())) for lane in lanes)))
        columns = np.array(
            [[value(self.by_lane[lane][number]) for lane in lanes] for number in rounds], dtype=np.float64
        ).reshape(len(rounds), len(lanes))
        whole = columns[~np.isnan(columns).any(axis=1)]
        return tuple(whole.T)


@dataclass(frozen=True)
class Cell:
    """The counting blocks of one cell, by company.

    The company "" holds all lanes side by side. In an isolated run every lane had a boot of its own and
    stands in a company of its own name beside that boot's direct lane; what is compared then are costs over
    direct.
    """

    key: CellKey
    companies: Mapping[str, Company]

    @property
    def lanes(self) -> tuple[str, ...]:
        if "" in self.companies:
            return tuple(sorted(self.companies[""].by_lane, key=_rank))
        return tuple(sorted((name for name in self.companies if name in self._of(name)), key=_rank))

    def blocks(self, lane: str) -> tuple[BlockRecord, ...]:
        """The lane's blocks in the order of rounds."""
        return tuple(block for _, block in sorted(self._home(lane).by_lane.get(lane, {}).items()))

    def mode(self, lane: str) -> str:
        return self.blocks(lane)[0].mode

    def values(self, lane: str, value: Value) -> Floats:
        (found,) = self._home(lane).paired(value, lane)
        return found

    def against_direct(self, lane: str, value: Value) -> tuple[Floats, Floats]:
        """(the lane's, the direct lane's) values, paired by round."""
        ours, direct = self._home(lane).paired(value, lane, DIRECT)
        return ours, direct

    def differences(self, ours: str, theirs: str, value: Value) -> Floats:
        """How much more `ours` shows than `theirs`, round by round."""
        if "" in self.companies:
            one, other = self.companies[""].paired(value, ours, theirs)
            return one - other
        costs = [np.subtract(*self.against_direct(lane, value)) for lane in (ours, theirs)]
        shared = min(cost.size for cost in costs)
        difference: Floats = costs[0][:shared] - costs[1][:shared]
        return difference

    @property
    def twins(self) -> tuple[str, str] | None:
        """The A/A pair: (the twin's lane, its mode's lane), where both were measured."""
        for lane in self.lanes:
            original = lane.removesuffix(TWIN_SUFFIX)
            if original != lane and original in self.lanes:
                return lane, original
        return None

    def _home(self, lane: str) -> Company:
        return self.companies.get("") or self.companies.get(lane) or Company({})

    def _of(self, company: str) -> Mapping[str, Mapping[int, BlockRecord]]:
        return self.companies[company].by_lane


def cells_of(blocks: Iterable[BlockRecord]) -> list[Cell]:
    """All cells with at least one counting block, in the order of their factors."""
    found: dict[CellKey, dict[str, dict[str, dict[int, BlockRecord]]]] = {}
    for block in blocks:
        if block.counts and block.requests:
            companies = found.setdefault(block.cell, {})
            companies.setdefault(block.company, {}).setdefault(block.lane, {})[block.round] = block
    return [
        Cell(key, {name: Company(lanes) for name, lanes in found[key].items()})
        for key in sorted(found, key=_factors)
    ]


def first_byte_ns(block: BlockRecord) -> float:
    """Time to first byte: the mean over the block's targets of each target's median.

    Averaging targets keeps the first, middle and last Service equally heavy however many requests each got.
    """
    return _mean_over_targets(block.position_first_byte_ns, block)


def connect_ns(block: BlockRecord) -> float:
    return _mean_over_targets(block.position_connect_ns, block)


def last_first_byte_ns(block: BlockRecord) -> float:
    """Time to first byte of the last Service; for the direct lane, of its endpoints on average."""
    if not block.positions:
        return first_byte_ns(block)
    place = max(range(len(block.positions)), key=block.positions.__getitem__)
    return float(block.position_first_byte_ns[place]) if block.position_requests[place] else np.nan


def first_byte_p99_ns(block: BlockRecord) -> float:
    return float(block.first_byte_p99_ns)


def request_rate(block: BlockRecord) -> float:
    """Requests a second, or in a thousand million instructions."""
    return block.requests / ((block.ended_ns - block.started_ns) / 1e9)


def proxy_cpu_ns(block: BlockRecord) -> float:
    """The proxy process's CPU time for each request."""
    return np.nan if block.proxy_cpu_ns is None else block.proxy_cpu_ns / block.requests


def proxy_switches(block: BlockRecord) -> float:
    return np.nan if block.proxy_switches is None else block.proxy_switches / block.requests


def _mean_over_targets(medians: tuple[int, ...], block: BlockRecord) -> float:
    seen = [median for median, count in zip(medians, block.position_requests, strict=True) if count]
    return float(np.mean(seen)) if seen else np.nan


def _factors(key: CellKey) -> tuple[str, int, str, int, int]:
    return key.kernel, key.services, key.traffic, key.connections, key.endpoints


_LANE_ORDER = (DIRECT, "userspace", "iptables", "ipvs", "nftables")


def _rank(lane: str) -> tuple[int, str]:
    """Lanes in the order in which people list the modes, twins last."""
    return (_LANE_ORDER.index(lane) if lane in _LANE_ORDER else len(_LANE_ORDER), lane)
