"""The records of a run and the files they live in.

Owns the names and meanings of the fields; `writer` writes them, `run` reads them. Times are integers in
nanoseconds and end in `_ns`. Must not know how a record came about.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

VERSION = 1
"""Version of the format; readers refuse a newer one."""

RUN_FILE = "run.json"
BLOCKS_FILE = "blocks.jsonl"
LANES_FILE = "lanes.jsonl"
BALANCE_FILE = "balance.jsonl"
SAMPLES_FILE = "samples.bin"
NOISE_FILE = "noise.csv"

SAMPLES_LIMIT_BYTES = 64 * 1024 * 1024
"""Raw samples beyond this are not kept; the blocks' own summaries always are."""

OK = "ok"
REJECTED = "rejected"
FAILED = "failed"


class Record:
    """A line of JSON with named fields; unknown fields of a later minor version are passed over."""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        known = {entry.name for entry in dataclasses.fields(cls)}  # type: ignore[arg-type]
        return cls(**{name: entry for name, entry in value.items() if name in known})

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass(frozen=True)
class CellKey:
    """One combination of a sweep's factors; `kernel` is a release where several kernels were booted."""

    services: int
    endpoints: int
    traffic: str
    connections: int
    kernel: str = ""

    def __str__(self) -> str:
        parts = [
            f"{self.services:,} Service{'s' if self.services != 1 else ''}",
            f"{self.endpoints} endpoint{'s' if self.endpoints != 1 else ''}",
            self.traffic,
        ]
        if self.connections != 1:
            parts.append(f"{self.connections} users")
        if self.kernel:
            parts.append(f"Linux {self.kernel}")
        return ", ".join(parts)


@dataclass(frozen=True)
class BlockRecord(Record):
    """One turn of one lane.

    `status` is "ok", "rejected" (disturbed: measured again, `reason` says why) or "failed" (a process died;
    `reason` holds the evidence). A `warmup` block is never analysed. `positions` are the places of the
    measured Services in the order of creation, counted from 1, one for each target; empty for the direct
    lane, whose targets are the endpoints themselves. `position_requests`, `position_first_byte_ns` and
    `position_connect_ns` are the counts and medians by target. `attempt` counts from 1.

    Times are readings of the run's clock: by the instruction clock, 1 ns is one executed instruction.
    `idle_ns` (of `started_ns` .. `ended_ns`) was spent with nothing to run, and `timer_interrupts` hit the
    block; None where the kernel does not tell.

    `proxy_cpu_ns` and `proxy_switches` belong to the lane's proxy process on the client's node,
    `system_cpu_ns` to the whole kernel (its own ticks: coarse), by kind. `company` is "" where all lanes
    stood side by side, or the name of the one lane that stood beside a direct lane of its own.
    """

    id: int
    lane: str
    mode: str
    services: int
    endpoints: int
    traffic: str
    connections: int
    round: int
    attempt: int
    status: str
    reason: str = ""
    warmup: bool = False
    company: str = ""
    unix_ns: int = 0
    started_ns: int = 0
    ended_ns: int = 0
    requests: int = 0
    errors: Mapping[str, int] = field(default_factory=dict)
    connect_p50_ns: int = 0
    connect_p99_ns: int = 0
    first_byte_p50_ns: int = 0
    first_byte_p90_ns: int = 0
    first_byte_p99_ns: int = 0
    positions: tuple[int, ...] = ()
    position_requests: tuple[int, ...] = ()
    position_connect_ns: tuple[int, ...] = ()
    position_first_byte_ns: tuple[int, ...] = ()
    endpoint_requests: Mapping[str, int] = field(default_factory=dict)
    client_cpu_ns: int = 0
    proxy_cpu_ns: int | None = None
    proxy_switches: int | None = None
    system_cpu_ns: Mapping[str, int] = field(default_factory=dict)
    syn_retransmits: int = 0
    conntrack_drops: int | None = None
    samples: int = 0
    kernel: str = ""
    idle_ns: int | None = None
    timer_interrupts: int | None = None

    @property
    def cell(self) -> CellKey:
        return CellKey(self.services, self.endpoints, self.traffic, self.connections, self.kernel)

    @property
    def counts(self) -> bool:
        """Whether analysis may use it."""
        return self.status == OK and not self.warmup


@dataclass(frozen=True)
class LaneRecord(Record):
    """One event of a lane's control plane.

    `event` is "start" (proxies started anew with so many Services in the API), "change" (one Service added to
    running proxies) or "died". `to_traffic_ns` runs from the start, or from the addition, to the first answer
    of the last Service in the order of creation, asked from the client pod; that Service is always a new one.
    `load_ns` is what the control plane took for the new Services before a start. `start` is "fork", "exec" or
    "" (direct). `metrics` holds the proxy's own figures afterwards, under kube-proxy's metric names.
    """

    lane: str
    mode: str
    event: str
    services: int
    endpoints: int
    unix_ns: int
    start: str = ""
    load_ns: int | None = None
    to_traffic_ns: int | None = None
    sync_ns: int | None = None
    rules: int | None = None
    rules_written: int | None = None
    rss_bytes: int | None = None
    proxy_cpu_ns: int | None = None
    company: str = ""
    reason: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    kernel: str = ""


@dataclass(frozen=True)
class BalanceRecord(Record):
    """How `requests` new connections to one Service were spread over its endpoints.

    `sequence` lists the endpoints' names in the order in which they answered.
    """

    lane: str
    mode: str
    scheduler: str
    services: int
    endpoints: int
    unix_ns: int
    requests: int = 0
    endpoint_requests: Mapping[str, int] = field(default_factory=dict)
    sequence: tuple[str, ...] = ()
    errors: Mapping[str, int] = field(default_factory=dict)
    status: str = OK
    reason: str = ""
    kernel: str = ""
