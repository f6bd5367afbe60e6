"""The documented comparison of the modes, each of its words beside what was measured.

Owns the five rows as published and the rule by which each cell gets its evidence. Must not lay out tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from testbed.analysis import wording
from testbed.analysis.balance import Balance, proven
from testbed.analysis.effects import LaneEffect
from testbed.analysis.findings import Findings
from testbed.analysis.statistics import Interval
from testbed.analysis.unit import Unit
from testbed.results.format import LaneRecord

SOURCE = "A Deep Dive into kube-proxy Networking Modes in Kubernetes (article, author not named)"

DOCUMENTED: Mapping[str, Mapping[str, str]] = {
    "Speed": {"userspace": "slow", "iptables": "fast", "ipvs": "super fast"},
    "Scalability": {"userspace": "low", "iptables": "medium", "ipvs": "high"},
    "Load balancing": {
        "userspace": "yes (poor)",
        "iptables": "no (random)",
        "ipvs": "yes (multiple strategies)",
    },
    "Kernel-level processing": {"userspace": "no", "iptables": "yes", "ipvs": "yes"},
    "Best for": {"userspace": "small clusters", "iptables": "most use cases", "ipvs": "large clusters"},
}
"""As published; a mode that the article does not have has no word."""

NEW_CONNECTION = "new-connection"
NO_EVIDENCE = "not measured"


@dataclass(frozen=True)
class Evidence:
    """One cell: the documented word ("" where there is none) and what was measured, a phrase an item."""

    documented: str
    measured: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """One feature of the comparison, by mode."""

    feature: str
    cells: Mapping[str, Evidence]


def comparison(findings: Findings) -> tuple[Row, ...]:
    """The five rows for every measured mode."""
    return tuple(
        Row(
            feature,
            {
                mode: Evidence(words.get(mode, ""), tuple(_RULES[feature](findings, mode)) or (NO_EVIDENCE,))
                for mode in findings.modes
            },
        )
        for feature, words in DOCUMENTED.items()
    )


def _speed(findings: Findings, mode: str) -> Iterator[str]:
    connections = _effects(findings, mode, NEW_CONNECTION)
    for effect in _ends(connections):
        yield f"{_cost(findings, effect)} a new connection at {wording.services(effect.cell.services)}"
    for effect in _effects(findings, mode, "keepalive")[-1:]:
        place = wording.services(effect.cell.services)
        yield f"{_cost(findings, effect)} a request on an open connection at {place}"


def _scalability(findings: Findings, mode: str) -> Iterator[str]:
    for found in findings.scalings:
        if found.lane != mode or found.traffic != NEW_CONNECTION or found.connections != 1:
            continue
        slope = findings.unit.added(found.last_slope)
        if found.resolvable is False:
            yield f"flat: {slope} per 1,000 Services is {_too_small(findings.unit, found.visible)}"
        else:
            yield f"{slope} per 1,000 Services for the last one in the rules"
            yield f"{findings.unit.added(found.mean_slope)} averaged over positions"
    for lane in _starts(findings, mode)[-1:]:
        if lane.sync_ns is not None:
            synced = findings.unit.duration(lane.sync_ns)
            yield f"a full sync of {wording.services(lane.services)} takes {synced}"
    for lane in [lane for lane in _lanes(findings, mode) if lane.event == "change"][-1:]:
        if lane.to_traffic_ns is not None:
            waited = findings.unit.duration(lane.to_traffic_ns)
            yield f"one more beside {wording.services(lane.services - 1)} answers after {waited}"


def _load_balancing(findings: Findings, mode: str) -> Iterator[str]:
    measured = [found for found in findings.balances if found.mode == mode]
    for found in measured:
        if found.scheduler in ("", "rr"):
            yield _spread(found)
    if not measured:
        spreads = [found for found in findings.spreads if found.lane == mode]
        yield from map(_spread, spreads[:1])
    named = [found for found in measured if found.scheduler]
    if good := proven(named):
        yield f"{len(good)} schedulers behave as named: {' '.join(good)}"
    for found in named:
        if found.as_promised is False:
            yield f"{found.scheduler} does not: {found.shape} {found.reason}".rstrip()


def _kernel_level(findings: Findings, mode: str) -> Iterator[str]:
    for effect in _effects(findings, mode, NEW_CONNECTION)[:1]:
        if effect.proxy_cpu is None:
            continue
        cpu = f"{findings.unit.amount(effect.proxy_cpu.value)} {findings.unit.bounds(effect.proxy_cpu)}"
        yield f"proxy process: {cpu} of CPU a connection"
        if effect.proxy_switches is not None:
            yield f"{wording.number(effect.proxy_switches.value)} context switches of it a connection"


def _starts(findings: Findings, mode: str) -> list[LaneRecord]:
    return [lane for lane in _lanes(findings, mode) if lane.event == "start"]


def _best_for(findings: Findings, mode: str) -> Iterator[str]:
    for lane in _starts(findings, mode):
        if lane.to_traffic_ns is not None:
            how = f" ({lane.start})" if lane.start else ""
            waited = findings.unit.duration(lane.to_traffic_ns)
            yield f"start to traffic{how}: {waited} at {wording.services(lane.services)}"
    level: list[str] = []
    for effect in _effects(findings, mode, NEW_CONNECTION):
        cheapest = min(
            (other for other in _modes_of(findings, effect) if other.cost is not None),
            key=lambda other: other.cost.value if other.cost else 0.0,
        )
        if cheapest.lane == mode or _level(findings, effect, cheapest) is False:
            level.append(f"{effect.cell.services:,}")
    if level:
        yield f"cheapest measured, or level with it, at {wording.listing(level)} Services"
    elif _effects(findings, mode, NEW_CONNECTION):
        yield "never the cheapest measured"


_RULES: Mapping[str, Callable[[Findings, str], Iterator[str]]] = {
    "Speed": _speed,
    "Scalability": _scalability,
    "Load balancing": _load_balancing,
    "Kernel-level processing": _kernel_level,
    "Best for": _best_for,
}


def cost_words(unit: Unit, cost: Interval, resolvable: bool | None, visible: float | None) -> str:
    """A cost over direct, or the word that it cannot be told from none."""
    if resolvable is False:
        return f"{unit.signed(cost.value)} {unit.name}, {_too_small(unit, visible)}"
    return unit.added(cost)


def _cost(findings: Findings, effect: LaneEffect) -> str:
    if effect.cost is None:
        return NO_EVIDENCE
    words = cost_words(findings.unit, effect.cost, effect.resolvable, findings.visible(effect))
    return (
        f"{words} (×{effect.ratio.value:.{findings.unit.digits - 1}f})" if effect.ratio is not None else words
    )


def _too_small(unit: Unit, visible: float | None) -> str:
    if visible is None:
        return wording.NOT_RESOLVABLE
    return f"{wording.NOT_RESOLVABLE} (smallest visible {unit.amount(visible)})"


def _spread(found: Balance) -> str:
    named = f"{found.scheduler}: " if found.scheduler else ""
    chance = f", p {found.p_uniform:.2g}" if found.shape in ("random", "uneven") else ""
    if found.shape == "failed":
        return f"{named}failed {found.reason}".rstrip()
    return f"{named}{found.shape}, {wording.shares(found.counts)} of {found.requests:,} connections{chance}"


def _effects(findings: Findings, mode: str, traffic: str) -> list[LaneEffect]:
    """The mode's cells of this traffic with one user and the first number of endpoints, by Services."""
    found = [
        effect
        for effect in findings.effects
        if effect.lane == mode and effect.cell.traffic == traffic and effect.cell.connections == 1
    ]
    return [effect for effect in found if effect.cell.endpoints == found[0].cell.endpoints]


def _ends(effects: list[LaneEffect]) -> list[LaneEffect]:
    return effects if len(effects) < 2 else [effects[0], effects[-1]]


def _lanes(findings: Findings, mode: str) -> list[LaneRecord]:
    return [lane for lane in findings.lanes if lane.lane == mode and not lane.company]


def _modes_of(findings: Findings, effect: LaneEffect) -> list[LaneEffect]:
    return [other for other in findings.effects if other.cell == effect.cell and other.lane in findings.modes]


def _level(findings: Findings, effect: LaneEffect, cheapest: LaneEffect) -> bool | None:
    """Whether the two modes were told apart in this cell; None where that cannot be said."""
    for pair in findings.pairs:
        if pair.cell == effect.cell and {pair.ours, pair.theirs} == {effect.lane, cheapest.lane}:
            return pair.resolvable
    return None
