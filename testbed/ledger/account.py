"""The account: from what was recorded in the guest to rows that add up to the measured total.

Pure; owns which row an instruction stands in. A connection's total is everything that the one CPU executed
between two connections of a block. Each process's share of it is the kernel's own account of that process.
What a process spent in listed functions of the kernel, by the traced pass, stands in the row of their phase,
and the rest in its own row; what no account holds is unaccounted for, and is shown.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from testbed.analysis.statistics import Interval, interval
from testbed.errors import BadResults
from testbed.ledger.calltree import Excerpt, connections, durations, read_graph, requests
from testbed.ledger.phases import PHASES, phase_of
from testbed.ledger.tracing import PROBED, Overhead

CLIENT, BACKEND, PROXY, OTHER = "client", "backend", "proxy process", "other processes of the lane"
PROCESSES = (CLIENT, BACKEND, PROXY, OTHER)
KERNEL = "kernel, not told apart"
UNACCOUNTED = "unaccounted for"
_ORDER = ("direct", "userspace", "iptables", "ipvs", "nftables")
"""In which people list the modes."""


ReadTrace = Callable[[str], Iterable[str]]


@dataclass(frozen=True)
class Column:
    """One lane under one kind of traffic: instructions a connection, or a request, by row.

    The rows add up to `total`. `calls` is how many traced calls a connection makes; `check` is the traced
    block's total with the tracer's own instructions taken off, None without a trace.
    """

    lane: str
    traffic: str
    requests: int
    total: Interval
    first_byte: Interval
    rows: Mapping[str, float]
    calls: float = 0.0
    check: float | None = None
    unread: int = 0


@dataclass(frozen=True)
class Unit:
    """What one more of something costs, in instructions, with its 95 % interval."""

    what: str
    cost: Interval


@dataclass(frozen=True)
class Ledger:
    """Everything that the tables show."""

    facts: Mapping[str, Any]
    columns: tuple[Column, ...]
    units: tuple[Unit, ...]
    overhead: Overhead | None

    @property
    def traffics(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(column.traffic for column in self.columns))

    def of(self, traffic: str) -> tuple[Column, ...]:
        return tuple(column for column in self.columns if column.traffic == traffic)


def draw_up(facts: Mapping[str, Any], read_trace: ReadTrace) -> Ledger:
    """Account for what ledger.json holds. Raises BadResults when that is nothing."""
    if not facts.get("blocks"):
        raise BadResults("the ledger holds no blocks: its run was stopped before it had measured any")
    overhead = _overhead(facts, read_trace)
    traces = {(one["lane"], one["traffic"]): one for one in facts.get("traced", ())}
    columns = []
    for (traffic, lane), blocks in _by_lane(facts["blocks"]).items():
        traced = traces.get((lane, traffic))
        excerpt = None
        if traced is not None and overhead is not None:
            cut = connections if traffic == "new-connection" else requests
            excerpt = cut(read_trace(traced["trace"]), traced["threads"][CLIENT][0])
        columns.append(_column(lane, traffic, blocks, traced, excerpt, overhead))
    columns.sort(key=lambda column: _ORDER.index(column.lane) if column.lane in _ORDER else len(_ORDER))
    return Ledger(facts, tuple(columns), tuple(_units(facts)), overhead)


def trace_reader(directory: Path) -> ReadTrace:
    """Reads the traces beside a ledger.json."""

    def read(name: str) -> Iterable[str]:
        with (directory / name).open(encoding="utf-8", errors="replace") as lines:
            yield from lines

    return read


def _overhead(facts: Mapping[str, Any], read_trace: ReadTrace) -> Overhead | None:
    if "calibration" not in facts:
        return None
    seen = durations(read_trace(facts["calibration"]["trace"]), PROBED)
    # The system call itself is some fifty instructions, which are taken for the tracer's here.
    return Overhead(facts["calibration"]["per_call"], float(np.median(seen)) if seen else 0.0)


def _column(
    lane: str,
    traffic: str,
    blocks: Sequence[Mapping[str, Any]],
    traced: Mapping[str, Any] | None,
    excerpt: Excerpt | None,
    overhead: Overhead | None,
) -> Column:
    total = _per_request(blocks, lambda block: block["window_ns"])
    rows = {name: _per_request(blocks, partial(_used, name)).value for name in PROCESSES}
    calls, check, unread = 0.0, None, 0
    if excerpt is not None and excerpt.requests and traced is not None and overhead is not None:
        spent = read_graph(excerpt.lines, overhead)
        for name, threads in traced["threads"].items():
            rows[_kind(name)] -= sum(map(spent.within, threads)) / excerpt.requests
        for (_, function), own in spent.own.items():
            phase = phase_of(function) or KERNEL
            rows[phase] = rows.get(phase, 0.0) + own / excerpt.requests
        calls = spent.calls.total() / excerpt.requests
        check = excerpt.window / excerpt.requests - calls * overhead.per_call
        unread = spent.unread
    order = (*PROCESSES, *PHASES, KERNEL)
    ordered = {name: rows[name] for name in order if rows.get(name)}
    ordered[UNACCOUNTED] = total.value - sum(ordered.values())
    return Column(
        lane=lane,
        traffic=traffic,
        requests=sum(block["requests"] for block in blocks),
        total=total,
        first_byte=interval([_first_byte(block) for block in blocks]),
        rows=ordered,
        calls=calls,
        check=check,
        unread=unread,
    )


def _kind(process: str) -> str:
    if process.startswith("proxy of "):
        return PROXY
    return process if process in (CLIENT, BACKEND) else OTHER


def _used(kind: str, block: Mapping[str, Any]) -> float:
    if kind == CLIENT:
        return float(block["client_ns"])
    return float(sum(used for name, used in block["used_ns"].items() if _kind(name) == kind))


def _per_request(
    blocks: Sequence[Mapping[str, Any]], value: Callable[[Mapping[str, Any]], float]
) -> Interval:
    return interval([value(block) / block["requests"] for block in blocks])


def _by_lane(blocks: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    """Blocks that went well, by traffic and lane, in the order in which they came up first."""
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for block in blocks:
        if block["requests"] and not block["errors"]:
            found[block["traffic"], block["lane"]].append(block)
    return found


def _first_byte(block: Mapping[str, Any]) -> float:
    return float(np.mean([target["first_byte_p50_ns"] for target in block["targets"] if target["requests"]]))


def _units(facts: Mapping[str, Any]) -> Iterable[Unit]:
    ruled = [block for block in facts.get("rules", ()) if len(block["positions"]) > 1 and block["requests"]]
    if ruled:
        last = max(ruled[0]["positions"])
        what = f"one more Service before it in iptables' rules, of {last:,}: a connection"
        yield Unit(what, interval([_slope(block) for block in ruled]))
    for traffic, blocks in _hops(facts.get("hops", ())).items():
        thing = "a connection" if traffic == "new-connection" else "a request"
        yield Unit(f"an endpoint on another node: {thing}", interval([_hop(block) for block in blocks]))
    if echoes := facts.get("echoes"):
        sizes = sorted(map(int, echoes))
        for small, large in pairwise(sizes):
            more = (np.asarray(echoes[str(large)]) - np.asarray(echoes[str(small)])) / (large - small)
            yield Unit(f"a byte sent and echoed, from {small:,} to {large:,} bytes", interval(more))


def _slope(block: Mapping[str, Any]) -> float:
    """Between the first and the last Service in the order of rules."""
    times: dict[int, int] = {
        place: target["first_byte_p50_ns"]
        for place, target in zip(block["positions"], block["targets"], strict=True)
        if target["requests"]
    }
    first, last = min(times), max(times)
    return (times[last] - times[first]) / max(last - first, 1)


def _hops(blocks: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for block in blocks:
        if len(set(block["local"])) == 2 and all(target["requests"] for target in block["targets"]):
            found[block["traffic"]].append(block)
    return found


def _hop(block: Mapping[str, Any]) -> float:
    times = [target["first_byte_p50_ns"] for target in block["targets"]]
    near = [time for time, local in zip(times, block["local"], strict=True) if local]
    far = [time for time, local in zip(times, block["local"], strict=True) if not local]
    return float(np.mean(far) - np.mean(near))
