"""How connections were spread over the endpoints, judged by what the mode or scheduler promises.

Owns the promises of IPVS's schedulers towards one client with short connections. Must not render.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from testbed.analysis import statistics
from testbed.analysis.rounds import Cell
from testbed.results.format import OK, BalanceRecord

ROTATES = frozenset({"rr", "wrr"})
SPREADS = frozenset({"lc", "wlc", "sed", "nq", "mh"})
"""By open connections, or (mh, as kube-proxy sets it up) by a hash of the client's address and port."""

STICKS = frozenset({"sh", "dh", "lblc", "lblcr", "fo", "ovf"})
"""With equal weights and one client: by a hash of source or destination, or by preference for one server."""

UNLIKELY = 0.001
"""A spread less probable than this under random choice is not called random."""


@dataclass(frozen=True)
class Balance:
    """One observed distribution with its verdict.

    `shape` is "exact rotation", "random", "even", "one endpoint", "uneven" or "failed"; `as_promised` says
    whether that is what this scheduler promises, None where nothing is promised.
    """

    lane: str
    mode: str
    scheduler: str
    requests: int
    endpoints: int
    counts: tuple[int, ...]
    p_uniform: float
    shape: str
    as_promised: bool | None
    reason: str = ""
    kernel: str = ""


def of_record(record: BalanceRecord) -> Balance:
    """Judge a distribution that was measured connection by connection."""
    counts = _counts(record.endpoint_requests, record.endpoints)
    shape = "failed" if record.status != OK or record.errors else shape_of(counts, record.sequence)
    return Balance(
        lane=record.lane,
        mode=record.mode,
        scheduler=record.scheduler,
        requests=record.requests,
        endpoints=record.endpoints,
        counts=counts,
        p_uniform=statistics.uniform_p(counts),
        shape=shape,
        as_promised=_kept(record.scheduler, shape),
        reason=record.reason or ", ".join(f"{name} x{count}" for name, count in record.errors.items()),
        kernel=record.kernel,
    )


def of_cell(cell: Cell, lane: str) -> Balance | None:
    """Judge the distribution that the blocks of a lane show, all rounds and Services of the cell together.

    None where the lane has fewer than two endpoints to choose from, or keeps its connections.
    """
    if cell.key.endpoints < 2 or cell.key.traffic == "keepalive":
        return None
    total: Counter[str] = Counter()
    for block in cell.blocks(lane):
        total.update(block.endpoint_requests)
    counts = _counts(total, cell.key.endpoints)
    return Balance(
        lane=lane,
        mode=cell.mode(lane),
        scheduler="",
        requests=sum(counts),
        endpoints=cell.key.endpoints,
        counts=counts,
        p_uniform=statistics.uniform_p(counts),
        shape=shape_of(counts, ()),
        as_promised=None,
        kernel=cell.key.kernel,
    )


def shape_of(counts: Sequence[int], sequence: Sequence[str]) -> str:
    """Name the distribution; `sequence`, where known, tells rotation from chance."""
    if sum(count > 0 for count in counts) <= 1:
        return "one endpoint" if len(counts) > 1 else "only endpoint"
    if rotates(sequence, len(counts)):
        return "exact rotation"
    if max(counts) - min(counts) <= max(1, 0.02 * sum(counts) / len(counts)):
        return "even"
    return "random" if statistics.uniform_p(counts) >= UNLIKELY else "uneven"


def rotates(sequence: Sequence[str], endpoints: int) -> bool:
    """Whether the endpoints answered strictly in turn."""
    if len(sequence) < 2 * endpoints:
        return False
    turn = sequence[:endpoints]
    return len(set(turn)) == endpoints and all(
        name == turn[place % endpoints] for place, name in enumerate(sequence)
    )


def proven(balances: Iterable[Balance]) -> list[str]:
    """The schedulers that did what they promise."""
    return [found.scheduler for found in balances if found.scheduler and found.as_promised]


def _kept(scheduler: str, shape: str) -> bool | None:
    if shape == "failed":
        return False
    if scheduler in ROTATES:
        return shape == "exact rotation"
    if scheduler in SPREADS:
        return shape in ("exact rotation", "even", "random")
    if scheduler in STICKS:
        return shape == "one endpoint"
    return None


def _counts(requests: Mapping[str, int], endpoints: int) -> tuple[int, ...]:
    """Requests by endpoint, with a zero for every endpoint that never answered."""
    found = sorted(requests.values(), reverse=True)
    return tuple(found + [0] * (endpoints - len(found)))
